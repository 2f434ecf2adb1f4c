"""Attacks on the students of a canary plan as lines of a table. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ddbench.store.canaries import ATTACKS, FOUND, NOTHING, CanaryAudit, Lira
from ddbench.utils.units import format_seconds

HEADS = ("method", "accuracy, %", "attacked", "AUC", "TPR at 1 % FPR", "TPR: used, others", "reading", "time")


def canary_lines(audits: Sequence[CanaryAudit]) -> list[tuple[str, ...]]:
    """Return a line of HEADS for each attack on each method, without numbers where it has no finding."""
    lines: list[tuple[str, ...]] = []
    for audit in audits:
        accuracy = f"{100 * audit.accuracy:.1f} ± {100 * audit.accuracy_std:.1f}"
        time = format_seconds(audit.distillation_seconds + audit.student_seconds)
        label = audit.label if len({one.student for one in audits}) == 1 else f"{audit.label}, {audit.student}"
        for name in ATTACKS:
            lira = audit.finding(name, audits)
            numbers = _attack_texts(lira) if lira else ("-", "-", "-", "no finding: a control failed")
            lines.append((label, accuracy, f"{audit.attacks[name].images} {name}", *numbers, time))
    return lines


def canary_findings(audit: CanaryAudit, audits: Sequence[CanaryAudit]) -> dict[str, Any]:
    """Return an audit of a plan's `audits` as values, with None for an attack without a finding.

    `failed` names the controls that took it away.
    """
    values, failed = asdict(audit), {name: audit.failures(name, audits) for name in ATTACKS}
    values["attacks"] = {name: None if failed[name] else values["attacks"][name] for name in ATTACKS}
    return values | {"failed": failed}


def _attack_texts(lira: Lira) -> tuple[str, str, str, str]:
    """Return the AUC, the rates, those of used and other members, and what they mean."""
    auc = f"{lira.auc:.3f} [{lira.auc_low:.3f}, {lira.auc_high:.3f}]"
    rates = "; ".join(
        f"{100 * rate.tpr:.1f} % [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"
        + ("" if rate is lira.rates[0] else f" at {100 * rate.fpr:g} %")
        for rate in lira.rates
    )
    used, unused = ("-" if tpr is None else f"{100 * tpr:.1f} %" for tpr in (lira.used_tpr, lira.unused_tpr))
    return auc, rates, f"{used} of {lira.used}, {unused}" if lira.used else "-", lira_reading(lira)


def lira_reading(lira: Lira) -> str:
    """Return what an attack means, in words."""
    if lira.succeeds:
        return "the attack succeeds"
    rate = lira.rates[0].detectable
    least = "" if rate is None else f" or a TPR of {100 * rate:.1f} %"
    return f"the attack failed; it finds an AUC of {lira.detectable:.3f}{least} with power 0.8"


def canary_notes(audits: Sequence[CanaryAudit]) -> list[str]:
    """Return what the audits share, what their controls gave, and why there is no finding."""
    notes = [
        f"{one.dataset}, {one.size} px, IPC {max(other.ipc for other in audits)}, {one.protocol}, {one.student}: "
        f"{one.audited} audited images, half of them relabelled; {one.runs} distillations of random halves, a student "
        f"each (seed {one.seed})"
        for one in audits
    ]
    aucs = [control.auc for one in audits for control in one.controls.values()]
    if aucs:
        notes.append(f"control: halves of other images: AUC {min(aucs):.3f} to {max(aucs):.3f}, must be about 0.5")
    meanings = {FOUND: "has all images, so the attack must succeed", NOTHING: "has none of them, so it must fail"}
    notes += [f"control: {one.label} {meanings[one.known]}" for one in audits if one.known]
    if not any(one.known == FOUND for one in audits):
        notes.append('no control that must be found: add "full" to methods to see what the attack can find')
    failures = [f"FAILED: {reason}" for one in audits for reason in (*one.false_alarms(), *one.misses())]
    return list(dict.fromkeys([*notes, *failures]))
