"""Networks trained once on the real training split by a named row: they give soft labels, and features."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from ddbench.types import ImageSet
from ddbench.utils.files import Stopwatch, digest, make_once, write_bytes, write_json
from ddbench.utils.memory import Peak
from ddbench.utils.provenance import describe_environment
from evaluators import VERSION
from evaluators.pretrained import sha256
from evaluators.protocols import protocol
from evaluators.students import Student, build
from evaluators.train import DivergedError, logits, precision, probabilities, train_student

log = logging.getLogger("ddbench")
FILE = "model.safetensors"
SEED = 0  # there is one teacher of a kind


class TeacherError(Exception):
    """A teacher that cannot be trained: no student's failure, and no set's."""


@dataclass(frozen=True)
class Teacher:
    """A trained network that lies in `folder`: model.safetensors, and teacher.json with what it cost."""

    folder: Path
    student: str
    init: str
    classes: int

    @property
    def title(self) -> str:
        """What says which network it is: the stage, and the beginning of its weights' SHA-256."""
        return f"{self.folder.name}-{sha256(self.folder / FILE)[:8]}"


def get_teacher(
    kind: tuple[str, str], train: ImageSet, train_id: str, shared: Path, device: torch.device, progress: Callable
) -> Teacher:
    """The teacher of a kind (student, title of a protocol) for these training images, trained if it is not there."""
    student, title = kind
    row = protocol(title)
    how = {"evaluators": VERSION, "precision": precision(device), "seed": SEED}
    key = {"teacher": row.identity(student), "train": train_id, **how}
    found = Teacher(shared / f"teacher-{digest(key)[:16]}", student, row.init, len(train.classes))

    def make(folder: Path) -> None:
        log.info("teacher: training %s by %s on %d real images", student, title, len(train.labels))
        watch, peak = Stopwatch(), Peak(device)
        try:
            model = train_student(
                train.images, train.labels, student=student, protocol=row, num_classes=found.classes, seed=SEED,
                device=device, progress=progress,
            )  # fmt: skip
            next(logits(model, train.images, device))  # a network that diverged in its last step is no teacher
        except DivergedError as error:
            raise TeacherError(f"the teacher, {student} by {title}, gives no labels: {error}") from error
        save_file({name: part.contiguous() for name, part in model.state_dict().items()}, folder / FILE)
        write_json(
            folder / "teacher.json",
            {"key": key, "seconds": watch.seconds, **peak.figures(), **describe_environment(device)},
        )

    make_once(found.folder, make)
    return found


def teacher_labels(teacher: Teacher, images: Tensor, content: str, run: Path, device: torch.device) -> Tensor:
    """Probabilities, float32 (n, classes), of uint8 images whose set's digest is `content`.

    They are kept in the run's folder, by teacher and content: a set that is made anew gets labels of its own.
    """
    path = run / "soft_labels" / f"{teacher.title}-{content[:16]}.safetensors"
    if not path.exists():
        given = probabilities(network(teacher, images.shape[-1]), images, device).cpu()
        write_bytes(path, save({"soft_labels": given}))
    return load_file(path)["soft_labels"]


def network(teacher: Teacher, size: int) -> Student:
    """The trained network, for `size` x `size` images."""
    model = build(teacher.student, size, teacher.classes, SEED, teacher.init)
    model.load_state_dict(load_file(teacher.folder / FILE))
    return model
