"""DD-Ranking's scores from stored results: how far a ranking depends on the protocol. Pure. No torch.

Li et al. 2025, arXiv:2505.13300, all on fractions:

    IOR  gain over random under the protocol in question         Acc(method) - Acc(random)
    HLR  loss to the full data under hard labels                 Acc(full) - Acc(method)
    LRS  label-robust score       (e^a - 1/e) / (e - 1/e),  a = w IOR - (1 - w) HLR
    ARS  augmentation-robust score, the same of              b = g IOR + (1 - g) IOR without augmentation

Scores run from 0 (worst) to 1 (best); a set worth exactly random images and exactly the full data has 0.269.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ddbench.leaderboard.table import FULL, RANDOM, Column, column_of, make_table, row_identity
from ddbench.store.records import StoredResult

WEIGHT = 0.5  # the paper's w and g


@dataclass(frozen=True)
class ProtocolRoles:
    """Names and versions of protocols.

    own: the protocol in question
    hard: the same on hard labels
    plain: the same without augmentation
    """

    own: str = "quick@1"
    hard: str = "quick-hard@1"
    plain: str = "quick-plain@1"


@dataclass(frozen=True)
class RobustnessRow:
    """Scores of one method in one column; None where a result is missing.

    where: the column, with empty protocol and protocol_hash, which differ between the roles
    label: the method's row in a table
    own, hard, plain: mean accuracy by role, fraction
    ior, hlr, lrs, ars: scores
    """

    where: Column
    label: str
    own: float | None
    hard: float | None
    plain: float | None
    ior: float | None
    hlr: float | None
    lrs: float | None
    ars: float | None


@dataclass(frozen=True)
class _Mean:
    """Accuracy of a cell.

    overall: mean accuracy, fraction
    soft: whether students learned from soft labels, of the set or of a teacher
    """

    overall: float
    soft: bool


_Means = dict[tuple[Column, str], _Mean]  # (column, identity of the row, or an anchor's name) -> accuracy


def robustness_rows(
    results: Iterable[StoredResult], roles: ProtocolRoles, weight: float = WEIGHT
) -> list[RobustnessRow]:
    """Return a row for every method but the anchors, by column and label, whatever the order of the results.

    A gain over random is given only where both learned from labels of the same kind. Against random images with hard
    labels, the worth of a set's soft labels would count as that of its images.
    """
    results = list(results)
    under = {title: [s for s in results if s.result.title == title] for title in vars(roles).values()}
    own, plain = _means(under[roles.own]), _means(under[roles.plain])
    # a set with hard labels needs no run under `hard`
    hard = _means([stored for stored in under[roles.own] if not _is_soft(stored)]) | _means(under[roles.hard])
    of_role = {"own": own, "hard": hard, "plain": plain}

    labels = {row.identity: row.label for row in make_table(results).rows}
    rows = []
    for column, row in {key for means in of_role.values() for key in means if key[1] in labels}:
        key, random, full = (column, row), (column, RANDOM), (replace(column, ipc=0), FULL)
        ior = _difference(own.get(key), own.get(random))
        plain_ior = _difference(plain.get(key), plain.get(random))
        hlr = _difference(hard.get(full), hard.get(key))
        lrs = None if ior is None or hlr is None else score(weight * ior - (1 - weight) * hlr)
        ars = None if ior is None or plain_ior is None else score(weight * ior + (1 - weight) * plain_ior)
        by_role = {role: means[key].overall if key in means else None for role, means in of_role.items()}
        rows.append(RobustnessRow(column, labels[row], **by_role, ior=ior, hlr=hlr, lrs=lrs, ars=ars))
    return sorted(rows, key=lambda row: (row.where, row.label))


def score(x: float) -> float:
    """Map -1..1 to 0..1 as the paper does: (e^x - 1/e) / (e - 1/e)."""
    return (math.exp(x) - math.exp(-1)) / (math.e - math.exp(-1))


def _means(results: list[StoredResult]) -> _Means:
    """Return the accuracy of every cell, without its protocol.

    The anchors (ours, the newest version) have their name as identity.
    """
    groups: dict[str, list[StoredResult]] = defaultdict(list)  # by name of the anchor, "" for all others
    for stored in results:
        is_anchor = stored.spec.method in (RANDOM, FULL) and not stored.spec.source  # no user's file of that name
        groups[stored.spec.method if is_anchor else ""].append(stored)
    means: _Means = {}
    for name, group in groups.items():
        version = {row_identity(stored): stored.spec.method_version for stored in group}
        soft = {(row_identity(stored), column_of(stored)) for stored in group if _is_soft(stored)}
        for row in sorted(make_table(group).rows, key=lambda row: version[row.identity]):  # the newest overwrites
            for column, cell in row.cells.items():
                place = replace(column, protocol="", protocol_hash="")
                means[place, name or row.identity] = _Mean(cell.mean, (row.identity, column) in soft)
    return means


def _is_soft(stored: StoredResult) -> bool:
    """Return whether the student learned from soft labels; versions that did not record it had none."""
    return bool(stored.result.label_bytes)


def _difference(a: _Mean | None, b: _Mean | None) -> float | None:
    """Return a - b; None where one is missing, or their labels are of different kinds."""
    return None if a is None or b is None or a.soft != b.soft else a.overall - b.overall
