"""`ddbench quality`."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ddbench.cli.common import (
    DATASET,
    SIZE,
    SIZE_HELP,
    UserPath,
    format_option,
    format_table,
    help_list,
    log,
)
from ddbench.errors import UserError
from ddbench.runner import METRICS
from ddbench.runner.options import GlobalOptions

if TYPE_CHECKING:
    from ddbench.datasets.lookup import Source
    from ddbench.runner.quality import MeasuredRun, QualityRequest
    from ddbench.store.records import RunSpec

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
    from ddbench.runner.teacher import TeacherError
    from ddbench.utils.distributed import device

    source, where = find_dataset(dataset), device(options.device)
    request = quality.QualityRequest(tuple(dict.fromkeys(metrics)), features, clip)
    loader = cache(lambda pixels: source.load(options.data_paths, pixels))
    paths: list[Path] = []
    unavailable: dict[str, UserError] = {}
    skipped = 0
    if "clip" in request.metrics and not all((folder / "spec.json").exists() for folder in folders):
        quality.load_clip(request.measured_with("clip"), where)  # before a folder of images is stored as a run
    for folder in folders:
        try:
            run, spec = _find_run(options, folder, source, size)
            paths += _measure_all(quality.MeasuredRun(run, spec, loader, where, options.settings), request, unavailable)
        except (ValueError, ArithmeticError, TeacherError) as error:
            # an edited or incomplete run must not stop the others
            log.error("skipped %s: %s", folder, error)
            skipped += 1
    if unavailable and not paths:
        raise next(iter(unavailable.values()))
    measured = [json.loads(path.read_text()) | {"path": str(path)} for path in paths]
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
    for metric, reason in unavailable.items():
        log.error("metric %s not computed: %s", metric, reason)
    if skipped or unavailable:
        raise SystemExit(1)


def _measure_all(run: MeasuredRun, request: QualityRequest, unavailable: dict[str, UserError]) -> list[Path]:
    """Compute the metrics that are not in `unavailable`; return their files. Add metrics without weights to it."""
    from ddbench.runner.quality import measure

    paths = []
    for metric in [metric for metric in request.metrics if metric not in unavailable]:
        try:
            paths.append(measure(run, metric, request.measured_with(metric)))
        except UserError as error:
            unavailable[metric] = error
    return paths


def _find_run(options: GlobalOptions, folder: Path, source: Source, size: int | None) -> tuple[Path, RunSpec]:
    """Return the run at a folder and its spec. A folder of images becomes a run first."""
    from ddbench.datasets.name import display_name
    from ddbench.runner.external import plan_external
    from ddbench.runner.plan import evaluation_setup
    from ddbench.runner.run import run as run_plan
    from ddbench.store.records import read_spec

    if not (folder / "spec.json").exists():
        plan = plan_external(folder, source, size, evaluation_setup((), "quick", 1), options.data_paths)
        counts = run_plan(plan, options.settings)
        if counts and counts.failed:
            raise UserError(f"{folder} could not be stored as a run; the reason is printed above")
        return plan.specs[0].folder(options.runs), plan.specs[0]
    spec, split = read_spec(folder / "spec.json"), source.describe(options.data_paths)
    if (spec.dataset, spec.fingerprint) != (display_name(source.name), split.fingerprint):
        raise ValueError(f"its dataset is {spec.dataset}, split {spec.fingerprint[:8]}; "
                         f"--dataset is {display_name(source.name)}, split {split.fingerprint[:8]}")  # fmt: skip
    if not (folder / "distilled").is_dir():
        raise ValueError("it has no distilled set yet: repeat its `ddbench run` command")
    return folder, spec
