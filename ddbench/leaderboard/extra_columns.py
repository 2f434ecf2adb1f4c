"""Columns that a table shows beside each accuracy when asked: pure, from rows and what their runs cost. No torch."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from ddbench.leaderboard.statistics import average_ranks
from ddbench.leaderboard.table import FULL, RANDOM, Cell, Column, Row, Table, column, row_identity
from ddbench.store.records import StoredResult

Key = tuple[str, Column]  # a row's identity, a column


@dataclass(frozen=True)
class Costs:
    """Of each cell: mean seconds of a distillation, without what it found made; mean bytes of a set with its labels."""

    seconds: Mapping[Key, float] = field(default_factory=dict)
    size: Mapping[Key, float] = field(default_factory=dict)


def costs(entries: Iterable[StoredResult], seconds: Callable[[StoredResult], float | None]) -> Costs:
    """What the runs of `entries` cost; seconds: of an entry's distillation, None where nobody knows."""
    took: dict[Key, dict[str, float | None]] = {}
    kept: dict[Key, list[int]] = {}
    for entry in entries:
        key = row_identity(entry), column(entry)
        if entry.spec.digest not in took.setdefault(key, {}):
            took[key][entry.spec.digest] = seconds(entry)
        if entry.result.image_bytes is not None:
            kept.setdefault(key, []).append(entry.result.image_bytes + (entry.result.label_bytes or 0))
    known = {key: [found for found in by_run.values() if found is not None] for key, by_run in took.items()}
    return Costs(
        {key: statistics.fmean(found) for key, found in known.items() if found},
        {key: statistics.fmean(found) for key, found in kept.items()},
    )


def shown(name: str, board: Table, row: Row, where: Column, costs: Costs) -> str:
    """One cell of the derived column `name`; empty where it cannot be known."""
    cell = row.cells.get(where)
    return EXTRAS[name](cell, board, (row.identity, where), costs) if cell and not row.source else ""


def ranks(board: Table) -> dict[str, float]:
    """The mean rank of each row over all columns; none for rows that lack one, nor for the anchor of all images."""
    means = {row.identity: {c: cell.mean for c, cell in row.cells.items()} for row in board.rows if row.competes}
    return average_ranks(means)


def _interval(cell: Cell, board: Table, key: Key, costs: Costs) -> str:
    return "" if cell.half_width is None else f"± {100 * cell.half_width:.1f}"


def _components(cell: Cell, board: Table, key: Key, costs: Costs) -> str:
    """ "between / within": deviations among distillations, and among a distillation's students."""
    parts = ["-" if value is None else f"{100 * value:.1f}" for value in (cell.between, cell.within)]
    return "" if parts == ["-", "-"] else " / ".join(parts)


def _gain(cell: Cell, board: Table, key: Key, costs: Costs) -> str:
    anchor = anchor_of(board, RANDOM, key[1])
    return "" if anchor is None else f"{100 * (cell.mean - anchor.mean):+.1f}"


def _share(cell: Cell, board: Table, key: Key, costs: Costs) -> str:
    anchor = anchor_of(board, FULL, key[1])
    return "" if not anchor or not anchor.mean else f"{100 * cell.mean / anchor.mean:.1f} %"


def _seconds(cell: Cell, board: Table, key: Key, costs: Costs) -> str:
    found = _whole_or(costs.seconds, key)
    return "" if found is None else f"{found:.0f} s"


def _bytes(cell: Cell, board: Table, key: Key, costs: Costs) -> str:
    found = _whole_or(costs.size, key)
    return "" if found is None else f"{found / 1e6:.2f} MB"


def _whole_or(found: Mapping[Key, float], key: Key) -> float | None:
    """What a cell cost; one of all training images, which stands in columns of every IPC, has it in its own."""
    row, where = key
    return found.get(key, found.get((row, where.any_ipc)))


def anchor_of(board: Table, method: str, where: Column) -> Cell | None:
    """The anchor's accuracy in a column; None where there is none, or several."""
    found = [row.cells[where] for row in board.rows if row.method == method and not row.source and where in row.cells]
    return found[0] if len(found) == 1 else None


EXTRAS: dict[str, Callable[[Cell, Table, Key, Costs], str]] = {
    "interval": _interval,
    "components": _components,
    "gain": _gain,
    "share": _share,
    "seconds": _seconds,
    "bytes": _bytes,
}
