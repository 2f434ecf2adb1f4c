"""Columns beside accuracies: gain, share, intervals, costs, ranks. Pure: from rows and costs. No torch."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ddbench.leaderboard.statistics import average_ranks
from ddbench.leaderboard.table import FULL, RANDOM, Cell, Column, Row, Table, column_of, row_identity
from ddbench.store.costs import DistillationCost
from ddbench.store.records import StoredResult

RANK = "rank"  # of EXTRA_COLUMNS the one that a row has once, after all its accuracies
Key = tuple[str, Column]  # a row's identity, a column


@dataclass(frozen=True)
class CellCosts:
    """Mean costs of each cell.

    seconds: of a distillation, without reused stages
    size: bytes of a set with its soft labels
    """

    seconds: Mapping[Key, float] = field(default_factory=dict)
    size: Mapping[Key, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ExtraCells:
    """Texts that a table shows besides accuracies.

    names: of the columns beside each accuracy
    row_names: of the columns after all accuracies
    cells: (row's identity, column) -> a text for each of `names`
    row_cells: row's identity -> a text for each of `row_names`
    """

    names: tuple[str, ...]
    row_names: tuple[str, ...]
    cells: Mapping[Key, list[str]]
    row_cells: Mapping[str, list[str]]


def cell_costs(results: Iterable[StoredResult], costs: Mapping[Path, DistillationCost]) -> CellCosts:
    """Average the costs of distillations, by folder of the run, over the runs of each cell."""
    seconds: dict[Key, dict[str, float]] = {}
    size: dict[Key, list[int]] = {}
    for stored in results:
        key = row_identity(stored), column_of(stored)
        cost = costs.get(stored.folder, DistillationCost())
        if cost.seconds is not None:
            seconds.setdefault(key, {})[stored.spec.digest] = cost.seconds
        if stored.result.image_bytes is not None:
            size.setdefault(key, []).append(stored.result.image_bytes + (stored.result.label_bytes or 0))
    return CellCosts(
        {key: statistics.fmean(by_run.values()) for key, by_run in seconds.items()},
        {key: statistics.fmean(sizes) for key, sizes in size.items()},
    )


def extra_cells(board: Table, names: Sequence[str], costs: CellCosts) -> ExtraCells:
    """Return the texts of the columns `names`, of EXTRA_COLUMNS."""
    inner = tuple(name for name in names if name != RANK)
    cells = {
        (row.identity, column): [extra_cell(name, board, row, column, costs) for name in inner]
        for row in board.rows
        for column in board.columns
    }
    if RANK not in names:
        return ExtraCells(inner, (), cells, {row.identity: [] for row in board.rows})
    means = {row.identity: {c: cell.mean for c, cell in row.cells.items()} for row in board.rows if row.is_ranked}
    ranks = average_ranks(means)
    row_cells = {row.identity: [f"{ranks[row.identity]:.1f}" if row.identity in ranks else "-"] for row in board.rows}
    return ExtraCells(inner, (RANK,), cells, row_cells)


def extra_cell(name: str, board: Table, row: Row, column: Column, costs: CellCosts) -> str:
    """Return the text of one cell; empty where the value is unknown and in rows that papers report.

    components: deviation among distillations / among the students of a distillation, both in points
    """
    cell = row.cells.get(column)
    if cell is None or row.source:
        return ""
    if name == "interval":
        return "" if cell.half_width is None else f"± {100 * cell.half_width:.1f}"
    if name == "components":
        parts = ["-" if value is None else f"{100 * value:.1f}" for value in (cell.between, cell.within)]
        return "" if parts == ["-", "-"] else " / ".join(parts)
    if name == "gain":
        gain = gain_over_random(board, cell, column)
        return "" if gain is None else f"{100 * gain:+.1f}"
    if name == "share":
        share = share_of_full(board, cell, column)
        return "" if share is None else f"{100 * share:.1f} %"
    if name == "seconds":
        seconds = _cost_of(costs.seconds, row, column)
        return "" if seconds is None else f"{seconds:.0f} s"
    if name == "bytes":
        size = _cost_of(costs.size, row, column)
        return "" if size is None else f"{size / 1e6:.2f} MB"
    raise ValueError(f"unknown column {name!r}")


def gain_over_random(board: Table, cell: Cell, column: Column) -> float | None:
    """Return the accuracy less that of `random` in the same column; None without it."""
    random = _anchor(board, RANDOM, column)
    return cell.mean - random.mean if random else None


def share_of_full(board: Table, cell: Cell, column: Column) -> float | None:
    """Return the accuracy divided by that of `full` in the same column; None without it."""
    full = _anchor(board, FULL, column)
    return cell.mean / full.mean if full and full.mean else None


def _anchor(board: Table, method: str, column: Column) -> Cell | None:
    """Return the cell of `random` or `full` in a column; None where there is none, or several."""
    cells = [row.cells[column] for row in board.rows if row.method == method and not row.source and column in row.cells]
    return cells[0] if len(cells) == 1 else None


def _cost_of(costs: Mapping[Key, float], row: Row, column: Column) -> float | None:
    """Return the cost of a cell; that of `full`, which is copied into columns of every IPC, is in its own column."""
    return costs.get((row.identity, column), costs.get((row.identity, column.any_ipc)))
