"""Choose real-large@1's augmentation on held-back training images, never on a test split.

    python experiments/rows/real.py eurosat resnet18 --data-root DATA [--shared shared] [--only ROW]
    python experiments/rows/real.py                                # print the measurements

Trains a student by real@1 with the augmentation of each of ROWS, on images of the training split at 64 px (SPLITS: how
many per class), and tests it on others. Adds the measurements to real.jsonl beside this file. The networks stay in
SHARED/experiments-rows; one is the teacher of soft.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
from held import SIZE, Figures, parts, training_split, tried
from safetensors.torch import load_file, save_file
from torch import nn

from evaluators.protocols import protocol
from evaluators.students import build

FIGURES = Figures(Path(__file__).with_suffix(".jsonl"))
REAL = protocol("real@1")
SYMMETRIES = protocol("real-large@1").recipe("resnet18").augment
SPLITS = {"eurosat": (1000, 300), "ucm": (40, 10)}  # images of each class: to train on, held back

ROWS = {
    "real@1": REAL.recipe("resnet18").augment,
    "symmetries": SYMMETRIES,
    "symmetries, crops of 0.8": replace(SYMMETRIES, crop_area=(0.8, 1.0), crop_ratio=(0.9, 1.1)),
}


def weights(column: str, row: str, shared: Path) -> Path:
    return shared / "experiments-rows" / f"{column} {row}.safetensors"


def trained(dataset: str, student: str, classes: int, row: str, shared: Path) -> nn.Module:
    """The network that `measure` left."""
    model = build(student, SIZE, classes, 0)
    model.load_state_dict(load_file(weights(f"{dataset} {student}", row, shared)))
    return model


def measure(dataset: str, student: str, row: str, data_root: Path, shared: Path) -> None:
    train = training_split(dataset, data_root, shared)
    fit, held = SPLITS[dataset]
    images, rest = parts(train, (0, fit), (fit, fit + held))
    recipe, path = replace(REAL.recipe(student), augment=ROWS[row]), weights(f"{dataset} {student}", row, shared)
    model, overall, seconds = tried(student, recipe, images, rest, len(train.classes))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: part.contiguous() for name, part in model.state_dict().items()}, path)
    FIGURES.record(row, f"{dataset} {student}", overall, seconds)


@click.command(help=__doc__)
@click.argument("dataset", required=False, type=click.Choice(list(SPLITS)))
@click.argument("students", nargs=-1)
@click.option("--only", default="", help="This row and no other.")
@click.option("--data-root", type=click.Path(path_type=Path), envvar="DDBENCH_DATA")
@click.option("--shared", type=click.Path(path_type=Path), default=Path("shared"))
def main(dataset: str, students: tuple[str, ...], only: str, data_root: Path, shared: Path) -> None:
    for row in [row for row in ROWS if only in ("", row)]:
        for student in [s for s in students if (row, f"{dataset} {s}") not in FIGURES.found()]:
            measure(dataset, student, row, data_root, shared)
    click.echo(FIGURES.table(list(ROWS)))


if __name__ == "__main__":
    main()
