"""Audits as lines of a table, for the terminal and the page. No torch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ddbench.store.audits import MEMBERSHIP, RANDOM_IMAGES, TEST_IMAGES, USE, Audit, Control, Distances, read_quality

log = logging.getLogger("ddbench")

HEADS = ("number", "distilled set", "test images instead", "reading")
TITLES = {USE: "use of an image", MEMBERSHIP: "membership"}

Line = tuple[str, str, str, str]  # of HEADS


def audit_lines(run: Path, audit: Audit) -> list[Line]:
    """Return the lines of an audit of a run folder. Where a control failed, its attack has no number."""
    lines = [line for attack in (USE, MEMBERSHIP) for line in _attack_lines(audit, attack)]
    if not audit.failed(USE):
        lines += _distance_lines(audit)
        lines += _ssim_lines(run, audit)
    copies, left_out = audit.copies, ""
    if copies.train or copies.test:
        left_out = f"{copies.train} training, {copies.test} test images left out of membership and ratio"
    lines.append(("pairs of copies across the split", f"{copies.exact} exact, {copies.near} near", "", left_out))
    return [*lines, *_control_lines(audit)]


def audit_findings(audit: Audit) -> dict[str, Any]:
    """Return an audit as values, without the numbers that a failed control takes away; `failed` names these controls.

    Of each attack. Controls of the use of an image take all numbers away.
    """
    values = asdict(audit)
    values["failed"] = {attack: control_names(audit.failed(attack)) for attack in (USE, MEMBERSHIP)}
    for attack in (USE, MEMBERSHIP):
        if audit.failed(attack):
            values[attack] = None
    for name in ("distances", "reference"):
        if audit.failed(USE):
            values[name] = None
        elif audit.failed(MEMBERSHIP):
            values[name]["ratio"] = None
    return values


def control_names(controls: Sequence[Control]) -> list[str]:
    """Return controls in words: "test images (membership)"."""
    return [f"{control.name} ({TITLES[control.attack]})" for control in controls]


def _attack_lines(audit: Audit, attack: str) -> Iterator[Line]:
    """Yield the AUC and the true positive rate of an attack, or why there is none."""
    title, result = TITLES[attack], audit.finding(attack)
    if failed := audit.failed(attack):
        names = ", ".join(control_names(failed))
        yield title, "-", "", f"no finding: the control failed: {names}"
    elif not result:
        reason = "no image of a class is left to compare with" if audit.named else "the set names no image that it used"
        yield title, "-", "", reason if attack == USE else "the classes are too small"
    else:
        instead = audit.baseline(attack)
        auc = f"{result.auc:.3f} [{result.auc_low:.3f}, {result.auc_high:.3f}]"
        yield f"{title}: AUC", auc, f"{instead.auc:.3f}" if instead else "", reading(audit, attack)
        tpr = f"{100 * result.tpr:.1f} % [{100 * result.tpr_low:.1f}, {100 * result.tpr_high:.1f}]"
        few = "; fewer than 100 others, so at an FPR of 0" if result.others < 100 else ""
        tpr_instead = "" if instead is None or instead.tpr is None else f"{100 * instead.tpr:.1f} %"
        yield f"{title}: TPR at 1 % FPR", tpr, tpr_instead, f"{result.members} members, {result.others} others{few}"


def reading(audit: Audit, attack: str) -> str:
    """Return what the AUC of a finding means, in words."""
    result = audit.finding(attack)
    if result is None:
        return ""
    if audit.succeeds(attack):
        return "the attack succeeds"
    if audit.finds_some(attack):
        return "the attack succeeds on some images: see the TPR"
    if result.auc_low > 0.5:
        return "the attack does as well on test images: the images are typical, not given away"
    least = "no AUC" if result.detectable is None else f"an AUC of {result.detectable:.3f}"
    return f"the attack failed; it finds {least} with power 0.8"


def _distance_lines(audit: Audit) -> Iterator[Line]:
    """Yield the distances of the set and of test images in its place."""
    ours, theirs = audit.distances, audit.reference

    def line(name: str, text: Callable[[Distances], str], reading: str) -> Line:
        return name, text(ours), text(theirs), reading

    background = f"{ours.background:.3f}, {ours.background_percentiles[-1]:.3f} among training images"
    yield line("cosine to nearest training image: mean, 95 %", _cosines, background)
    yield line(
        "above that of 95 % of training images", lambda d: f"{100 * d.above:.1f} %", "5 % of them are by themselves"
    )
    yield line("authentic images", lambda d: f"{100 * d.authentic:.1f} %", "below 50 % is suspicious")
    if not audit.failed(MEMBERSHIP):
        yield line("ratio of distances to training, test images", _ratio, "1: neither is nearer")


def _cosines(distances: Distances) -> str:
    return f"{distances.similarity:.3f}, {distances.percentiles[-1]:.3f}"


def _ratio(distances: Distances) -> str:
    return "-" if distances.ratio is None else f"{distances.ratio:.3f}"


def _ssim_lines(run: Path, audit: Audit) -> list[Line]:
    """Return what `ddbench quality --metric ssim` measured of the set; nothing where it did not, or is not readable."""
    try:
        values = [measure["values"] for measure in read_quality(run, "ssim", audit.content)]
        texts = [f"{of_set['nn_ssim']:.3f}, {of_set['largest']:.3f}" for of_set in values]
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("no NN-SSIM of %s: %s", run, error)
        return []
    return [("NN-SSIM: mean, largest", text, "", "five nearest training images; high for copies") for text in texts]


def _control_lines(audit: Audit) -> Iterator[Line]:
    """Yield what each control with a known answer gave, and the other ones."""
    if {control.name for control in audit.controls} <= {RANDOM_IMAGES, TEST_IMAGES}:
        yield "control: diffusion", "-", "", "not made: --runs has no other run of it at this IPC"
    for control in audit.controls:
        if control.auc is None:
            continue
        expected = (
            "no known answer"
            if control.expected is None
            else (f"{'FAILED: ' if control.failed else ''}must be {control.expected:.3f} ± {control.tolerance:.3f}")
        )
        yield f"control: {control.name}, {TITLES[control.attack]}", f"{control.auc:.3f}", "", expected
