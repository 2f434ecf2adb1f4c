"""DM on CIFAR-10 in the published setting: accuracy over iterations, as far as the time reaches.

    python experiments/calibration/dm_curve.py --minutes 6          a GPU; four minutes of it for 20 000 iterations
    python experiments/calibration/dm_curve.py --dataset folder:images --size 32 --point 100 --point 1000

One run of DM that stops at every point, trains a student on the set and continues: what an iteration draws follows
from its number, so each set is that of a run of so many iterations. What was reached stays in --work; the same command
continues there. The last point that the time allows is lowered to what is left, and gets --students students. Prints
a JSON line for each point.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import click
import torch

import ddbench
from ddbench.config import build
from ddbench.context import Context
from ddbench.methods.dm import DM
from ddbench.methods.shared.checkpoint import PIXELS
from ddbench.protocols import load_protocol
from ddbench.types import Dataset, DistilledSet
from ddbench.utils.checkpoint import Checkpoint
from ddbench.utils.distributed import device
from ddbench.utils.provenance import describe_environment
from evaluators.accuracy import evaluate
from evaluators.normalisation import normalisation_of
from evaluators.train import train_student

POINTS = (100, 1000, 5000, 20001)


def accuracies(distilled: DistilledSet, data: Dataset, named: str, students: int, where: torch.device) -> list[float]:
    """Return the overall accuracy in % of convnets trained on the set, one of each seed."""
    rules, classes = load_protocol(named), len(data.test.classes)
    images = distilled.float_images if rules.float_images else distilled.images
    normalisation = normalisation_of(data.train.images, rules.recipe("convnet").normalise)
    on = {"num_classes": classes, "device": where}
    percentages = []
    for seed in range(students):
        model = train_student(
            images, distilled.labels, student="convnet", protocol=rules, seed=seed, normalisation=normalisation, **on
        )
        percentages.append(100 * evaluate(model, data.test.images, data.test.labels, **on).overall)
    return percentages


@click.command(help=__doc__)
@click.option("--minutes", default=6.0, show_default=True, help="Of everything, at most; about.")
@click.option("--point", "points", multiple=True, type=int, default=POINTS, show_default=True, help="Iterations.")
@click.option("--dataset", default="cifar10", show_default=True)
@click.option("--size", default=32, show_default=True)
@click.option("--ipc", default=10, show_default=True)
@click.option("--preset", default="cifar10-ipc10", show_default=True, help="Of dm.")
@click.option("--protocol", "named", default="dc-float@1", show_default=True)
@click.option("--students", default=3, show_default=True, help="At the last point; one at the others.")
@click.option("--compiled", is_flag=True, help="DM through torch.compile.")
@click.option("--work", type=click.Path(path_type=Path), default=Path("runs/dm-curve"), show_default=True)
def main(minutes, points, dataset, size, ipc, preset, named, students, compiled, work) -> None:  # noqa: PLR0913
    end, where = time.monotonic() + 60 * minutes, device("auto")
    data = ddbench.load_dataset(dataset, size=size)
    work.mkdir(parents=True, exist_ok=True)
    print(json.dumps(describe_environment(where) | {"train": len(data.train.images), "test": len(data.test.images)}))
    method = replace(build(DM, preset), compiled=compiled)
    ctx = Context(0, where, work, work, f"{dataset}-{size}", quiet=True)
    done = Checkpoint(work / PIXELS).load()[1].step
    rate, student_seconds = None, 20.0  # iterations per second, and seconds of a student, until they are measured
    for point in sorted(set(points)):
        left = end - time.monotonic() - students * student_seconds
        goal = point if rate is None else min(point, done + int(left * rate))
        if goal <= done or left <= 0:
            continue
        last = goal < point or point == max(points)
        start = time.monotonic()
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            distilled = replace(method, iterations=goal).distill(data.train, ipc, ctx)
        seconds, rate = time.monotonic() - start, (goal - done) / (time.monotonic() - start)
        row = {"iterations": goal, "seconds": seconds, "ms": 1000 / rate, "loss": distilled.extras["loss"]}
        done, start = goal, time.monotonic()
        percentages = accuracies(distilled, data, named, students if last else 1, where)
        student_seconds = (time.monotonic() - start) / len(percentages)
        print(json.dumps(row | {"accuracy": percentages, "student_seconds": student_seconds}), flush=True)
        if last:
            break


if __name__ == "__main__":
    main()
