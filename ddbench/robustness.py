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

from ddbench.leaderboard import Column, table
from ddbench.runs import Entry

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


_Means = dict[tuple[Column, str], float]  # (place, identity of the row, or an anchor's name) -> accuracy


def lines(entries: Iterable[Entry], roles: Roles, weight: float = WEIGHT) -> list[Line]:
    """A line for every method but the anchors, by place and label. The order of the entries does not matter."""
    entries = list(entries)
    means = {role: _means([e for e in entries if _serves(e, role, roles)]) for role in vars(roles)}
    labels = {row.identity: row.label for row in table(entries).rows}
    methods = {key for found in means.values() for key in found if key[1] in labels}
    found = [_line(where, row, labels[row], means, weight) for where, row in methods]
    return sorted(found, key=lambda line: (line.where, line.label))


def score(x: float) -> float:
    """The paper's map of -1..1 to 0..1."""
    return (math.exp(x) - math.exp(-1)) / (math.e - math.exp(-1))


def _serves(entry: Entry, role: str, roles: Roles) -> bool:
    """Whether a result is of the role; one under the protocol in question is also hard when its labels were."""
    title = f"{entry.result.protocol}@{entry.result.protocol_version}"
    return title == getattr(roles, role) or (role == "hard" and title == roles.own and not entry.result.label_bytes)


def _means(entries: list[Entry]) -> _Means:
    """By place; the anchors under their names, `full` as if it had every IPC."""
    found: _Means = {}
    for row in table(entries).rows:
        name = row.method if row.method in (RANDOM, FULL) else row.identity
        for column, cell in row.cells.items():
            ipc = 0 if row.method == FULL else column.ipc
            found[replace(column, protocol="", protocol_hash="", ipc=ipc), name] = cell.mean
    return found


def _line(where: Column, row: str, label: str, means: dict[str, _Means], weight: float) -> Line:
    own, hard, plain = (means[role].get((where, row)) for role in means)
    by_chance, by_chance_plain = (means[role].get((where, RANDOM)) for role in ("own", "plain"))
    full = means["hard"].get((replace(where, ipc=0), FULL))
    ior, plain_ior, hlr = _less(own, by_chance), _less(plain, by_chance_plain), _less(full, hard)
    lrs = None if ior is None or hlr is None else score(weight * ior - (1 - weight) * hlr)
    ars = None if ior is None or plain_ior is None else score(weight * ior + (1 - weight) * plain_ior)
    return Line(where, label, own, hard, plain, ior, hlr, lrs, ars)


def _less(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
