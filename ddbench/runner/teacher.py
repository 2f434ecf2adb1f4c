"""Networks trained once on the real training split by a protocol: they give soft labels and features."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from ddbench.types import ImageSet
from ddbench.utils.checkpoint import Checkpoint, StudentState
from ddbench.utils.files import Stopwatch, digest, make_once, write_bytes, write_json
from ddbench.utils.memory import Peak
from ddbench.utils.provenance import describe_environment
from evaluators import VERSION
from evaluators.normalisation import CONSTANT, Normalisation, normalisation_of
from evaluators.pretrained import sha256
from evaluators.protocols import protocol
from evaluators.students import Student, build
from evaluators.train import DivergedError, Progress, logits, precision, probabilities, train_student

log = logging.getLogger("ddbench")
FILE = "model.safetensors"
SEED = 0  # there is one teacher of each kind


class TeacherError(Exception):
    """A teacher that cannot be trained; neither the student nor the distilled set failed."""


@dataclass(frozen=True)
class Teacher:
    """A trained network in `folder`: model.safetensors, and its cost in teacher.json."""

    folder: Path
    student: str
    init: str
    classes: int
    normalisation: Normalisation = CONSTANT

    @property
    def title(self) -> str:
        """Identity of the network: its stage and the beginning of its weights' SHA-256."""
        return f"{self.folder.name}-{sha256(self.folder / FILE)[:8]}"


def get_teacher(
    kind: tuple[str, str], train: ImageSet, train_id: str, shared: Path, device: torch.device, progress: Progress
) -> Teacher:
    """Return the teacher of these training images; train it if it is missing, from a checkpoint after a kill.

    kind: (student, title of a protocol).
    """
    student, title = kind
    row = protocol(title)
    key = {
        "teacher": row.identity(student),
        "train": train_id,
        "evaluators": VERSION,
        "precision": precision(row.recipe(student), device),
        "seed": SEED,
    }
    normalisation = normalisation_of(train.images, row.recipe(student).normalise)
    folder = shared / f"teacher-{digest(key)[:16]}"
    teacher = Teacher(folder, student, row.init, len(train.classes), normalisation)

    def make(folder: Path) -> None:
        log.info("teacher: training %s by %s on %d real images", student, title, len(train.labels))
        watch, peak, state = Stopwatch(), Peak(device), StudentState(Checkpoint.beside(folder))
        try:
            model = train_student(
                train.images,
                train.labels,
                student=student,
                num_classes=teacher.classes,
                protocol=row,
                seed=SEED,
                device=device,
                progress=progress,
                state=state,
                normalisation=normalisation,
            )
            next(logits(model, train.images, device))  # the last step may have diverged
        except DivergedError as error:
            raise TeacherError(f"the teacher ({student} by {title}) cannot be trained: {error}") from error
        save_file({name: part.contiguous() for name, part in model.state_dict().items()}, folder / FILE)
        seconds = state.earlier_seconds + watch.seconds
        record = {"key": key, "seconds": seconds, **peak.figures(), **describe_environment(device)}
        write_json(folder / "teacher.json", record)

    make_once(teacher.folder, make)
    return teacher


def teacher_labels(teacher: Teacher, images: Tensor, content: str, run: Path, device: torch.device) -> Tensor:
    """Return probabilities, float32 (n, classes), of uint8 images; content: digest of their distilled set.

    They are stored in the run's folder by teacher and content, so a new set gets new labels.
    """
    path = run / "soft_labels" / f"{teacher.title}-{content[:16]}.safetensors"
    if not path.exists():
        soft = probabilities(network(teacher, images.shape[-1]), images, device).cpu()
        write_bytes(path, save({"soft_labels": soft}))
    return load_file(path)["soft_labels"]


def network(teacher: Teacher, size: int) -> Student:
    """Return the trained network for images of `size` x `size` pixels."""
    model = build(teacher.student, size, teacher.classes, SEED, teacher.init, teacher.normalisation)
    model.load_state_dict(load_file(teacher.folder / FILE))
    return model
