"""Redundancy of a distilled set: cut it into parts, train on one, test on the images of the others.

Chan-Santiago and Shah 2026 (LGD, arXiv:2604.00519) cut a set of 50 images per class into five parts of ten. The mean
accuracy on the other parts is high where each part teaches the same. No torch at import.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from ddbench.errors import UserError
from ddbench.runner.plan import Task
from ddbench.runner.student_job import MeasuredRun, StudentJob, Students
from ddbench.store import distilled_set
from ddbench.store.measured import MeasuredResult, Variation
from ddbench.store.paths import protocol_folder, result_name

if TYPE_CHECKING:
    import numpy as np

    from ddbench.runner.evaluation import StudentTask

log = logging.getLogger("ddbench")


@dataclass(frozen=True)
class RedundancyJob(StudentJob):
    """One student, trained on one part of a set.

    size: images of a class in a part.
    part: the part that it is trained on, from 0.
    parts: number of parts.
    """

    measure: ClassVar[str] = "redundancy"
    size: int
    part: int
    parts: int

    @property
    def description(self) -> str:
        """The part, counted from 1."""
        return f"part {self.part + 1} of {self.parts} ({self.size} per class)"

    @property
    def x(self) -> float:
        """The number of parts."""
        return float(self.parts)

    def measured(self, student_task: StudentTask) -> MeasuredResult:
        """Train on one part; `overall` is the accuracy on all images of the other parts, the mean over these."""
        import torch

        from ddbench.runner.evaluation import train_and_test
        from evaluators.accuracy import evaluate

        whole = distilled_set.read(self.task.folder / "distilled")
        rows = parts_of(whole.labels, self.size, self.parts)
        images, labels = whole.to_tensor(), torch.from_numpy(whole.labels)
        others = torch.cat([torch.from_numpy(part) for i, part in enumerate(rows) if i != self.part]).sort().values
        test = replace(student_task.data.test, images=images[others], labels=labels[others], names=())
        data = replace(student_task.data, test=test)
        model, result = train_and_test(replace(student_task, data=data), distilled_set.subset(whole, rows[self.part]))
        accuracies = tuple(
            evaluate(
                model, images[part], labels[part], num_classes=len(whole.classes), device=student_task.device
            ).overall
            for part in rows
        )
        place = {"part_size": self.size, "parts": self.parts, "part": self.part}
        return MeasuredResult(result, Variation(self.measure, place, accuracies), self.task.path)


def parts_of(labels: np.ndarray, size: int, parts: int) -> list[np.ndarray]:
    """Return the rows of each part, int64 ascending: of every class the next `size` images in the set's order.

    labels: int64 (n,), ascending, with at least size * parts of each.
    """
    import numpy as np

    of_class = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return [np.concatenate([rows[i * size : (i + 1) * size] for rows in of_class]) for i in range(parts)]


def redundancy_jobs(runs: Sequence[MeasuredRun], size: int, students: Students) -> list[RedundancyJob]:
    """Return a job for each part, student and seed of every run, but for those of all training images.

    Sets without two parts are left out, as those of smaller IPCs are below a folder above several runs. Raises
    UserError if no set has two.
    """
    setup = students.setup
    jobs = []
    too_small = []
    for run in runs:
        if not run.spec.ipc:
            log.warning("%s holds all training images, no distilled set: it is left out", run.folder)
            continue
        setup.check_size(run.spec.size)
        parts = min(run.counts) // size
        if parts < 2:
            largest = min(run.counts) // 2
            way = f"choose --part-size {largest} or less" if largest else "name a run with more images per class"
            reason = f"{run.folder} has a class of {min(run.counts)} images, too few for two parts of {size} images"
            too_small.append((reason, way))
            continue
        if left_out := sum(run.counts) - size * parts * len(run.counts):
            log.warning("%s: %d images are in none of the %d parts of %d", run.folder, left_out, parts, size)
        for student in setup.students:
            for part in range(parts):
                folder = run.folder / "redundancy" / protocol_folder(setup.protocol) / f"part{part}-size{size}"
                for seed in range(setup.seeds):
                    path = folder / result_name(student, setup.protocol.init, seed)
                    task = Task(run.spec, run.folder, student, seed, path)
                    jobs.append(RedundancyJob(task, run.source, students.protocol, size, part, parts))
    if too_small and not jobs:
        raise UserError(": ".join(too_small[0]))
    for reason, _ in too_small:
        log.warning("%s: it is left out", reason)
    return jobs
