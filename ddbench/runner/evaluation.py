"""The second piece of work: one student is trained on what is on disk, and tested on the real test images."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ddbench.errors import UserError
from ddbench.runner import teacher
from ddbench.store import distilled_set
from ddbench.store.records import Result, missing_or_outdated, read_result, train_id, write_result
from ddbench.types import Dataset
from ddbench.utils.files import Stopwatch, write_json
from ddbench.utils.memory import Peak
from ddbench.utils.provenance import describe_environment
from evaluators import corruptions, pretrained
from evaluators.accuracy import Scores, evaluate
from evaluators.train import Progress, check_labelled, precision, train_student

if TYPE_CHECKING:
    from ddbench.runner.plan import EvaluationSetup, ExecutionSettings, Task

log = logging.getLogger("ddbench")


@dataclass(frozen=True)
class StudentTask:
    """One student of a evaluation, the data it is judged with, and what computes."""

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


def evaluate_student(trial: StudentTask) -> None:
    """Train one student on the distilled set of a run, test it on the real test images, write the result."""
    pictures = distilled_set.read(trial.task.folder / "distilled")
    targets, gave = _targets(trial, pictures)
    watch, peak = Stopwatch(), Peak(trial.device)  # of the student: what its teacher cost is recorded with the teacher
    model = _trained(trial, pictures.to_tensor(), targets)
    scores = evaluate(model, trial.data.test.images, trial.data.test.labels, **_shared(trial))
    cost = {"seconds": watch.seconds, "memory_bytes": peak.compute_bytes}
    stored = {"image_bytes": pictures.images.nbytes, "label_bytes": targets.nbytes if targets.ndim == 2 else 0}
    result = _result(trial, pictures, scores, {"teacher": gave, **cost, **stored})
    if missing_or_outdated(trial.result, trial.task.folder):
        write_result(trial.result, result)
    if trial.task.corrupted and missing_or_outdated(trial.task.corrupted, trial.task.folder):
        _corrupted(trial, model, result, trial.task.corrupted)


def check_test(data: Dataset) -> None:
    """ValueError unless the test images can judge: some of every class, and of the right kind."""
    if lacking := data.test.fewer_than(1):
        raise ValueError(f"students are tested on images of every class, too few are there: {', '.join(lacking)}")
    check_labelled(data.test.images, data.test.labels, len(data.test.classes))


def check_weights(evaluation: EvaluationSetup) -> None:
    """UserError unless the ImageNet weights that students and teacher start from are there, or can be fetched now."""
    for student, row in evaluation.networks():
        try:
            if row.init == "imagenet":
                pretrained.weights_file(student)
        except (ValueError, OSError) as error:
            raise UserError(f"{row.title} starts from ImageNet weights: {error}") from None


def progress_bars(quiet: bool) -> Progress:
    """A progress bar on standard error for progress(iterable, description, total)."""
    return lambda items, desc, total: tqdm(
        items, desc=desc, total=total, disable=quiet, leave=False, dynamic_ncols=True
    )


def _targets(trial: StudentTask, pictures: distilled_set.Pictures) -> tuple[Tensor, str]:
    """A set's own soft labels unless the protocol is hard, else its teacher's, and who that is; else hard labels."""
    wanted, labels = trial.evaluation.protocol.teacher, trial.evaluation.protocol.labels
    if pictures.soft is not None and labels == "own":
        return torch.from_numpy(pictures.soft), ""
    if wanted is None:
        return torch.from_numpy(pictures.labels), ""
    key, shared, images = train_id(trial.task.spec, trial.data), trial.settings.data_paths.shared, pictures.to_tensor()
    found = teacher.get_teacher(
        wanted, trial.data.train, key, shared, trial.device, progress_bars(trial.settings.quiet)
    )
    return teacher.teacher_labels(found, images, pictures.content(), trial.task.folder, trial.device), found.title


def _shared(trial: StudentTask) -> dict[str, Any]:
    return {"num_classes": len(trial.data.test.classes), "device": trial.device}


def _trained(trial: StudentTask, images: Tensor, targets: Tensor) -> nn.Module:
    return train_student(
        images,
        targets,
        student=trial.student,
        protocol=trial.evaluation.protocol,
        seed=trial.task.seed,
        progress=progress_bars(trial.settings.quiet),
        compiled=trial.settings.compiled,
        **_shared(trial),
    )


def _corrupted(trial: StudentTask, model: nn.Module, result: Result, path: Path) -> None:
    """Write what the student reaches on corrupted test images to `path`."""
    if (kept := read_result(trial.result).overall) != result.overall:
        log.warning("%s: trained again, it has %.4f, not %.4f", trial.result, result.overall, kept)
    test, watch = trial.data.test, Stopwatch()
    progress = progress_bars(trial.settings.quiet)
    found = corruptions.accuracies(model, test.images, test.labels, progress=progress, **_shared(trial))
    mean = sum(map(sum, found.values())) / sum(map(len, found.values()))
    said = {
        "clean": result.overall,
        "mean": mean,
        "overall": found,
        "levels": {k: list(v) for k, v in corruptions.LEVELS.items()},
    }
    named = ("run", "content", "student", "init", "weights", "seed", "protocol", "protocol_version", "protocol_hash",
             "teacher", "compiled", "device", "versions", "commit", "dirty")  # fmt: skip
    how = {name: getattr(result, name) for name in named}
    version = {"schema": 1, "version": corruptions.VERSION}
    write_json(path, {**version, **how, **said, "seconds": watch.seconds})


def _result(trial: StudentTask, pictures: distilled_set.Pictures, scores: Scores, how: Mapping[str, Any]) -> Result:
    task, protocol = trial.task, trial.evaluation.protocol
    start = pretrained.sha256(pretrained.weights_file(trial.student)) if protocol.init == "imagenet" else ""
    return Result(
        run=task.spec.digest,
        content=pictures.content(),
        student=trial.student,
        init=protocol.init,
        weights=start,
        seed=task.seed,
        protocol=protocol.name,
        protocol_version=protocol.version,
        protocol_hash=protocol.identity(trial.student),
        overall=scores.overall,
        average=scores.average,
        kappa=scores.kappa,
        macro_f1=scores.macro_f1,
        calibration=scores.calibration,
        per_class=dict(zip(pictures.classes, scores.per_class, strict=True)),
        confusion=[list(row) for row in scores.confusion],
        n_test=scores.n,
        **describe_environment(trial.device),
        compiled=trial.settings.compiled,
        precision=precision(trial.device),
        **how,
    )
