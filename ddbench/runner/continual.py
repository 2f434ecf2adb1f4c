"""Class-incremental learning with distilled sets as memory: after each step a new student learns all sets so far.

Zhao and Bilen 2023 (DM, arXiv:2110.04181) measure it so: the classes come in equal groups, each group is
distilled alone, a network is trained from scratch on the union, and tested on the classes seen so far, for several
orders of the classes. No torch at import.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ddbench.datasets.class_subset import only_classes
from ddbench.runner.student_job import StudentJob
from ddbench.store import distilled_set
from ddbench.store.distilled_set import Pictures
from ddbench.store.measured import MeasuredResult, Variation
from ddbench.store.records import distilled_digest
from ddbench.utils.files import digest

if TYPE_CHECKING:
    from ddbench.runner.evaluation import StudentTask

OF_DATA = ("data", "zca")  # normalisations by the statistics of real images


@dataclass(frozen=True)
class Memory:
    """The distilled set of one step.

    run: folder of its run.
    labels: of its classes in the dataset, ascending.
    """

    run: Path
    labels: tuple[int, ...]


@dataclass(frozen=True)
class ContinualJob(StudentJob):
    """One student after one step, trained on the sets of all steps so far.

    memories: of the steps, in their order.
    steps: number of steps of the order.
    """

    measure: ClassVar[str] = "continual"
    memories: tuple[Memory, ...]
    steps: int

    @property
    def description(self) -> str:
        """The order and the step, counted from 1."""
        return f"order {self.task.spec.seed}, step {len(self.memories)} of {self.steps}, {self.x:.0f} classes"

    @property
    def x(self) -> float:
        """The number of classes so far."""
        return float(len(self.seen))

    @property
    def seen(self) -> tuple[int, ...]:
        """Labels of the classes so far in the dataset, ascending."""
        return tuple(sorted(label for memory in self.memories for label in memory.labels))

    @property
    def ready(self) -> bool:
        """True if the sets of all steps so far exist."""
        return all((memory.run / "distilled").is_dir() for memory in self.memories)

    @property
    def done(self) -> bool:
        """True if its sets exist, and so does its record."""
        return self.ready and super().done

    def content(self) -> str:
        """Return the digest of the sets of all steps so far. Raises ValueError where one is missing."""
        return digest([distilled_digest(memory.run) for memory in self.memories])

    def measured(self, student_task: StudentTask) -> MeasuredResult:
        """Train from scratch on the union, test on the test images of the classes so far."""
        from ddbench.runner.evaluation import train_and_test

        seen, data = self.seen, student_task.data
        of_data = student_task.evaluation.protocol.recipe(student_task.student).normalise in OF_DATA
        train = only_classes(data.train, seen) if of_data else data.train  # else nothing of it is used
        data = replace(data, train=train, test=only_classes(data.test, seen))
        sets = [(distilled_set.read(memory.run / "distilled"), memory.labels) for memory in self.memories]
        pictures = union(sets, tuple(self.source.classes[label] for label in seen))
        _, result = train_and_test(replace(student_task, data=data), pictures)
        place = {"order": self.task.spec.seed, "step": len(self.memories), "steps": self.steps}
        return MeasuredResult(result, Variation(self.measure, place, classes=pictures.classes), self.task.path)


def union(sets: Sequence[tuple[Pictures, tuple[int, ...]]], classes: tuple[str, ...]) -> Pictures:
    """Return the images of several sets as one set; a soft label says 0 for the classes of the other sets.

    Weights of images have the mean 1 in each set.

    sets: each with the labels of its classes in the dataset. classes: names of all, in the order of these labels.
    """
    seen = sorted(label for _, labels in sets for label in labels)
    pictures = [part for part, _ in sets]
    places = [np.searchsorted(seen, labels) for _, labels in sets]
    soft = floats = weights = None
    if all(part.soft is not None for part in pictures):
        soft = np.zeros((sum(len(part.labels) for part in pictures), len(seen)), np.float32)
        row = 0
        for part, place in zip(pictures, places, strict=True):
            soft[row : row + len(part.labels), place] = part.soft
            row += len(part.labels)
    if all(part.floats is not None for part in pictures):
        floats = np.concatenate([part.floats for part in pictures if part.floats is not None])
    if all(part.weights is not None for part in pictures):
        weights = np.concatenate([part.weights / part.weights.mean() for part in pictures if part.weights is not None])
    labels = np.concatenate([place[part.labels] for part, place in zip(pictures, places, strict=True)])
    images = np.concatenate([part.images for part in pictures])
    joined = Pictures(images, labels.astype(np.int64), classes, soft, floats=floats, weights=weights)
    return distilled_set.sorted_by_class(joined)


def class_order(classes: Sequence[str], seed: int) -> tuple[int, ...]:
    """Return the labels in the order of a seed: by the SHA-256 of the seed and the name of the class."""
    keys = [hashlib.sha256(f"class order {seed}\0{name}".encode()).hexdigest() for name in classes]
    return tuple(sorted(range(len(classes)), key=keys.__getitem__))
