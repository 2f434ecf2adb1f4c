"""Measure a setting of DPD without the test split, as for the choices in docs/dpd-trials.md.

    python experiments/dpd/choices.py --data-root DATA --dataset eurosat --set captioner=template --set consistency=0.1
    python experiments/dpd/choices.py --data-root DATA --dataset ucm --method kmeans --student-seeds 3

Distils with these settings on top of a preset and trains students on the images. Tests them on images of the training
split that were neither chosen nor a prototype (at most 4000, evenly spaced). Prints one JSON line. Works for DPD and
for methods that choose real images: the manifest must name the chosen ones.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import torch

from ddbench.datasets.info import DataPaths
from ddbench.runner import plan as planning
from ddbench.runner import run
from ddbench.store import distilled_set
from ddbench.types import ImageSet
from ddbench.utils.distributed import device
from ddbench.utils.progress import progress_bars
from evaluators.accuracy import evaluate
from evaluators.train import train_student

SIZE, MOST = 64, 4000


def distil(request: planning.Request, settings: planning.ExecutionSettings) -> tuple[Path, ImageSet]:
    """The folder of the distilled set, made when it is missing, and the training split."""
    plan = planning.plan(request, planning.evaluation_setup((), "quick", 1), settings.data_paths)
    if run.run(plan, settings).failed:
        raise SystemExit(1)
    return plan.specs[0].folder(settings.runs) / "distilled", plan.source.load(settings.data_paths, SIZE).train


def others(train: ImageSet, pictures: distilled_set.Pictures) -> torch.Tensor:
    """Rows of training images that were not chosen and are no prototypes."""
    used = {p["name"] for p in pictures.extras.get("prototypes", ())} | set(pictures.extras.get("files", ()))
    if not used:
        raise click.UsageError("this method records no files: it cannot be tested on the other training images")
    rows = torch.tensor([row for row, name in enumerate(train.names) if name not in used])
    return rows[torch.linspace(0, len(rows) - 1, min(MOST, len(rows))).long()]


def accuracy(pictures: distilled_set.Pictures, train: ImageSet, student: str, seed: int) -> float:
    """Overall accuracy of one student on `others`."""
    shared = {"num_classes": len(train.classes), "device": device("auto")}
    how = {"student": student, "protocol": "quick", "seed": seed, "progress": progress_bars(False)}
    net = train_student(pictures.to_tensor(), torch.from_numpy(pictures.labels), **how, **shared)
    rows = others(train, pictures)
    return evaluate(net, train.images[rows], train.labels[rows], **shared).overall


@click.command(help=__doc__)
@click.option("--data-root", type=click.Path(path_type=Path), envvar="DDBENCH_DATA", required=True)
@click.option("--shared", type=click.Path(path_type=Path), envvar="DDBENCH_SHARED", default=Path("shared"))
@click.option("--runs", type=click.Path(path_type=Path), envvar="DDBENCH_RUNS", default=Path("runs"))
@click.option("--dataset", required=True)
@click.option("--method", default="dpd", show_default=True)
@click.option("--ipc", default=10, show_default=True)
@click.option("--preset", help="[default: tiny-paper for dpd, else none]")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE")
@click.option("--student", default="convnet", show_default=True)
@click.option("--student-seeds", default=1, show_default=True)
def main(  # noqa: PLR0913
    data_root: Path, shared: Path, runs: Path, dataset: str, method: str, ipc: int, preset: str | None,
    sets: tuple[str, ...], student: str, student_seeds: int,
) -> None:  # fmt: skip
    """Print the mean accuracy of the students, and each one's, as one JSON line."""
    preset = preset or ("tiny-paper" if method == "dpd" else None)
    request = planning.Request(method, dataset, (ipc,), SIZE, preset, None, sets)
    folder, train = distil(request, planning.ExecutionSettings(runs, DataPaths(data_root, shared)))
    distilled = distilled_set.read(folder)
    figures = [accuracy(distilled, train, student, seed) for seed in range(student_seeds)]
    row = {"method": method, "dataset": dataset, "ipc": ipc, "preset": preset, "sets": sets, "student": student}
    print(json.dumps(row | {"overall": sum(figures) / len(figures), "students": figures}))


if __name__ == "__main__":
    main()
