"""Held-back images of a training split at 64 px for choosing protocol rows, never of a test split; the measurements."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from tabulate import tabulate
from torch import Tensor
from tqdm import tqdm

from ddbench.datasets.info import DataPaths
from ddbench.datasets.lookup import find_dataset
from ddbench.types import ImageSet
from evaluators.accuracy import evaluate
from evaluators.recipes import Protocol, Recipe
from evaluators.students import Student
from evaluators.train import train_student

SIZE = 64
Labelled = tuple[Tensor, Tensor]


def bar(items, desc, total):
    return tqdm(items, desc=desc, total=total, mininterval=10)


def training_split(dataset: str, data_root: Path, shared: Path, size: int = SIZE) -> ImageSet:
    return find_dataset(dataset).load(DataPaths(data_root, shared), size).train


def parts(train: ImageSet, *spans: tuple[int, int]) -> list[Labelled]:
    """(images, labels) of each span of places a..b in each class, whose images are put in one random order."""
    drawn = torch.Generator().manual_seed(0)
    places = [train.of_class(label) for label in range(len(train.classes))]
    places = [rows[torch.randperm(len(rows), generator=drawn)] for rows in places]
    chosen = [torch.cat([rows[a:b] for rows in places]) for a, b in spans]
    return [(train.images[index], train.labels[index]) for index in chosen]


def tried(student: str, recipe: Recipe, fit: Labelled, held: Labelled, classes: int) -> tuple[Student, float, float]:
    """A student trained on `fit`, its overall accuracy on `held`, and the seconds that its training took."""
    row = Protocol("tried", 1, {student: recipe}, source="experiments/rows")
    shown = {"num_classes": classes, "device": "cpu"}
    begun = time.perf_counter()
    model = train_student(*fit, student=student, protocol=row, seed=0, progress=bar, **shown)
    seconds = time.perf_counter() - begun
    return model, evaluate(model, *held, **shown).overall, seconds


@dataclass(frozen=True)
class Figures:
    """What was measured, one JSON line for each (row, column): it is not measured again."""

    path: Path

    def found(self) -> dict[tuple[str, str], dict]:
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        return {(line["row"], line["column"]): line for line in map(json.loads, lines)}

    def record(self, row: str, column: str, overall: float, seconds: float) -> None:
        line = {"row": row, "column": column, "overall": overall, "seconds": round(seconds)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def table(self, rows: list[str]) -> str:
        found = self.found()
        columns = sorted({column for _, column in found})
        cells = {key: f"{100 * line['overall']:.1f}" for key, line in found.items()}
        shown = [[row, *(cells.get((row, column), "-") for column in columns)] for row in rows]
        return tabulate(shown, ["row", *columns], disable_numparse=True)
