"""`ddbench export results` and `ddbench export images`."""

from __future__ import annotations

from pathlib import Path

import click

from ddbench.cli.common import OutputFile, UserPath
from ddbench.runner.options import GlobalOptions
from ddbench.utils.units import format_bytes


@click.group()
def export() -> None:
    """Export results to one file, or a distilled set to an image folder."""


@export.command()
@click.argument("file", metavar="FILE.jsonl[.gz]", type=OutputFile())
@click.pass_obj
def results(options: GlobalOptions, file: Path) -> None:
    """Write all results below --runs to FILE.

    FILE holds the results, their specs and costs, and the recorded failures, but no images. leaderboard, report and
    robustness read it as --runs FILE. `ddbench merge FILE` copies its runs into a folder. docs/results-format.md
    describes the format. Unusable files below --runs are named and left out; then the exit status is 1.

    \b
    Examples:
      ddbench export results ours.jsonl.gz
      ddbench --runs ours.jsonl.gz leaderboard
    """
    from ddbench.store.reader import report_problems
    from ddbench.store.results_file import export_results

    scan = export_results(options.runs, file)
    report_problems(scan.problems)
    runs = len({stored.folder for stored in scan.results})
    size = format_bytes(file.stat().st_size)
    click.echo(f"{file}: {len(scan.results)} results of {runs} runs, {len(scan.failed)} failures, {size}")
    if scan.problems:
        raise SystemExit(1)


@export.command()
@click.argument("runs", metavar="RUN", nargs=-1, required=True, type=UserPath())
@click.argument("folder", type=UserPath())
@click.pass_obj
def images(options: GlobalOptions, runs: tuple[Path, ...], folder: Path) -> None:
    """Write the distilled set of a RUN to a new FOLDER.

    FOLDER is an image folder for the library `datasets` and the Hugging Face hub: train/<class>/000.png, and README.md
    as dataset card, with method, versions, split, classes, normalisation, accuracies and licence. Soft labels and float
    images are files beside them. Where class names cannot name folders, train/metadata.jsonl has the labels.

    `ddbench evaluate FOLDER` gives the accuracy of the run.

    \b
    Examples:
      ddbench export images runs/ucm64/dpd/ipc10/seed0-1a2b3c4d ucm-dpd
      ddbench evaluate ucm-dpd --student resnet18
    """
    from ddbench.runner.image_folder import export_images

    if len(runs) > 1:  # a pattern such as seed0-*, which the shell replaces
        raise click.UsageError(f"{len(runs)} runs, of which one can be exported: {', '.join(map(str, runs))}")
    results = export_images(runs[0], folder, options.data_paths)
    size = format_bytes(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
    click.echo(f"{folder}: {size}, {len(results)} accuracies on its card, README.md")
