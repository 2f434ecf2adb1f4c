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

    def false_alarms(self) -> list[str]:
        """Return where an attack told images apart that it cannot: a control of this audit, or one that it is itself.

        In words. Then no attack that succeeds is a finding.
        """
        wrong = {f"halves of other images ({name})": lira for name, lira in self.controls.items()}
        wrong |= {f"no training image ({name})": lira for name, lira in self.attacks.items() if self.known == NOTHING}
        return [
            f"{self.label}, {name}: AUC {lira.auc:.3f}, not 0.5" for name, lira in wrong.items() if not _holds(lira)
        ]

    def misses(self) -> list[str]:
        """Return, in words, that the attack missed images that all train the student. Then no failure is a finding."""
        lira = self.attacks[CANARY_IMAGES]
        missed = self.known == FOUND and not lira.succeeds
        return [f"{self.label}: AUC {lira.auc:.3f} of images that all train the student"] if missed else []

    def failures(self, attack: str, audits: Sequence[CanaryAudit]) -> list[str]:
        """Return, in words, the failed controls that take the finding of an attack, of ATTACKS, away.

        audits: of the same plan. Controls are this audit's own, and methods of known answer with the same student.
        """
        controls = [self, *(one for one in audits if one.known and one.student == self.student)]
        failed = [reason for one in controls for reason in one.false_alarms()]
        if not self.attacks[attack].succeeds:
            failed += [reason for one in controls for reason in one.misses()]
        return list(dict.fromkeys(failed))

    def finding(self, attack: str, audits: Sequence[CanaryAudit]) -> Lira | None:
        """Return the result of an attack; None if a control takes it away. Arguments: of `failures`."""
        return None if self.failures(attack, audits) else self.attacks[attack]


def _holds(lira: Lira) -> bool:
    """Return whether an AUC that must be 0.5 is: a control without a fault fails once in a thousand."""
    return abs(lira.auc - 0.5) <= SURE * lira.std


def read_canary_audit(path: Path) -> CanaryAudit:
    """Read the file of an audit. Raises ValueError for another file."""
    return decode(read_json(path), CanaryAudit)
