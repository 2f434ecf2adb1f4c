"""What a setting of DPD is worth, told without the test split: how the choices in docs/dpd.md were made.

    python experiments/dpd/choices.py --data-root DATA --dataset eurosat --set captioner=template --set consistency=0.1

Distils with these settings on top of a preset, trains a student on the images, and tests it on images of the training
split that are no prototypes (at most 4000, evenly spaced). Prints one JSON line.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import torch

from ddbench.datasets.info import DataPaths
from ddbench.runner import plan as planning
from ddbench.runner import run
from ddbench.runner.evaluation import bars
from ddbench.store import distilled_set
from ddbench.types import ImageSet
from evaluators.accuracy import evaluate
from evaluators.train import train_student

SIZE, IPC, MOST = 64, 10, 4000


def distil(preset: str, dataset: str, sets: tuple[str, ...], setting: planning.Setting) -> tuple[Path, ImageSet]:
    """The folder of the distilled set, made when it is missing, and the training split."""
    request = planning.Request("dpd", dataset, (IPC,), SIZE, preset, None, sets)
    plan = planning.plan(request, planning.jury((), "quick", 1), setting.data_paths)
    run.run(plan, setting)
    return plan.specs[0].folder(setting.runs) / "distilled", plan.source.load(setting.data_paths, SIZE).train


def others(train: ImageSet, pictures: distilled_set.Pictures) -> torch.Tensor:
    """Rows of training images that are no prototypes."""
    used = torch.tensor([p["row"] for p in pictures.extras["prototypes"]])
    rows = torch.arange(len(train.labels))
    rows = rows[~torch.isin(rows, used)]
    return rows[torch.linspace(0, len(rows) - 1, min(MOST, len(rows))).long()]


def accuracy(pictures: distilled_set.Pictures, train: ImageSet, student: str) -> float:
    """Overall accuracy of one student on `others`."""
    images = torch.from_numpy(pictures.images).permute(0, 3, 1, 2).contiguous()
    shared = {"num_classes": len(train.classes), "device": "cpu"}
    how = {"student": student, "protocol": "quick", "seed": 0, "progress": bars(False)}
    net = train_student(images, torch.from_numpy(pictures.labels), **how, **shared)
    rows = others(train, pictures)
    return evaluate(net, train.images[rows], train.labels[rows], **shared).overall


@click.command(help=__doc__)
@click.option("--data-root", type=click.Path(path_type=Path), envvar="DDBENCH_DATA", required=True)
@click.option("--shared", type=click.Path(path_type=Path), envvar="DDBENCH_SHARED", default=Path("shared"))
@click.option("--runs", type=click.Path(path_type=Path), envvar="DDBENCH_RUNS", default=Path("runs"))
@click.option("--dataset", required=True)
@click.option("--preset", default="tiny-paper", show_default=True)
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE")
@click.option("--student", default="convnet", show_default=True)
def main(data_root: Path, shared: Path, runs: Path, dataset: str, preset: str, sets: tuple, student: str) -> None:  # noqa: PLR0913
    folder, train = distil(preset, dataset, sets, planning.Setting(runs, DataPaths(data_root, shared)))
    found = accuracy(distilled_set.read(folder), train, student)
    print(json.dumps({"dataset": dataset, "preset": preset, "set": sets, "student": student, "overall": found}))


if __name__ == "__main__":
    main()
