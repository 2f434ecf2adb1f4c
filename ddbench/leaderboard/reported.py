"""Numbers from papers, beside computed ones: marked, in no mean, in no test, never bold. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ddbench.config import read_toml, validate
from ddbench.errors import UserError
from ddbench.leaderboard.table import Cell, Column, Row, Table
from ddbench.utils.files import digest

KEY = "reported"


@dataclass(frozen=True)
class Reported:
    """One number of a paper. percent, std: as printed. source: where it is from, with the table.

    size, student, protocol, init: what else tells which column it stands in, where the others leave several.
    """

    method: str
    source: str
    dataset: str
    ipc: int
    percent: float
    std: float | None = None
    n: int | None = None
    size: int | None = None
    student: str | None = None
    protocol: str | None = None
    init: str | None = None


def read_reported(path: Path) -> tuple[Reported, ...]:
    """The numbers in a TOML file, one table [[reported]] each; UserError for words that are off."""
    told = read_toml(path)
    if set(told) != {KEY} or not isinstance(told[KEY], list):
        raise UserError(f"{path} needs a table [[{KEY}]] for each number, and nothing else; it has {', '.join(told)}")
    return tuple(_one(values, path) for values in told[KEY])


def _one(values: dict[str, Any], path: Path) -> Reported:
    found = validate(Reported, values, str(path))
    if lacking := [name for name in ("method", "source", "dataset", "ipc", "percent") if name not in found]:
        raise UserError(f"{path}: a reported number needs {', '.join(lacking)}: it has {values}")
    cleaned: dict[str, Any] = {
        name: " ".join(value.split()) if isinstance(value, str) else value for name, value in found.items()
    }
    made = Reported(**cleaned)
    if not 0 <= made.percent <= 100:
        raise UserError(f"{path}: {made.percent} is no percentage from 0 to 100")
    if (made.std or 0) < 0 or (made.n is not None and made.n < 1):
        raise UserError(f"{path}: std {made.std} and n {made.n} of {made.method}: from 0, and from 1")
    return made


def beside(board: Table, reported: Sequence[Reported]) -> tuple[Table, tuple[str, ...]]:
    """The table with a row of its own for each method and source, after all computed ones; the sources, by number.

    UserError for a number that fits no column of the table, or several.
    """
    sources = tuple(dict.fromkeys(one.source for one in reported))
    rows: dict[tuple[str, str], dict[Column, Cell]] = {}
    for one in reported:
        cell = Cell(one.percent / 100, None if one.std is None else one.std / 100, one.n or 0, 0)
        cells, where = rows.setdefault((one.method, one.source), {}), _column(board, one)
        if where in cells:
            raise UserError(f"{one.method} of {one.source} is reported twice for {one.dataset}, IPC {one.ipc}")
        cells[where] = cell
    made = [
        Row(f"{method} [{sources.index(source) + 1}]", method, None, digest([method, source]), cells, source)
        for (method, source), cells in rows.items()
    ]
    return replace(board, rows=(*board.rows, *made)), sources


def _column(board: Table, one: Reported) -> Column:
    asked = {name: getattr(one, name) for name in ("dataset", "ipc", "size", "student", "protocol", "init")}
    asked = {name: value for name, value in asked.items() if value is not None}
    found = [c for c in board.columns if all(getattr(c, name) == value for name, value in asked.items())]
    if len(found) == 1:
        return found[0]
    words = ", ".join(f"{name} {value}" for name, value in asked.items())
    if not found:
        raise UserError(f"{one.method} of {one.source}: this table has no column with {words}")
    several = "; ".join(f"size {c.size}, {c.student}, {c.protocol}, {c.init}" for c in found)
    raise UserError(f"{one.method} of {one.source}: which of {len(found)} columns with {words}? {several}")
