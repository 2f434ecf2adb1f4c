"""`ddbench export results`."""

from __future__ import annotations

from pathlib import Path

import click

from ddbench.cli.common import GlobalOptions, report_problems


@click.group()
def export() -> None:
    """Write a runs folder to one file."""


@export.command()
@click.argument("file", metavar="FILE.jsonl[.gz]", type=click.Path(path_type=Path, dir_okay=False))
@click.pass_obj
def results(options: GlobalOptions, file: Path) -> None:
    """Write all results below --runs to FILE, with their specs and costs, and the recorded failures; no images.

    Commands that read results take the file as --runs FILE: leaderboard, report and robustness. `ddbench merge FILE`
    copies its runs into a folder. docs/results-format.md describes the format. A file below --runs that cannot be used
    is named and left out, and the exit status is 1.

    \b
    Examples:
      ddbench export results ours.jsonl.gz
      ddbench --runs ours.jsonl.gz leaderboard
    """
    from ddbench.store.results_file import export_results

    scan = export_results(options.runs, file)
    report_problems(scan.problems)
    runs = len({stored.folder for stored in scan.results})
    size = file.stat().st_size / 1e6
    click.echo(f"{file}: {len(scan.results)} results of {runs} runs, {len(scan.failed)} failures, {size:.2f} MB")
    if scan.problems:
        raise SystemExit(1)
