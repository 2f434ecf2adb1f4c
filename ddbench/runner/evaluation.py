"""One student: train it on the distilled set on disk, test it on the real test images, write the result."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ddbench.errors import UserError
from ddbench.runner import teacher
from ddbench.store import distilled_set
from ddbench.store.records import Result, missing_or_outdated, read_result, train_id, write_result
from ddbench.types import Dataset, ImageSet
from ddbench.utils.files import Stopwatch, write_json
from ddbench.utils.memory import Peak
from ddbench.utils.progress import progress_bars
from ddbench.utils.provenance import describe_environment
from evaluators import corruptions, pretrained
from evaluators.accuracy import evaluate
from evaluators.normalisation import Normalisation, normalisation_of
from evaluators.recipes import Protocol
from evaluators.students import Student
from evaluators.targets import check_labelled
from evaluators.train import precision, train_student

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
    task = student_task.task
    model, result = train_and_test(student_task, distilled_set.read(task.folder / "distilled"))
    if missing_or_outdated(student_task.result, task.folder):
        write_result(student_task.result, result)
    if task.corrupted and missing_or_outdated(task.corrupted, task.folder):
        write_json(task.corrupted, _corrupted_accuracies(student_task, model, result))


def train_and_test(student_task: StudentTask, pictures: distilled_set.Pictures) -> tuple[Student, Result]:
    """Train one student on `pictures`, test it on the test images of the task's data; nothing is written."""
    task, protocol, test = student_task.task, student_task.evaluation.protocol, student_task.data.test
    device, compiled = student_task.device, student_task.settings.compiled
    labels = _labels(student_task, pictures)
    recipe = protocol.recipe(student_task.student)
    images = _images(pictures, protocol)
    weighted = protocol.image_weights and pictures.weights is not None
    weights = torch.from_numpy(pictures.weights) if weighted else None
    normalisation = _normalisation(student_task.data.train, recipe.normalise, pictures)
    on: dict[str, Any] = {"num_classes": len(test.classes), "device": device}
    accuracies: list[float] = []  # during training, for recipes that ask for tests; none decides anything
    watch, peak = Stopwatch(), Peak(device)  # of the student: the teacher records its own cost
    model = train_student(
        images,
        labels.targets,
        student=student_task.student,
        num_classes=len(test.classes),
        protocol=protocol.at_rate(student_task.student, pictures.learning_rate),
        seed=task.seed,
        device=device,
        progress=progress_bars(student_task.settings.quiet),
        compiled=compiled,
        normalisation=normalisation,
        teacher=labels.of_views,
        weights=weights,
        observe=lambda network: accuracies.append(evaluate(network, test.images, test.labels, **on).overall),
    )
    scores = evaluate(model, test.images, test.labels, **on)
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
        teacher=labels.teacher,
        seconds=seconds,
        memory_bytes=memory_bytes,
        image_bytes=images.nbytes + (pictures.whitening_bytes if recipe.normalise == "zca" else 0),
        label_bytes=labels.bytes + (0 if weights is None else weights.nbytes),
        **describe_environment(device),
        compiled=compiled,
        precision=precision(recipe, device),
        best_on_test=max(*accuracies, scores.overall) if accuracies else None,
    )
    return model, result


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


def _images(pictures: distilled_set.Pictures, protocol: Protocol) -> Tensor:
    """Return the images to train on: float images, if the protocol takes them and the set has them; else uint8."""
    if protocol.float_images and pictures.floats is not None:
        return torch.from_numpy(pictures.floats)
    return pictures.to_tensor()


def _normalisation(train: ImageSet, kind: str, pictures: distilled_set.Pictures) -> Normalisation:
    """Return the student's normalisation: the set's own whitening, or the statistics of the training images."""
    return (pictures.to_whitening() if kind == "zca" else None) or _statistics(train, kind)


@lru_cache(maxsize=1)
def _statistics(train: ImageSet, kind: str) -> Normalisation:
    """Return `normalisation_of` the training images, once for all students of a process."""
    return normalisation_of(train.images, kind)


@dataclass(frozen=True)
class _Labels:
    """The labels that a student learns.

    targets: int64 (n,), or soft labels float32 (n, classes).
    bytes: size of soft labels; of labels of views in half precision, as FKD stores them.
    teacher: title of the teacher that gave them; "" for none.
    of_views: the network that labels every augmented view in place of `targets`; None for none.
    """

    targets: Tensor
    bytes: int = 0
    teacher: str = ""
    of_views: nn.Module | None = None


def _labels(student_task: StudentTask, pictures: distilled_set.Pictures) -> _Labels:
    """Return the labels to train on.

    A set's own soft labels come first unless the protocol has hard labels or labels of views, then a teacher's, then
    hard labels.
    """
    protocol, data, device = student_task.evaluation.protocol, student_task.data, student_task.device
    if pictures.soft is not None and protocol.labels == "own":
        soft = torch.from_numpy(pictures.soft)
        return _Labels(soft, soft.nbytes)
    if protocol.teacher is None:
        return _Labels(torch.from_numpy(pictures.labels))
    task, settings = student_task.task, student_task.settings
    key, shared = train_id(task.spec, data), settings.data_paths.shared
    network = teacher.get_teacher(protocol.teacher, data.train, key, shared, device, progress_bars(settings.quiet))
    images = pictures.to_tensor()
    if protocol.labels == "views":
        views = protocol.recipe(student_task.student).views(len(images), network.classes)
        size = views * network.classes * torch.float16.itemsize
        return _Labels(
            torch.from_numpy(pictures.labels), size, network.title, teacher.network(network, images.shape[-1])
        )
    soft = teacher.teacher_labels(network, images, pictures.content(), task.folder, device)
    return _Labels(soft, soft.nbytes, network.title)


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
