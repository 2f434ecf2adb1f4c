"""`ddbench audit`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import click

from ddbench.cli.common import DATASET, SIZE, SIZE_HELP, UserPath, format_option, format_table, text_table
from ddbench.runner import EMBEDDINGS
from ddbench.runner.options import GlobalOptions


@click.command()
@click.argument("folders", nargs=-1, required=True, type=UserPath(exists=True, file_okay=False))
@click.option(
    "--dataset", type=DATASET, required=True, metavar="NAME|folder:PATH", help="Dataset whose images are looked for."
)
@click.option(
    "--features",
    multiple=True,
    metavar="pixels|STUDENT/PROTOCOL",
    default=EMBEDDINGS,
    show_default=True,
    help="Embedding in which images are compared; repeatable: pixels, a student trained on the real training images by "
    "PROTOCOL, or STUDENT/imagenet.",
)
@click.option("--ssim", is_flag=True, help="Also measure NN-SSIM, as `ddbench quality` does. It takes minutes.")
@click.option("--size", type=SIZE, metavar="PX", help=f"Only for a folder of images. {SIZE_HELP}")
@format_option()
@click.pass_obj
def audit(  # noqa: PLR0913
    options: GlobalOptions,
    folders: tuple[Path, ...],
    dataset: str,
    features: tuple[str, ...],
    ssim: bool,
    size: int | None,
    form: str,
) -> None:
    """Measure whether distilled images give their training images away.

    FOLDERS are runs (with a spec.json) or folders of images (one sub-folder per class, as for `ddbench evaluate`).

    Two attacks compare real images with the set. The first asks which training images the method used; only a run
    whose manifest names them has it. The second asks which images were in the training split. Controls of known answer
    are part of every audit: where one fails, its attack has no finding. An attack that fails proves nothing:
    docs/audit.md says what is measured and what is not.

    Each embedding gives a file and a sheet of the closest pairs in the run's audit/ folder, made once.

    \b
    Examples:
      ddbench audit runs/ucm64/dm/ipc10/seed0-1a2b3c4d --dataset ucm
      ddbench audit runs/ucm64/*/ipc10/* --dataset ucm --features pixels --features resnet18/imagenet
    """
    from ddbench.datasets.lookup import find_dataset
    from ddbench.report.audits import HEADS, audit_lines
    from ddbench.runner import quality
    from ddbench.runner.audit import audit as audit_run
    from ddbench.runner.embedding import embedding_title
    from ddbench.runner.measured_run import LARGE, measure_runs
    from ddbench.store.audits import read_audit

    source, titles = find_dataset(dataset), dict.fromkeys(map(embedding_title, features))
    measures = {title: partial(audit_run, source=title) for title in titles}
    if ssim:
        measures["ssim"] = partial(quality.measure, metric="ssim", source=str(LARGE))
    measurements = measure_runs(options, folders, source, size, measures)
    paths = [path for path in measurements.paths if path.parent.name == "audit"]
    if form == "json":
        click.echo(json.dumps([json.loads(path.read_text()) | {"path": str(path)} for path in paths], indent=2))
    else:
        rows: list[tuple[str, ...]] = []
        for path in paths:
            run, record = path.parents[1], read_audit(path)
            lines = audit_lines(run, record)
            if form == "text":  # a table for each, below its run
                click.echo(f"{run} by {record.by}\n\n{text_table(lines, HEADS)}\n\npairs: {path.with_suffix('.png')}\n")
            rows += [(str(run), record.by, *line) for line in lines]
        if form != "text":
            click.echo(format_table(rows, ("run", "by", *HEADS), form))
    if measurements.report_missing("embedding"):
        raise SystemExit(1)
