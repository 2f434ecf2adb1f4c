"""Audits of a run, and measures of `ddbench quality`, read from its folder. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddbench.store.paths import safe
from ddbench.store.schema import SCHEMA, decode
from ddbench.utils.files import digest, read_json
from evaluators.audit import Attack, Distances

USE, MEMBERSHIP = "use", "membership"  # the attacks
RANDOM_IMAGES, TEST_IMAGES = "random training images", "test images"  # controls of every audit


@dataclass(frozen=True)
class Control:
    """The same attack on a set whose answer is known.

    name: of the set
    attack: USE or MEMBERSHIP
    auc: what was measured; None if the set names no image, or the classes are too small
    expected: what it must be; None for a control that has no known answer
    tolerance: largest difference from it
    tpr: the rate at 1 % FPR that was measured; None without `auc`, and in older audits
    """

    name: str
    attack: str
    auc: float | None
    expected: float | None = None
    tolerance: float = 0.0
    tpr: float | None = None

    @property
    def failed(self) -> bool:
        """True if a known answer was missed."""
        if self.auc is None or self.expected is None:
            return False
        return abs(self.auc - self.expected) > self.tolerance


@dataclass(frozen=True)
class ClosePair:
    """A distilled image with the nearest real images of its class.

    distilled: file in the set. train, test: files in the dataset
    to_train, to_test: cosines
    """

    distilled: str
    train: str
    to_train: float
    test: str
    to_test: float


@dataclass(frozen=True)
class Copies:
    """Copies of images that are on both sides of the split, and what was left out because of them.

    exact, near: pairs. train, test: images left out of the attack on membership and of the ratio of distances
    """

    exact: int
    near: int
    train: int
    test: int


@dataclass(frozen=True)
class Audit:
    """How much a distilled set tells about real images, in one embedding.

    version: of the audit's arithmetic
    by: the embedding: "pixels", STUDENT/PROTOCOL or STUDENT/imagenet
    weights: identity of its network's weights; empty for pixels
    trained: whether the embedding was trained on the training split
    run, content: digests of the run and of its distilled set
    distilled_images, train_images, test_images: numbers of images
    use: attack on the use of an image; None if no image is named, or all are used
    named: kind of the names of used images ("files", "prototypes", "starts", "pieces") -> number of images
    membership: attack on membership in the training split
    distances: of the set. reference: of as many test images in its place
    copies: across the split
    controls: of this audit
    control_runs: content of each run that was a control
    pairs: the closest pair of each of the closest classes, closest first
    seconds, device, versions, commit, dirty: as of a result
    """

    version: int
    by: str
    weights: str
    trained: bool
    run: str
    content: str
    distilled_images: int
    train_images: int
    test_images: int
    use: Attack | None
    named: Mapping[str, int]
    membership: Attack | None
    distances: Distances
    reference: Distances
    copies: Copies
    controls: tuple[Control, ...]
    control_runs: tuple[str, ...]
    pairs: tuple[ClosePair, ...]
    seconds: float
    device: str
    versions: Mapping[str, str]
    commit: str | None
    dirty: bool | None
    schema: int = SCHEMA

    def failed(self, attack: str) -> list[Control]:
        """Return the failed controls that take the finding of an attack away: those of USE take all away."""
        return [control for control in self.controls if control.failed and control.attack in (USE, attack)]

    def finding(self, attack: str) -> Attack | None:
        """Return the result of an attack, USE or MEMBERSHIP; None if a control failed or there is none."""
        return None if self.failed(attack) else self.use if attack == USE else self.membership

    def baseline(self, attack: str) -> Control | None:
        """Return the attack with test images in place of the set; None where it measured nothing."""
        return baseline_of(self.controls, attack)

    def succeeds(self, attack: str) -> bool:
        """Return True if the interval of a finding is above 0.5, and above what test images in the set's place give."""
        result, instead = self.finding(attack), self.baseline(attack)
        return result is not None and result.auc_low > max(0.5, (instead and instead.auc) or 0.0)

    def finds_some(self, attack: str) -> bool:
        """Return True if an attack finds some members for sure: more than others, and than with test images instead."""
        result, instead = self.finding(attack), self.baseline(attack)
        return result is not None and result.finds_some((instead and instead.tpr) or 0.0)


def baseline_of(controls: Iterable[Control], attack: str) -> Control | None:
    """Return the control that makes an attack with test images in place of the set; None where it measured nothing."""
    of_test = (one for one in controls if (one.name, one.attack) == (TEST_IMAGES, attack))
    return next((one for one in of_test if one.auc is not None), None)


def audit_path(run: Path, source: str, version: int) -> Path:
    """Return the file of an audit in a run folder. version: of the arithmetic and of the features."""
    return run / "audit" / f"{safe(source)}-{digest([source, version])[:6]}.json"


def read_audit(path: Path) -> Audit:
    """Read the file of an audit. Raises ValueError for another file."""
    return decode(read_json(path), Audit)


def read_audits(run: Path, content: str) -> tuple[Audit, ...]:
    """Return the audits of the distilled set `content` of a run, the newest version of each embedding.

    Embeddings that were not trained on the data are first. Raises ValueError for a file that is no audit.
    """
    audits = [decode(value, Audit) for value in _of_content(run, "audit/*.json", content)]
    newest = {audit.by: audit for audit in sorted(audits, key=lambda audit: audit.version)}
    return tuple(sorted(newest.values(), key=lambda audit: (audit.trained, audit.by)))


def read_quality(run: Path, metric: str, content: str) -> list[dict[str, Any]]:
    """Return what `ddbench quality` wrote of a metric and the distilled set `content`, one record for each network.

    Raises ValueError for a file that cannot be read.
    """
    return _of_content(run, f"quality/{metric}-*.json", content)


def _of_content(run: Path, pattern: str, content: str) -> list[dict[str, Any]]:
    values = {path: read_json(path) for path in sorted(run.glob(pattern))}
    for path, value in values.items():
        if not isinstance(value, dict):
            raise ValueError(f"{path} is no JSON object")
    return [value for value in values.values() if value.get("content") == content]
