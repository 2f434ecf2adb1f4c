"""What soft@1's temperature, CutMix and length were chosen by: held-back training images, never the test split.

    python experiments/soft/choices.py --data-root DATA [--shared shared] STUDENT... [--only TEXT]
    python experiments/soft/choices.py --table

Of EuroSAT's training split at 64 px, 1000 images of each class train a teacher (resnet18 by real@1), 300 others are
held back, and 10 of the teacher's (IPC 10) train each student by every row of ROWS. What was measured is added to
choices.jsonl beside this file, and is not measured again. (A teacher of 300 images per class and 600 steps, 72.9 % on
the held-back images, was too weak to choose by: its labels were worse than hard ones in each row that was tried.)
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import click
import torch
from safetensors.torch import load_file, save_file
from tabulate import tabulate
from torch import Tensor
from tqdm import tqdm

from ddbench.datasets.facts import Place
from ddbench.registry import load
from evaluators.accuracy import evaluate
from evaluators.protocols import protocol
from evaluators.recipes import Protocol
from evaluators.students import build
from evaluators.train import probabilities, train_student

FIGURES = Path(__file__).with_suffix(".jsonl")
SIZE, CLASSES, TAUGHT, HELD, IPC = 64, 10, 1000, 300, 10
QUICK = protocol("quick@1")

# row -> temperature (0: hard labels and cross-entropy), probability of CutMix; trained as quick@1, but see LONG
ROWS = {
    "hard, as quick@1": (0.0, 0.0),
    "T 1, CutMix": (1.0, 1.0),
    "T 4, CutMix": (4.0, 1.0),
    "T 4": (4.0, 0.0),
    "T 1": (1.0, 0.0),
    "hard, CutMix": (0.0, 1.0),
    "T 4, CutMix by half": (4.0, 0.5),
    "long, T 20, CutMix": (20.0, 1.0),
    "long, T 4, CutMix": (4.0, 1.0),
    "long, T 20": (20.0, 0.0),
    "long, hard": (0.0, 0.0),
}
# RDED's numbers: 300 passes in batches of 50, AdamW with a decay of 0.01
LONG = {"lr": 1e-3, "weight_decay": 0.01, "batch": 50, "epochs": 300, "min_steps": 1, "max_steps": 0, "warmup": 0.0}


def row(name: str, student: str) -> Protocol:
    temperature, cutmix = ROWS[name]
    recipe = QUICK.recipe(student)
    changes = dict(LONG) if name.startswith("long") else {}
    changes |= {"label_smoothing": 0.0, "temperature": temperature} if temperature else {}
    changed = replace(recipe, augment=replace(recipe.augment, cutmix=cutmix), **changes)
    return Protocol(name, 1, {student: changed}, source="experiments/soft")


def parts(data_root: Path, shared: Path) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(images, labels) that train the teacher, are held back, and are distilled (of the teacher's, at random)."""
    train = load("datasets", "eurosat").load(Place(data_root, shared), SIZE).train
    drawn = torch.Generator().manual_seed(0)
    rows = [train.of_class(label)[torch.randperm(train.counts()[label], generator=drawn)] for label in range(CLASSES)]
    chosen = [torch.cat([r[a:b] for r in rows]) for a, b in ((0, TAUGHT), (TAUGHT, TAUGHT + HELD), (0, IPC))]
    return tuple((train.images[index], train.labels[index]) for index in chosen)


def teacher(fit: tuple[Tensor, Tensor], held: tuple[Tensor, Tensor], shared: Path) -> torch.nn.Module:
    path = shared / "experiments-soft" / "teacher.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        how = {"student": "resnet18", "protocol": "real@1", "num_classes": CLASSES, "seed": 0, "device": "cpu"}
        weights = train_student(*fit, **how, progress=bar).state_dict()
        save_file({name: part.contiguous() for name, part in weights.items()}, path)
    model = build("resnet18", SIZE, CLASSES, 0)
    model.load_state_dict(load_file(path))
    record("teacher", "resnet18", evaluate(model, *held, num_classes=CLASSES, device="cpu").overall, 0.0)
    return model


def bar(items, desc, total):
    return tqdm(items, desc=desc, total=total, mininterval=10)


def recorded() -> dict[tuple[str, str], dict]:
    lines = FIGURES.read_text(encoding="utf-8").splitlines() if FIGURES.exists() else []
    return {(line["row"], line["student"]): line for line in map(json.loads, lines)}


def record(name: str, student: str, overall: float, seconds: float) -> None:
    if (name, student) not in recorded():
        with FIGURES.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"row": name, "student": student, "overall": overall, "seconds": seconds}) + "\n")


def measure(students: tuple[str, ...], only: str, data_root: Path, shared: Path) -> None:
    fit, held, (images, labels) = parts(data_root, shared)
    soft = probabilities(teacher(fit, held, shared), images, "cpu")
    for name in [name for name in ROWS if only in ("", name)]:
        for student in [student for student in students if (name, student) not in recorded()]:
            begun = time.perf_counter()
            shown = {"num_classes": CLASSES, "device": "cpu"}
            targets = soft if ROWS[name][0] else labels
            how = {"student": student, "protocol": row(name, student), "seed": 0, "progress": bar}
            found = evaluate(train_student(images, targets, **how, **shown), *held, **shown).overall
            record(name, student, found, time.perf_counter() - begun)


@click.command(help=__doc__)
@click.argument("students", nargs=-1)
@click.option("--only", default="", help="Rows whose name has this.")
@click.option("--data-root", type=click.Path(path_type=Path), envvar="DDBENCH_DATA")
@click.option("--shared", type=click.Path(path_type=Path), default=Path("shared"))
@click.option("--table", "shown", is_flag=True)
def main(students: tuple[str, ...], only: str, data_root: Path, shared: Path, shown: bool) -> None:
    if not shown:
        measure(students, only, data_root, shared)
    found = recorded()
    names = sorted({student for _, student in found})
    rows = [[name, *(f"{100 * found[name, s]['overall']:.1f}" if (name, s) in found else "-" for s in names)]
            for name in ["teacher", *ROWS]]  # fmt: skip
    click.echo(tabulate(rows, ["row", *names], disable_numparse=True))


if __name__ == "__main__":
    main()
