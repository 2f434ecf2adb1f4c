"""`ddbench audit --canaries`: students of sets that were distilled from random halves of audited images, and LiRA.

Zhao and Zhang (ICLR 2025): half of the audited images are relabelled, so that a student that knows such an image can
only know it from its set. Each run distils one half and trains one student. `evaluators.lira` attacks their
confidences. No torch at import.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ddbench.datasets.canaries import CanaryHalf
from ddbench.runner.student_job import StudentJob
from ddbench.store import distilled_set
from ddbench.store.canaries import CANARY_IMAGES, FOUND, NOTHING, OTHER_IMAGES, CanaryAudit
from ddbench.store.costs import read_cost
from ddbench.store.measured import MeasuredResult, Variation, read_measured
from ddbench.store.records import RunSpec
from ddbench.utils.bases import known_bases
from ddbench.utils.files import digest, read_json, write_json
from evaluators.audit import FPR
from evaluators.lira import LOW_FPR, MANY, Doubles, Lira, Mask, lira_scores, log_odds, measure_lira

if TYPE_CHECKING:
    import torch

    from ddbench.runner.evaluation import StudentTask
    from evaluators.students import Student

VERSION = 1  # raise it when the numbers may change


@dataclass(frozen=True)
class CanaryJob(StudentJob):
    """One student of the set of a half. `source` is the half itself, so `task` and data are those of an ordinary run.

    half: the dataset's half.
    """

    measure: ClassVar[str] = "canaries"
    half: CanaryHalf

    @property
    def description(self) -> str:
        """The number of the half."""
        return f"half {self.half.half} of {self.half.audited} audited images"

    @property
    def x(self) -> float:
        """The number of the half."""
        return float(self.half.half)

    @property
    def ready(self) -> bool:
        """True if the set exists."""
        return (self.task.folder / "distilled").is_dir()

    def measured(self, student_task: StudentTask) -> MeasuredResult:
        """Train on the set, test on all test images, ask for the confidence in each audited image's label."""
        from ddbench.runner.audit import used_images
        from ddbench.runner.evaluation import train_and_test

        pictures = distilled_set.read(self.task.folder / "distilled")
        model, result = train_and_test(student_task, pictures)
        images, audited = self.half.load_audited(student_task.settings.data_paths, self.task.spec.size)
        confidences = mean_confidences(model, audited.images, images.labels, student_task.device)
        place = {"half": self.half.half, "audited": self.half.audited, "seed": self.half.seed}
        named = [name for names in used_images(pictures.extras).values() for name in names]
        variation = Variation(
            self.measure, place, confidences=tuple(confidences.tolist()), members=self.half.members(images),
            used=images.rows(named),
        )  # fmt: skip
        return MeasuredResult(result, variation, self.task.path)


def mean_confidences(model: Student, images: torch.Tensor, labels: Sequence[int], device: torch.device) -> Doubles:
    """Return `log_odds` of uint8 images (n, 3, s, s) for labels, mean over an image and its mirror image: (n,)."""
    import torch

    from evaluators.train import logits

    views = (torch.cat(list(logits(model, view, device))).cpu().numpy() for view in (images, images.flip(-1)))
    return np.mean([log_odds(view, np.asarray(labels)) for view in views], axis=0)


@dataclass(frozen=True)
class CanarySubject:
    """One method with one student in a plan: what an attack needs.

    label: the method's name with the settings of the plan.
    spec: of the method on the whole dataset.
    whole: True for a method that takes all training images.
    jobs: one for each half, in order.
    path: file of the audit.
    """

    label: str
    spec: RunSpec
    whole: bool
    jobs: tuple[CanaryJob, ...]
    path: Path

    @property
    def done(self) -> bool:
        """True if all students have a record of their present set."""
        return all(job.ready and job.done for job in self.jobs)


def attack_students(subject: CanarySubject) -> Path:
    """Return the file of the attack on the students of a method; make it if it is missing, or they are others now.

    Raises ValueError for a record that cannot be used.
    """
    records = [read_measured(job.task.path) for job in subject.jobs]
    results, known = [record.result for record in records], known_answer(subject)
    origin = [(record.result.content, record.variation.confidences) for record in records]
    content = digest([VERSION, subject.label, known, origin])
    if subject.path.exists() and read_json(subject.path).get("content") == content:
        return subject.path
    confidences = np.array([record.variation.confidences for record in records])
    members, used = (_rows(records, name, confidences.shape) for name in ("members", "used"))
    half, spec, first = subject.jobs[0].half, subject.spec, results[0]
    accuracies = [result.overall for result in results]
    record = CanaryAudit(
        version=VERSION,
        method=spec.method,
        preset=spec.preset,
        params=spec.params,
        label=subject.label,
        dataset=spec.dataset,
        fingerprint=spec.fingerprint,
        size=spec.size,
        ipc=spec.ipc,
        protocol=first.title,
        student=first.student,
        seed=half.seed,
        audited=half.audited,
        runs=len(records),
        content=content,
        attacks=attack_parts(confidences, members, used),
        controls=attack_parts(confidences, np.roll(members, 1, axis=1)),  # each image with the halves of another one
        known=known,
        accuracy=statistics.fmean(accuracies),
        accuracy_std=statistics.stdev(accuracies),
        distillation_seconds=sum(read_cost(job.task.folder).seconds or 0.0 for job in subject.jobs),
        student_seconds=sum(result.seconds for result in results),
        device=first.device,
        versions=first.versions,
        commit=first.commit,
        dirty=first.dirty,
    )
    write_json(subject.path, asdict(record))
    return subject.path


def known_answer(subject: CanarySubject) -> str:
    """Return FOUND for a method that takes all training images, NOTHING for plain diffusion of an untouched base.

    Of the latter only if the base's card says that it never saw the dataset; empty for all others.
    """
    spec = subject.spec
    if subject.whole:
        return FOUND
    base = known_bases().get(str(spec.params.get("base")))
    untouched = spec.method == "diffusion" and spec.params.get("weights") == "none"
    return NOTHING if untouched and base and spec.dataset.partition("@")[0] in base.unseen else ""


def _rows(records: Sequence[MeasuredResult], name: str, shape: tuple[int, ...]) -> Mask:
    """Return the rows that each record names as a mask (runs, images)."""
    mask = np.zeros(shape, dtype=bool)
    for row, record in zip(mask, records, strict=True):
        row[list(getattr(record.variation, name))] = True
    return mask


def attack_parts(confidences: Doubles, members: Mask, used: Mask | None = None) -> dict[str, Lira]:
    """Return the attack on the canaries, the first half of the images, and on the other ones. All (runs, images)."""
    images = confidences.shape[1]
    rates = (FPR, LOW_FPR) if images >= MANY else (FPR,)
    attacks = {}
    for name, part in ((CANARY_IMAGES, slice(images // 2)), (OTHER_IMAGES, slice(images // 2, None))):
        scores = lira_scores(confidences[:, part], members[:, part])
        attacks[name] = measure_lira(scores, members[:, part], rates, None if used is None else used[:, part])
    return attacks
