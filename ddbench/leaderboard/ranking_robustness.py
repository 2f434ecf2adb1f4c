"""How far a ranking depends on how it was judged: DD-Ranking's scores, from stored results. Pure. No torch.

Li et al. 2025, arXiv:2505.13300, all on fractions:

    IOR  gain over random under the protocol in question         Acc(method) - Acc(random)
    HLR  loss to the full data under hard labels                 Acc(full) - Acc(method)
    LRS  label-robust score       (e^a - 1/e) / (e - 1/e),  a = w IOR - (1 - w) HLR
    ARS  augmentation-robust score, the same of              b = g IOR + (1 - g) IOR without augmentation

0 is as bad as can be, 1 as good; a set worth exactly random images and exactly the full data has 0.269.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ddbench.leaderboard.table import Column, row_identity, table
from ddbench.leaderboard.table import column as column_of
from ddbench.store.records import StoredResult

RANDOM, FULL = "random", "full"  # methods that anchor
WEIGHT = 0.5  # the paper's w and g


@dataclass(frozen=True)
class Roles:
    """Titles of protocols. own: the one in question; hard: it on hard labels; plain: it without augmentation."""

    own: str = "quick@1"
    hard: str = "quick-hard@1"
    plain: str = "quick-plain@1"


@dataclass(frozen=True)
class Line:
    """One method at one place: mean accuracies by role, and what follows; None where a result is missing.

    where: the column, without protocol and recipe, which differ between the roles.
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
    """overall: mean accuracy of a cell. soft: whether its sets brought soft labels, or a teacher gave some."""

    overall: float
    soft: bool


_Means = dict[tuple[Column, str], _Mean]  # (place, identity of the row, or an anchor's name) -> accuracy


def lines(entries: Iterable[StoredResult], roles: Roles, weight: float = WEIGHT) -> list[Line]:
    """A line for every method but the anchors, by place and label. The order of the entries does not matter.

    A gain over random is told only where both learned from the same kind of labels: against random images with hard
    labels, what a set's own soft labels are worth would count as its images'.
    """
    entries = list(entries)
    means = {role: _of_role(entries, role, roles) for role in vars(roles)}
    labels = {row.identity: row.label for row in table(entries).rows}
    methods = {key for found in means.values() for key in found if key[1] in labels}
    found = [_line(where, row, labels[row], means, weight) for where, row in methods]
    return sorted(found, key=lambda line: (line.where, line.label))


def score(x: float) -> float:
    """The paper's map of -1..1 to 0..1."""
    return (math.exp(x) - math.exp(-1)) / (math.e - math.exp(-1))


def _of_role(entries: list[StoredResult], role: str, roles: Roles) -> _Means:
    """Under the role's protocol; hard labels also under the protocol in question, where a set has no result of that."""
    found = _means([entry for entry in entries if entry.result.title == getattr(roles, role)])
    if role != "hard":
        return found
    also = [entry for entry in entries if entry.result.title == roles.own and not _is_soft(entry)]
    return _means(also) | found


def _means(entries: list[StoredResult]) -> _Means:
    """By place; the anchors (ours, the newest version) under their names, `full` as if it had every IPC."""
    found: _Means = {}
    for name in (RANDOM, FULL, ""):
        some = [entry for entry in entries if _anchor(entry) == name]
        version = {row_identity(entry): entry.spec.method_version for entry in some}
        soft = {(row_identity(entry), column_of(entry)) for entry in some if _is_soft(entry)}
        for row in sorted(table(some).rows, key=lambda row: version[row.identity]):  # the newest of a place comes last
            for column, cell in row.cells.items():
                place = replace(column, protocol="", protocol_hash="")
                found[place, name or row.identity] = _Mean(cell.mean, (row.identity, column) in soft)
    return found


def _anchor(entry: StoredResult) -> str:
    """ "random" or "full" for ours, which no file of the user's is; else nothing."""
    return entry.spec.method if entry.spec.method in (RANDOM, FULL) and not entry.spec.source else ""


def _is_soft(entry: StoredResult) -> bool:
    """Results of versions that did not say could not learn from soft labels."""
    return bool(entry.result.label_bytes)


def _line(where: Column, row: str, label: str, means: dict[str, _Means], weight: float) -> Line:
    own, hard, plain = (means[role].get((where, row)) for role in means)
    by_chance, by_chance_plain = (means[role].get((where, RANDOM)) for role in ("own", "plain"))
    full = means["hard"].get((replace(where, ipc=0), FULL))
    ior, plain_ior, hlr = _less(own, by_chance), _less(plain, by_chance_plain), _less(full, hard)
    lrs = None if ior is None or hlr is None else score(weight * ior - (1 - weight) * hlr)
    ars = None if ior is None or plain_ior is None else score(weight * ior + (1 - weight) * plain_ior)
    return Line(where, label, _overall(own), _overall(hard), _overall(plain), ior, hlr, lrs, ars)


def _overall(mean: _Mean | None) -> float | None:
    return None if mean is None else mean.overall


def _less(a: _Mean | None, b: _Mean | None) -> float | None:
    return None if a is None or b is None or a.soft != b.soft else a.overall - b.overall
