"""`ddbench quality`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import click

from ddbench.cli.common import (
    DATASET,
    SIZE,
    SIZE_HELP,
    UserPath,
    format_option,
    format_table,
    help_list,
)
from ddbench.runner import METRICS
from ddbench.runner.options import GlobalOptions

FEATURES = (
    "Network whose features are compared: a student trained on the real training images by PROTOCOL, or "
    "STUDENT/imagenet.  [default, as in DPD's release: inception_v3/fid@1 for fid, resnet18/imagenet for coverage]"
)


@click.command(epilog=help_list("Metrics:", METRICS))
@click.argument("folders", nargs=-1, required=True, type=UserPath(exists=True, file_okay=False))
@click.option(
    "--dataset",
    type=DATASET,
    required=True,
    metavar="NAME|folder:PATH",
    help="Dataset whose training images are compared.",
)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    type=click.Choice(tuple(METRICS)),
    default=tuple(METRICS)[:3],
    show_default=True,
    help="Metric to compute (see below); repeatable.",
)
@click.option("--features", metavar="STUDENT/PROTOCOL", help=FEATURES)
@click.option(
    "--clip",
    metavar="MODEL",
    default="flax-community/clip-rsicd-v2",
    show_default=True,
    help="CLIP model of the metric clip: a folder or a Hugging Face hub id.",
)
@click.option("--size", type=SIZE, metavar="PX", help=f"Only for a folder of images. {SIZE_HELP}")
@format_option()
@click.pass_obj
def quality(  # noqa: PLR0913
    options: GlobalOptions,
    folders: tuple[Path, ...],
    dataset: str,
    metrics: tuple[str, ...],
    features: str | None,
    clip: str,
    size: int | None,
    form: str,
) -> None:
    """Compare distilled images with the real training images.

    FOLDERS are runs (with a spec.json) or folders of images (one sub-folder per class, as for `ddbench evaluate`).
    The metrics complement accuracy and rank nothing.

    Each metric is a file in the run's quality/ folder and is computed once. If the weights for one metric are missing,
    the others are still computed. FID depends on the number of images: compare it only within one dataset and IPC.

    \b
    Examples:
      ddbench quality runs/ucm64/dpd/ipc10/seed0-1a2b3c4d --dataset ucm
      ddbench quality runs/ucm64/*/ipc10/* --dataset ucm --metric fid --metric coverage --features resnet18/quick@1
    """
    from ddbench.datasets.lookup import find_dataset
    from ddbench.runner import quality
    from ddbench.runner.measured_run import measure_runs
    from ddbench.utils.distributed import device

    source = find_dataset(dataset)
    request = quality.QualityRequest(tuple(dict.fromkeys(metrics)), features, clip)
    if "clip" in request.metrics and not all((folder / "spec.json").exists() for folder in folders):
        where = device(options.device)
        quality.load_clip(request.measured_with("clip"), where)  # before a folder of images is stored as a run
    measures = {
        metric: partial(quality.measure, metric=metric, source=request.measured_with(metric))
        for metric in request.metrics
    }
    measurements = measure_runs(options, folders, source, size, measures)
    measured = [json.loads(path.read_text()) | {"path": str(path)} for path in measurements.paths]
    if form == "json":
        click.echo(json.dumps(measured, indent=2))
    else:  # a line for each number of each run; those by class are in the files alone
        rows = [
            (str(Path(one["path"]).parents[1]), one["metric"], one["by"], name, f"{value:.4f}")
            for one in measured
            for name, value in one["values"].items()
            if isinstance(value, int | float)
        ]
        click.echo(format_table(rows, ("run", "metric", "by", "number", "value"), form))
    if measurements.report_missing("metric"):
        raise SystemExit(1)
