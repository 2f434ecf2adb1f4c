"""Attacks of `ddbench audit --canaries` as files: one for each method and student of a plan. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddbench.store.schema import SCHEMA, decode
from ddbench.utils.files import read_json
from evaluators.lira import FEWEST_PAIRS as FEWEST_PAIRS
from evaluators.lira import Lira as Lira

SURE = 3.29  # deviations
ATTACKS = CANARY_IMAGES, OTHER_IMAGES = "relabelled images", "other audited images"
FOUND, NOTHING = "found", "nothing"  # known answers of methods: all images train the student, none does


@dataclass(frozen=True)
class CanaryAudit:
    """How well students of a method's sets tell which audited images their sets were distilled from.

    version: of the audit's arithmetic
    method, preset, params, label: of the method; its name with the settings of the plan
    dataset, fingerprint, size, ipc: as of a run, of the whole dataset
    protocol, student: of the students
    seed: of the draw of audited images and halves
    audited, runs: number of audited images, half of which are relabelled; of distillations, each with a student
    content: digest of the records of all students
    attacks: CANARY_IMAGES, OTHER_IMAGES -> the attack on them
    controls: the same with the halves of other images, so the AUC must be 0.5
    known: FOUND, NOTHING, or empty for a method without a known answer
    accuracy, accuracy_std: of the students on test images, fractions: mean, sample standard deviation
    distillation_seconds, student_seconds: sums over the runs, without stages that were there before
    device, versions, commit, dirty: as of a result
    """

    version: int
    method: str
    preset: str | None
    params: Mapping[str, Any]
    label: str
    dataset: str
    fingerprint: str
    size: int
    ipc: int
    protocol: str
    student: str
    seed: int
    audited: int
    runs: int
    content: str
    attacks: Mapping[str, Lira]
    controls: Mapping[str, Lira]
    known: str
    accuracy: float
    accuracy_std: float
    distillation_seconds: float
    student_seconds: float
    device: str
    versions: Mapping[str, str]
    commit: str | None
    dirty: bool | None
    schema: int = SCHEMA

    def failures(self) -> list[str]:
        """Return what is wrong with this audit, if it is a control itself or its own controls missed 0.5; in words."""
        wrong = [
            f"halves of other images ({name}, {self.label}): AUC {control.auc:.3f}, not 0.5"
            for name, control in self.controls.items()
            if not _holds(control)
        ]
        canaries = self.attacks[CANARY_IMAGES]
        if self.known == FOUND and canaries.auc_low <= 0.5:
            wrong.append(f"{self.label}: AUC {canaries.auc:.3f} of images that all train the student")
        for name, attack in self.attacks.items() if self.known == NOTHING else ():
            if not _holds(attack):
                wrong.append(f"{self.label} ({name}): AUC {attack.auc:.3f} without any training image")
        return wrong

    def failed_controls(self, audits: Sequence[CanaryAudit]) -> list[str]:
        """Return why this audit has no finding, in words; nothing if the controls hold.

        audits: of the same plan. Its own controls count, and methods of known answer with the same student.
        """
        others = [one for one in audits if one.known and one.student == self.student and one != self]
        return [reason for one in (self, *others) for reason in one.failures()]


def _holds(lira: Lira) -> bool:
    """Return whether an AUC that must be 0.5 is: a control without a fault fails once in a thousand."""
    return abs(lira.auc - 0.5) <= SURE * lira.std


def read_canary_audit(path: Path) -> CanaryAudit:
    """Read the file of an audit. Raises ValueError for another file."""
    return decode(read_json(path), CanaryAudit)
