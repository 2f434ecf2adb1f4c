"""Measure protocol rows for quick@1's larger students on held-back training images, never on a test split.

    python experiments/rows/quick.py STUDENT... --row NAME... --data-root DATA [--shared shared]
    python experiments/rows/quick.py                               # print the measurements

Trains each student by several rows on ten images per class of UC Merced's training split (IPC 10), and tests it on the
split's other 840 images. 64 px; inception_v3 needs 128 px. Adds the measurements to quick.jsonl beside this file.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
from held import SIZE, Figures, parts, training_split, tried

from evaluators.protocols import QUICK_1

FIGURES = Figures(Path(__file__).with_suffix(".jsonl"))
CONVNET, CNN, VIT = (QUICK_1.recipe(student) for student in ("convnet", "resnet18", "vit_tiny"))
IPC, PER_CLASS = 10, 50

ROWS = {
    "as resnet18": CNN,
    "as resnet18, rate 2e-3": replace(CNN, lr=2e-3),
    "as resnet18, rate 5e-4": replace(CNN, lr=5e-4),
    "as resnet18, rate 2e-4, clip 1": replace(CNN, lr=2e-4, clip=1.0),
    "as resnet18, rate 1e-4, clip 1": replace(CNN, lr=1e-4, clip=1.0),
    "as resnet18, rate 5e-4, clip 1": replace(CNN, lr=5e-4, clip=1.0),
    "as convnet": CONVNET,
    "as convnet, five times as long": CONVNET.longer(5),
    "as resnet18, five times as long": CNN.longer(5),
    "as resnet18, rate 2e-3, five times as long": replace(CNN.longer(5), lr=2e-3),
    "as resnet18, rate 2e-4, clip 1, five times as long": replace(CNN.longer(5), lr=2e-4, clip=1.0),
    "as vit_tiny, five times as long": VIT.longer(5),
    "as resnet18, rate 5e-3": replace(CNN, lr=5e-3),
    "as vit_tiny": VIT,
    "as vit_tiny, rate 2.5e-4": replace(VIT, lr=2.5e-4),
    "as vit_tiny, rate 1e-3": replace(VIT, lr=1e-3),
}
LARGER = {"inception_v3": 128}


def measure(row: str, student: str, data_root: Path, shared: Path) -> None:
    train = training_split("ucm", data_root, shared, LARGER.get(student, SIZE))
    fit, held = parts(train, (0, IPC), (IPC, PER_CLASS))
    _, overall, seconds = tried(student, ROWS[row], fit, held, len(train.classes))
    FIGURES.record(row, student, overall, seconds)


@click.command(help=__doc__)
@click.argument("students", nargs=-1)
@click.option("--row", "rows", multiple=True, type=click.Choice(list(ROWS)), help="Which, in this order.")
@click.option("--data-root", type=click.Path(path_type=Path), envvar="DDBENCH_DATA")
@click.option("--shared", type=click.Path(path_type=Path), default=Path("shared"))
def main(students: tuple[str, ...], rows: tuple[str, ...], data_root: Path, shared: Path) -> None:
    for row in rows:
        for student in [student for student in students if (row, student) not in FIGURES.found()]:
            measure(row, student, data_root, shared)
    click.echo(FIGURES.table(list(ROWS)))


if __name__ == "__main__":
    main()
