"""Numbers beside accuracies, in full precision. Pure: from tables and costs. No torch."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddbench.leaderboard import CROSS, RANK
from ddbench.leaderboard.scaling import gain_per_image, images_for_accuracy, interval_of_images
from ddbench.leaderboard.statistics import average_ranks
from ddbench.leaderboard.table import (
    FULL,
    RANDOM,
    Cell,
    Column,
    Key,
    Row,
    Table,
    column_of,
    row_identity,
    student_groups,
)
from ddbench.store.audits import MEMBERSHIP, USE, Audit
from ddbench.store.costs import DistillationCost
from ddbench.store.records import StoredResult

# of csv and json, beside half_width, between and within, which they always have
FIELDS: dict[str, tuple[str, ...]] = {
    "interval": (),
    "components": (),
    "gain": ("gain",),
    "share": ("share",),
    "ratio": ("ratio", "ratio_relation", "ratio_low", "ratio_low_relation", "ratio_high", "ratio_high_relation"),
    "slope": ("slope", "slope_from"),
    "cross": ("cross_mean", "cross_worst", "cross_worst_student", "cross_students", "cross_drop", "cross_network"),
    "audit": ("audit_by", "use_auc", "use_tpr", "membership_auc", "membership_tpr"),
    "seconds": ("seconds",),
    "bytes": ("bytes",),
    "rank": ("rank",),
}
NEEDS = {  # of a column that is not to be empty
    "gain": "one row of `random` in the same column",
    "share": "one row of `full` in the same column",
    "ratio": "one row of `random`, with the same dataset, split, size, protocol and student",
    "slope": "results of a method at two IPCs, with the same dataset, split, size, protocol and student",
    "cross": "results of a row with two students, and with all students of its columns",
    "audit": "runs that `ddbench audit` looked at; an exported file has none",
    "seconds": "runs of ddbench, which record their time",
    "bytes": "results that record the size of their set",
    "rank": "a row with results in every column",
}

Values = dict[str, float | str | None]  # field -> full precision


@dataclass(frozen=True)
class CellCosts:
    """Mean costs of each cell.

    seconds: of a distillation, without reused stages
    size: bytes of a set with its soft labels
    audits: fields of the column "audit"
    """

    seconds: Mapping[Key, float] = field(default_factory=dict)
    size: Mapping[Key, float] = field(default_factory=dict)
    audits: Mapping[Key, Values] = field(default_factory=dict)


@dataclass(frozen=True)
class CrossArchitecture:
    """Accuracies of one row over all students of a group of columns, fractions.

    mean, worst: over students
    worst_student: name; the first by name of several
    students: number
    drop: accuracy on the distilling network less the mean over the other students; None without one among the students
    """

    mean: float
    worst: float
    worst_student: str
    students: int
    drop: float | None


def cell_costs(
    results: Iterable[StoredResult],
    costs: Mapping[Path, DistillationCost],
    audits: Mapping[Path, tuple[Audit, ...]] | None = None,
) -> CellCosts:
    """Average the costs and the audits of distillations, by folder of the run, over the runs of each cell."""
    seconds: dict[Key, dict[str, float]] = {}
    size: dict[Key, list[int]] = {}
    audited: dict[Key, dict[str, tuple[Audit, ...]]] = {}
    for stored in results:
        key = row_identity(stored), column_of(stored)
        cost = costs.get(stored.folder, DistillationCost())
        if cost.seconds is not None:
            seconds.setdefault(key, {})[stored.spec.digest] = cost.seconds
        if audits and audits.get(stored.folder):
            audited.setdefault(key, {})[stored.spec.digest] = audits[stored.folder]
        if stored.result.image_bytes is not None:
            size.setdefault(key, []).append(stored.result.image_bytes + (stored.result.label_bytes or 0))
    return CellCosts(
        {key: statistics.fmean(by_run.values()) for key, by_run in seconds.items()},
        {key: statistics.fmean(sizes) for key, sizes in size.items()},
        {key: audit_values(tuple(by_run.values())) for key, by_run in audited.items()},
    )


def audit_values(runs: Sequence[tuple[Audit, ...]]) -> Values:
    """Return means over runs, in the first embedding in which all of them were audited; nothing without one.

    An attack that lacks a finding in one of the runs is left out.
    """
    names = [audit.by for audit in runs[0] if all(audit.by in (one.by for one in run) for run in runs)]
    if not names:
        return {}
    values: Values = {"audit_by": names[0]}
    audits = [audit for run in runs for audit in run if audit.by == names[0]]
    for attack in (USE, MEMBERSHIP):
        findings = [audit.finding(attack) for audit in audits]
        for name in ("auc", "tpr") if all(findings) else ():
            values[f"{attack}_{name}"] = statistics.fmean(getattr(finding, name) for finding in findings)
    return values


def extra_values(
    board: Table, names: Sequence[str], costs: CellCosts, measured: Table | None = None
) -> dict[Key, Values]:
    """Return the fields of the columns `names`, of EXTRA_COLUMNS, for every computed cell; those that are known.

    measured: table of further IPCs, for the ratio and the slope; None for `board`
    """
    tables = _Tables(tuple(row for row in board.rows if not row.source), board, measured or board, costs)
    values: dict[Key, Values] = {(row.identity, column): {} for row, column, _ in tables.cells}
    for name in names:
        if name not in FIELDS:
            raise ValueError(f"unknown column {name!r}")
        for key, fields in _COLUMNS[name](tables) if name in _COLUMNS else ():
            if key in values:
                values[key] |= fields
    return values


@dataclass(frozen=True)
class _Tables:
    """A table, and the results and costs from which its extra columns are computed.

    rows: of `board`, without those of publications
    measured: `board` with further IPCs
    """

    rows: tuple[Row, ...]
    board: Table
    measured: Table
    costs: CellCosts

    @property
    def cells(self) -> list[tuple[Row, Column, Cell]]:
        """Every computed cell, row by row."""
        return [(row, column, cell) for row in self.rows for column, cell in row.cells.items()]


Fields = Iterator[tuple[Key, Values]]  # of one column: each cell with its fields


def _gains(tables: _Tables) -> Fields:
    random = _anchors(tables.rows, RANDOM)
    for row, column, cell in tables.cells:
        if column in random:
            yield (row.identity, column), {"gain": cell.mean - random[column].mean}


def _shares(tables: _Tables) -> Fields:
    full = _anchors(tables.rows, FULL)
    for row, column, cell in tables.cells:
        anchor = full.get(column, full.get(column.any_ipc))
        if anchor and anchor.mean:
            yield (row.identity, column), {"share": cell.mean / anchor.mean}


def _ratios(tables: _Tables) -> Fields:
    """Yield the equal-accuracy ratios; that of `random` is 1 by definition."""
    random = random_curves(tables.measured)
    for row, column, cell in tables.cells:
        curve = random.get(column.any_ipc)
        if not curve or row.method == FULL:
            continue
        if row.method == RANDOM:
            yield (row.identity, column), {"ratio": 1.0, "ratio_relation": "="}
            continue
        limits = {"ratio": images_for_accuracy(curve, cell.mean)}
        if interval := interval_of_images(curve, cell):
            limits |= {"ratio_low": interval[0], "ratio_high": interval[1]}
        values: Values = {}
        for field_name, limit in limits.items():
            values |= {field_name: limit.images / column.ipc, f"{field_name}_relation": limit.relation}
        yield (row.identity, column), values


def _slopes(tables: _Tables) -> Fields:
    for identity, groups in curves(tables.measured).items():
        for group, curve in groups.items():
            for column in (c for c in tables.measured.columns if c.any_ipc == group and c.ipc in curve):
                if gain := gain_per_image(curve, column.ipc):
                    yield (identity, column), {"slope": gain[0], "slope_from": gain[1]}


def _cross(tables: _Tables) -> Fields:
    for columns in student_groups(tables.board).values():
        for row in tables.rows:
            if cross := cross_architecture(row, columns):
                values = {f"cross_{field}": value for field, value in vars(cross).items()}
                for column in columns:
                    yield (row.identity, column), {**values, "cross_network": row.network or None}


def _costs(tables: _Tables, name: str, costs: Mapping[Key, Any]) -> Fields:
    for row, column, _ in tables.cells:  # `full` is copied into columns of every IPC, its costs are in its own
        cost = costs.get((row.identity, column), costs.get((row.identity, column.any_ipc)))
        if cost is not None:
            yield (row.identity, column), cost if isinstance(cost, dict) else {name: cost}


def _ranks(tables: _Tables) -> Fields:
    accuracies = {row.identity: {c: cell.mean for c, cell in row.cells.items()} for row in tables.rows if row.is_ranked}
    ranks = average_ranks(accuracies)
    for row, column, _ in tables.cells:
        if row.identity in ranks:
            yield (row.identity, column), {RANK: ranks[row.identity]}


_COLUMNS: Mapping[str, Callable[[_Tables], Fields]] = {
    "gain": _gains,
    "share": _shares,
    "ratio": _ratios,
    "slope": _slopes,
    CROSS: _cross,
    "seconds": lambda tables: _costs(tables, "seconds", tables.costs.seconds),
    "bytes": lambda tables: _costs(tables, "bytes", tables.costs.size),
    "audit": lambda tables: _costs(tables, "audit", tables.costs.audits),
    RANK: _ranks,
}


def _anchors(rows: Sequence[Row], method: str) -> dict[Column, Cell]:
    """Return the cells of `random` or `full`, of columns where it has one row."""
    cells = [(column, cell) for row in rows if row.method == method for column, cell in row.cells.items()]
    count = Counter(column for column, _ in cells)
    return {column: cell for column, cell in cells if count[column] == 1}


def curves(board: Table) -> dict[str, dict[Column, dict[int, Cell]]]:
    """Return the curves of every computed row: its identity -> what the columns share but the IPC -> IPC -> cell."""
    rows: dict[str, dict[Column, dict[int, Cell]]] = {}
    for row in board.rows:
        if row.method != FULL and not row.source:
            groups = rows.setdefault(row.identity, {})
            for column, cell in row.cells.items():
                groups.setdefault(column.any_ipc, {})[column.ipc] = cell
    return rows


def random_curves(board: Table) -> dict[Column, dict[int, Cell]]:
    """Return the curves of `random`; none where two rows of `random`, such as two versions, have results."""
    identities = {row.identity for row in board.rows if row.method == RANDOM}
    of_random = [groups for identity, groups in curves(board).items() if identity in identities]
    columns = [column for groups in of_random for column in groups]
    return {column: curve for groups in of_random for column, curve in groups.items() if columns.count(column) == 1}


def cross_architecture(row: Row, columns: tuple[Column, ...]) -> CrossArchitecture | None:
    """Return the accuracies of a row over the students of `columns`; None where it lacks one."""
    if not row.cells.keys() >= set(columns):
        return None
    by_student: Mapping[str, float] = {column.student: row.cells[column].mean for column in columns}
    worst = min(by_student, key=lambda student: (by_student[student], student))
    others = [accuracy for student, accuracy in by_student.items() if student != row.network]
    drop = by_student[row.network] - statistics.fmean(others) if row.network in by_student else None
    return CrossArchitecture(statistics.fmean(by_student.values()), by_student[worst], worst, len(by_student), drop)
