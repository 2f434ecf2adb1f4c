"""Choose soft@1's temperature, CutMix and length on held-back training images, never on the test split.

    python experiments/rows/soft.py STUDENT... --data-root DATA [--shared shared] [--only ROW]
    python experiments/rows/soft.py                                # print the measurements

Teacher and held-back images are those of real.py on EuroSAT (TEACHER is its row; measure it first). Trains each student
by every row of ROWS on ten of the teacher's images per class (IPC 10). Adds the measurements to soft.jsonl beside this
file. (A teacher of 300 images per class and 600 steps, with 72.9 % on the held-back images, was too weak: in each
row that was tried, its labels were worse than hard ones.)
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
from held import Figures, parts, training_split, tried
from real import SPLITS, trained

from evaluators.protocols import protocol
from evaluators.recipes import Recipe
from evaluators.train import probabilities

FIGURES = Figures(Path(__file__).with_suffix(".jsonl"))
DATASET, TAUGHT_BY, TEACHER, IPC = "eurosat", "resnet18", "symmetries", 10
QUICK = protocol("quick@1")

# row -> temperature (0: hard labels and cross-entropy), probability of CutMix; trained as quick@1, long: three times
ROWS = {
    "hard, as quick@1": (0.0, 0.0),
    "T 1": (1.0, 0.0),
    "T 1, CutMix by half": (1.0, 0.5),
    "T 4": (4.0, 0.0),
    "T 4, CutMix by half": (4.0, 0.5),
    "long, hard": (0.0, 0.0),
    "long, T 4": (4.0, 0.0),
    "long, T 4, CutMix by half": (4.0, 0.5),
}


def row(name: str, student: str) -> Recipe:
    temperature, cutmix = ROWS[name]
    recipe = QUICK.recipe(student).longer(3 if "long" in name else 1)
    changes = {"label_smoothing": 0.0, "temperature": temperature} if temperature else {}
    return replace(recipe, augment=replace(recipe.augment, cutmix=cutmix), **changes)


def measure(students: tuple[str, ...], only: str, data_root: Path, shared: Path) -> None:
    train = training_split(DATASET, data_root, shared)
    fit, held = SPLITS[DATASET]
    (images, labels), rest = parts(train, (0, IPC), (fit, fit + held))
    classes = len(train.classes)
    soft = probabilities(trained(DATASET, TAUGHT_BY, classes, TEACHER, shared), images, "cpu")
    for name in [name for name in ROWS if only in ("", name)]:
        for student in [student for student in students if (name, student) not in FIGURES.found()]:
            targets = soft if ROWS[name][0] else labels
            _, overall, seconds = tried(student, row(name, student), (images, targets), rest, classes)
            FIGURES.record(name, student, overall, seconds)


@click.command(help=__doc__)
@click.argument("students", nargs=-1)
@click.option("--only", default="", help="This row and no other.")
@click.option("--data-root", type=click.Path(path_type=Path), envvar="DDBENCH_DATA")
@click.option("--shared", type=click.Path(path_type=Path), default=Path("shared"))
def main(students: tuple[str, ...], only: str, data_root: Path, shared: Path) -> None:
    if students:
        measure(students, only, data_root, shared)
    click.echo(FIGURES.table(list(ROWS)))


if __name__ == "__main__":
    main()
