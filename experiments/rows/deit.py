"""Measure DeiT's recipe for vit_tiny on held-back training images, never on a test split.

    python experiments/rows/deit.py --row NAME... --data-root DATA [--shared shared]
    python experiments/rows/deit.py                               # print the measurements

Trains vit_tiny on ten images per class of UC Merced's training split (IPC 10) at 64 px, and tests it on the split's
other 840 images, as quick.py does. Adds the measurements to deit.jsonl beside this file.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
from held import Figures, parts, training_split, tried

from evaluators.protocols import DEIT_1, LONG_1

FIGURES = Figures(Path(__file__).with_suffix(".jsonl"))
IPC, PER_CLASS = 10, 50
STUDENT = "vit_tiny"
LONG = LONG_1.recipe(STUDENT)
DEIT = DEIT_1.recipe(STUDENT)  # crops of long@1, mixing half
MIXED = replace(DEIT.augment, cutmix=0.5, mixup=0.5)
WHOLE = replace(MIXED, crop_area=(0.08, 1.0), crop_ratio=(3 / 4, 4 / 3), crop_tries=10)

ROWS = {
    "long@1": LONG,
    "deit, whole": replace(DEIT, augment=WHOLE),
    "deit, crops of long@1": replace(DEIT, augment=MIXED),
    "deit, crops of long@1, mixing half": DEIT,
    "deit, crops of long@1, no mixing": replace(DEIT, augment=replace(MIXED, cutmix=0.0, mixup=0.0)),
    "deit, crops of long@1, three times as long": replace(DEIT.longer(3), augment=MIXED),
}


@click.command(help=__doc__)
@click.option("--row", "rows", multiple=True, type=click.Choice(list(ROWS)), help="Which, in this order.")
@click.option("--data-root", type=click.Path(path_type=Path), envvar="DDBENCH_DATA")
@click.option("--shared", type=click.Path(path_type=Path), default=Path("shared"))
def main(rows: tuple[str, ...], data_root: Path, shared: Path) -> None:
    for row in [row for row in rows if (row, STUDENT) not in FIGURES.found()]:
        train = training_split("ucm", data_root, shared)
        fit, held = parts(train, (0, IPC), (IPC, PER_CLASS))
        _, overall, seconds = tried(STUDENT, ROWS[row], fit, held, len(train.classes))
        FIGURES.record(row, STUDENT, overall, seconds)
    click.echo(FIGURES.table(list(ROWS)))


if __name__ == "__main__":
    main()
