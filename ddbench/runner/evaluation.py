"""One student: train it on the distilled set on disk, test it on the real test images, write the result."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ddbench.errors import UserError
from ddbench.runner import teacher
from ddbench.store import distilled_set
from ddbench.store.records import Result, missing_or_outdated, read_result, train_id, write_result
from ddbench.types import Dataset, ImageSet
from ddbench.utils.files import Stopwatch, write_json
from ddbench.utils.memory import Peak
from ddbench.utils.provenance import describe_environment
from evaluators import corruptions, pretrained
from evaluators.accuracy import evaluate
from evaluators.normalisation import Normalisation, Whitening, normalisation_of
from evaluators.recipes import Protocol
from evaluators.train import Progress, check_labelled, precision, train_student

if TYPE_CHECKING:
    from ddbench.runner.plan import EvaluationSetup, ExecutionSettings, Task

log = logging.getLogger("ddbench")

# fields that the file of corrupted accuracies takes over from the student's result
COPIED = ("run", "content", "student", "init", "weights", "seed", "protocol", "protocol_version", "protocol_hash",
          "teacher", "compiled", "device", "versions", "commit", "dirty")  # fmt: skip


@dataclass(frozen=True)
class StudentTask:
    """One student to train and test, with its data and the device."""

    task: Task
    evaluation: EvaluationSetup
    data: Dataset
    device: torch.device
    settings: ExecutionSettings

    @property
    def student(self) -> str:
        """Name of the student; only the task of a distillation has none."""
        return cast(str, self.task.student)

    @property
    def result(self) -> Path:
        """File of the result."""
        return cast(Path, self.task.result)


def evaluate_student(student_task: StudentTask) -> None:
    """Train one student on the distilled set of a run, test it on the real test images, write the result."""
    task, protocol, test = student_task.task, student_task.evaluation.protocol, student_task.data.test
    device, compiled = student_task.device, student_task.settings.compiled
    pictures = distilled_set.read(task.folder / "distilled")
    targets, teacher_title = _targets(student_task, pictures)
    recipe = protocol.recipe(student_task.student)
    images = _images(pictures, protocol)
    normalisation = _normalisation(student_task.data.train, recipe.normalise, pictures)
    watch, peak = Stopwatch(), Peak(device)  # of the student: the teacher records its own cost
    model = train_student(
        images,
        targets,
        student=student_task.student,
        num_classes=len(test.classes),
        protocol=protocol.at_rate(student_task.student, pictures.learning_rate),
        seed=task.seed,
        device=device,
        progress=progress_bars(student_task.settings.quiet),
        compiled=compiled,
        normalisation=normalisation,
    )
    scores = evaluate(model, test.images, test.labels, num_classes=len(test.classes), device=device)
    seconds, memory_bytes = watch.seconds, peak.compute_bytes
    result = Result(
        run=task.spec.digest,
        content=pictures.content(),
        student=student_task.student,
        init=protocol.init,
        weights=pretrained.sha256(pretrained.weights_file(student_task.student)) if protocol.init == "imagenet" else "",
        seed=task.seed,
        protocol=protocol.name,
        protocol_version=protocol.version,
        protocol_hash=protocol.identity(student_task.student),
        overall=scores.overall,
        average=scores.average,
        kappa=scores.kappa,
        macro_f1=scores.macro_f1,
        calibration=scores.calibration,
        per_class=dict(zip(pictures.classes, scores.per_class, strict=True)),
        confusion=[list(row) for row in scores.confusion],
        n_test=scores.n,
        teacher=teacher_title,
        seconds=seconds,
        memory_bytes=memory_bytes,
        image_bytes=images.nbytes + (pictures.whitening_bytes if recipe.normalise == "zca" else 0),
        label_bytes=targets.nbytes if targets.ndim == 2 else 0,
        **describe_environment(device),
        compiled=compiled,
        precision=precision(recipe, device),
    )
    if missing_or_outdated(student_task.result, task.folder):
        write_result(student_task.result, result)
    if task.corrupted and missing_or_outdated(task.corrupted, task.folder):
        write_json(task.corrupted, _corrupted_accuracies(student_task, model, result))


def check_test(data: Dataset) -> None:
    """Raise ValueError unless there are valid test images of every class."""
    if lacking := data.test.fewer_than(1):
        raise ValueError(f"every class needs test images; too few in: {', '.join(lacking)}")
    check_labelled(data.test.images, data.test.labels, len(data.test.classes))


def check_weights(evaluation: EvaluationSetup) -> None:
    """Find or download the ImageNet weights that students and teacher start from. Raises UserError without them."""
    for student, row in evaluation.networks():
        try:
            if row.init == "imagenet":
                pretrained.weights_file(student)
        except (ValueError, OSError) as error:
            raise UserError(f"{row.title} starts from ImageNet weights: {error}") from None


def progress_bars(quiet: bool) -> Progress:
    """Return progress(iterable, description, total), which shows a bar on standard error."""
    return lambda items, desc, total: tqdm(
        items, desc=desc, total=total, disable=quiet, leave=False, dynamic_ncols=True
    )


def _images(pictures: distilled_set.Pictures, protocol: Protocol) -> Tensor:
    """Return the images to train on: float images, if the protocol takes them and the set has them; else uint8."""
    if protocol.float_images and pictures.floats is not None:
        return torch.from_numpy(pictures.floats)
    return pictures.to_tensor()


def _normalisation(train: ImageSet, kind: str, pictures: distilled_set.Pictures) -> Normalisation:
    """Return the student's normalisation: the set's own whitening, or the statistics of the training images."""
    if kind == "zca" and pictures.whitening:
        return Whitening.of(*(torch.from_numpy(pictures.whitening[name]) for name in ("mean", "matrix")))
    return _statistics(train, kind)


@lru_cache(maxsize=1)
def _statistics(train: ImageSet, kind: str) -> Normalisation:
    """Return `normalisation_of` the training images, once for all students of a process."""
    return normalisation_of(train.images, kind)


def _targets(student_task: StudentTask, pictures: distilled_set.Pictures) -> tuple[Tensor, str]:
    """Return the labels to train on, and the title of the teacher that gave them ("" for none).

    A set's own soft labels come first unless the protocol has hard labels, then a teacher's, then hard labels.
    """
    protocol, data, device = student_task.evaluation.protocol, student_task.data, student_task.device
    if pictures.soft is not None and protocol.labels == "own":
        return torch.from_numpy(pictures.soft), ""
    if protocol.teacher is None:
        return torch.from_numpy(pictures.labels), ""
    task, settings = student_task.task, student_task.settings
    key, shared = train_id(task.spec, data), settings.data_paths.shared
    network = teacher.get_teacher(protocol.teacher, data.train, key, shared, device, progress_bars(settings.quiet))
    labels = teacher.teacher_labels(network, pictures.to_tensor(), pictures.content(), task.folder, device)
    return labels, network.title


def _corrupted_accuracies(student_task: StudentTask, model: nn.Module, result: Result) -> dict[str, Any]:
    """Return the student's accuracies on corrupted test images, with their origin."""
    path, test = student_task.result, student_task.data.test
    if (earlier := read_result(path).overall) != result.overall:
        log.warning("%s: the repeated training gives accuracy %.4f, not %.4f", path, result.overall, earlier)
    watch = Stopwatch()
    accuracies = corruptions.accuracies(
        model,
        test.images,
        test.labels,
        num_classes=len(test.classes),
        device=student_task.device,
        progress=progress_bars(student_task.settings.quiet),
    )
    record: dict[str, Any] = {name: getattr(result, name) for name in COPIED}
    return record | {
        "schema": 1,
        "version": corruptions.VERSION,
        "clean": result.overall,
        "mean": sum(map(sum, accuracies.values())) / sum(map(len, accuracies.values())),
        "overall": accuracies,
        "levels": {name: list(values) for name, values in corruptions.LEVELS.items()},
        "seconds": watch.seconds,
    }
