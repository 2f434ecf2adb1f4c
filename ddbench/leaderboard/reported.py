"""Numbers from papers in rows of their own: marked, in no mean, in no test, never bold. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from ddbench.config import read_toml, validate
from ddbench.errors import UserError
from ddbench.leaderboard.table import Cell, Column, Row, Table
from ddbench.utils.files import digest

KEY = "reported"
REQUIRED = ("method", "source", "dataset", "ipc", "percent")


@dataclass(frozen=True)
class Reported:
    """One number of a paper. The optional names select its column where the others fit several.

    method: name of the method, as the paper has it
    source: paper and table
    dataset: name of the dataset
    ipc: images per class
    percent: accuracy as printed, 0 to 100
    std: deviation as printed, points
    n: number of distillations
    size: side of the images, pixels
    student, protocol, init: name of the student, NAME@VERSION of the protocol, initialisation of the weights
    """

    method: str
    source: str
    dataset: str
    ipc: int
    percent: Annotated[float, Meta(ge=0, le=100)]
    std: Annotated[float, Meta(ge=0)] | None = None
    n: Annotated[int, Meta(ge=1)] | None = None
    size: int | None = None
    student: str | None = None
    protocol: str | None = None
    init: str | None = None


def read_reported(path: Path) -> tuple[Reported, ...]:
    """Read the numbers of a TOML file, one table [[reported]] each. Raises UserError for wrong keys and values."""
    config = read_toml(path)
    if set(config) != {KEY} or not isinstance(config[KEY], list):
        raise UserError(f"{path} must have one table [[{KEY}]] per number and nothing else; it has {', '.join(config)}")
    numbers = []
    for values in config[KEY]:
        fields = validate(Reported, values, str(path))
        if missing := [name for name in REQUIRED if name not in fields]:
            raise UserError(f"{path}: a reported number lacks {', '.join(missing)}; it has {values}")
        one_line: dict[str, Any] = {
            name: " ".join(v.split()) if isinstance(v, str) else v for name, v in fields.items()
        }
        numbers.append(Reported(**one_line))
    return tuple(numbers)


def add_reported_rows(board: Table, reported: Sequence[Reported]) -> tuple[Table, tuple[str, ...]]:
    """Add a row for each method and source below the computed rows; also return the numbered sources.

    Raises UserError for a number that fits no column of the table, or several.
    """
    sources = tuple(dict.fromkeys(number.source for number in reported))
    rows: dict[tuple[str, str], dict[Column, Cell]] = {}
    for number in reported:
        std = None if number.std is None else number.std / 100
        cells, column = rows.setdefault((number.method, number.source), {}), _column(board, number)
        if column in cells:
            where = f"{number.dataset}, IPC {number.ipc}"
            raise UserError(f"{number.method} of {number.source} is reported twice for {where}")
        cells[column] = Cell(number.percent / 100, std, number.n or 0, 0)
    added = [
        Row(f"{method} [{sources.index(source) + 1}]", method, None, digest([method, source]), cells, source)
        for (method, source), cells in rows.items()
    ]
    return replace(board, rows=(*board.rows, *added)), sources


def _column(board: Table, number: Reported) -> Column:
    """Return the column of a number; UserError where none fits, or several do."""
    fields = {name: getattr(number, name) for name in ("dataset", "ipc", "size", "student", "protocol", "init")}
    fields = {name: value for name, value in fields.items() if value is not None}
    columns = [c for c in board.columns if all(getattr(c, name) == value for name, value in fields.items())]
    if len(columns) == 1:
        return columns[0]
    place = ", ".join(f"{name} {value}" for name, value in fields.items())
    if not columns:
        raise UserError(f"{number.method} of {number.source}: this table has no column with {place}")
    choices = "; ".join(f"size {c.size}, {c.student}, {c.protocol}, {c.init}" for c in columns)
    raise UserError(f"{number.method} of {number.source}: {len(columns)} columns have {place}; choose one: {choices}")
