"""Rows to text, Markdown, LaTeX, CSV and JSON. Fractions become per cent here and nowhere else. No torch."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any

from tabulate import tabulate

from ddbench.leaderboard.extra_columns import Costs, ranks, shown
from ddbench.leaderboard.latex import latex
from ddbench.leaderboard.reported import Reported, beside
from ddbench.leaderboard.table import Cell, Column, Row, Table, anchored, common, row_identity, table
from ddbench.store.records import StoredResult

Extras = tuple[str, ...]

RANK = "rank"
MISSING = "-"
UNSAID = ("protocol_hash", "judge")  # not in a caption: a protocol's title says as much, as long as it is one
FORMATS = ("text", "markdown", "latex", "csv", "json")


@dataclass(frozen=True)
class Look:
    """What a table shows besides. extras: of derived.EXTRAS, and "rank". spent: what "seconds" and "bytes" ask for."""

    extras: tuple[str, ...] = ()
    spent: Costs = field(default_factory=Costs)
    reported: tuple[Reported, ...] = ()


def render(entries: Sequence[StoredResult], form: str = "text", look: Look | None = None) -> str:
    """The leaderboard of `entries` in one of FORMATS, ending with a newline.

    text, markdown and latex show per cent, mean ± sample standard deviation over distillation seeds, all training
    images in every column; csv and json hold fractions in full precision, json with every result and the spec of its
    run. UserError for a reported number that fits no column.
    """
    if form in _WHOLE:
        return _WHOLE[form](entries)
    board, look = anchored(table(entries)), look or Look()
    if not board.rows:
        return "no results yet\n"
    board, sources = beside(board, look.reported)
    said = "".join(f"; [{i}] reported by {source}, not computed here" for i, source in enumerate(sources, 1))
    return _SHOWN[form](board, look.extras, look.spent, said)


def _text(board: Table, extras: Extras, spent: Costs, said: str) -> str:
    return f"{_grid(board, extras, spent, 'simple')}\n\n{_caption(board)}{said}\n"


def _markdown(board: Table, extras: Extras, spent: Costs, said: str) -> str:
    return f"{_grid(board, extras, spent, 'pipe')}\n\n*{_caption(board)}{said}*\n"


def _grid(board: Table, extras: Extras, spent: Costs, style: str) -> str:
    heads = [[head, *(f"{head} {name}" for name in _of_cells(extras))] for head in _heads(board)]
    body = []
    for row, others in zip(board.rows, _beside(board, extras, spent), strict=True):
        cells = [[_shown(row, column), *more] for column, more in zip(board.columns, others, strict=False)]
        label = row.label.replace("|", "\\|") if style == "pipe" else row.label
        body.append([label, *chain.from_iterable([*cells, *others[len(board.columns) :]])])
    first = ["method", *chain.from_iterable(heads), *([RANK] if RANK in extras else [])]
    align = ["left"] + ["right"] * (len(first) - 1)
    return tabulate(body, first, tablefmt=style, disable_numparse=True, colalign=align)


def _of_cells(extras: Extras) -> Extras:
    return tuple(name for name in extras if name != RANK)


def _beside(board: Table, extras: Extras, spent: Costs) -> list[list[list[str]]]:
    """By row, by column, what is shown beside the accuracy; the row's rank after all columns."""
    found = ranks(board) if RANK in extras else {}
    return [
        [
            *([shown(name, board, row, column, spent) for name in _of_cells(extras)] for column in board.columns),
            *([[f"{found[row.identity]:.1f}" if row.identity in found else MISSING]] if RANK in extras else []),
        ]
        for row in board.rows
    ]


def _shown(row: Row, column: Column) -> str:
    return _number(row.cells[column]) if column in row.cells else MISSING


def _number(cell: Cell) -> str:
    """ "61.2 ± 0.8 (n=3)"; without a deviation for a single distillation."""
    spread = "" if cell.std is None else f" ± {100 * cell.std:.1f}"
    return f"{100 * cell.mean:.1f}{spread}" + (f" (n={cell.n})" if cell.n else "")


_WORDS: dict[str, Callable[[Column], str]] = {
    "dataset": lambda column: column.dataset,
    "size": lambda column: f"{column.size} px",
    "ipc": lambda column: (
        f"{column.ipc} image{'s' * (column.ipc > 1)} per class" if column.ipc else "all training images"
    ),
    "protocol": lambda column: column.protocol,
    "student": lambda column: column.student,
    "init": lambda column: column.init,
    "precision": lambda column: column.precision,
    "fingerprint": lambda column: f"split {column.parted}",
    "protocol_hash": lambda column: f"recipe {column.protocol_hash[:8]}",
    "judge": lambda column: f"judge {column.judge}",
}
_IN_HEADS = _WORDS | {"ipc": lambda column: f"IPC {column.ipc}" if column.ipc else "all images"}


def _heads(board: Table) -> list[str]:
    """What tells each column from the others; at least the student."""
    shared = common(board)
    varying = [name for name in _WORDS if name not in shared or name == "student"]
    plain = _words(board, [name for name in varying if not _follows(name)])
    often = {head for head in plain if plain.count(head) > 1}
    details = _words(board, [name for name in varying if _follows(name)])
    return [f"{head} {detail}" if head in often else head for head, detail in zip(plain, details, strict=True)]


def _words(board: Table, names: Sequence[str]) -> list[str]:
    """What each column has under these names, for its head."""
    return [" ".join(_IN_HEADS[name](column) for name in names) for column in board.columns]


def _follows(name: str) -> bool:
    """Digests and the judge's version are shown only where nothing else tells two columns apart."""
    return name in ("fingerprint", *UNSAID)


def _caption(board: Table) -> str:
    shared = common(board)
    said = [_WORDS[name](board.columns[0]) for name in _WORDS if name in shared and name not in UNSAID]
    if board.columns and "ipc" not in shared:
        said.append("by images per class (IPC)")
    if board.columns and "fingerprint" not in shared:
        said.append(f"splits: {', '.join(sorted({f'{c.dataset} {c.parted}' for c in board.columns}))}")
    how = "overall accuracy in %, mean ± sample std over n distillations"
    return f"{', '.join(said)}; {how}" if said else how


def _csv(entries: Sequence[StoredResult]) -> str:
    out = io.StringIO()
    cells = [name for name in Cell.__dataclass_fields__ if name != "by_seed"]
    fields = ["method", "label", "preset", "identity", *Column.__dataclass_fields__, *cells]
    writer = csv.DictWriter(out, fields, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(_lines(table(entries)))
    return out.getvalue()


def _lines(board: Table) -> list[dict[str, Any]]:
    """One flat record per cell."""
    return [
        {**_head(row), **asdict(column), **asdict(row.cells[column])}
        for row in board.rows
        for column in board.columns
        if column in row.cells
    ]


def _head(row: Row) -> dict[str, Any]:
    return {"method": row.method, "label": row.label, "preset": row.preset, "identity": row.identity}


def _json(entries: Sequence[StoredResult]) -> str:
    board = {"rows": _lines(table(entries)), "results": [_whole(entry) for entry in entries]}
    return json.dumps(board, indent=2, allow_nan=False) + "\n"


def _whole(entry: StoredResult) -> dict[str, Any]:
    head = {"path": str(entry.path), "row": row_identity(entry)}
    return {**head, "spec": asdict(entry.spec), "result": asdict(entry.result)}


def _latex(board: Table, extras: Extras, spent: Costs, said: str) -> str:
    caption = f"{_caption(board)}, {_ns(board)}{said}"
    return latex(board, _levels(board, extras), caption, _beside(board, extras, spent))


def _ns(board: Table) -> str:
    """How many distillations the means are of: a LaTeX cell does not say."""
    counts = sorted({cell.n for row in board.rows if not row.source for cell in row.cells.values()})
    return f"n = {counts[0]}" if len(counts) == 1 else f"n from {counts[0]} to {counts[-1]}"


def _levels(board: Table, extras: Extras) -> list[list[str]]:
    """Heads of datasets, of images per class, of whatever else differs; at the least the student."""
    shared, inner = common(board), _of_cells(extras)
    parts = (("dataset", "size"), ("ipc",), tuple(name for name in _WORDS if name not in ("dataset", "size", "ipc")))
    levels: list[list[str]] = []
    for part in parts:
        varying = [name for name in part if name not in shared or (name == "student" and not levels)]
        words = _words(board, [name for name in varying if not _follows(name)])
        levels += [words] if any(words) else []
    if len(set(zip(*levels, strict=True))) < len(board.columns):  # only a digest tells some apart
        levels.append(_words(board, [name for name in _WORDS if name not in shared and _follows(name)]))
    levels = [[word for word in level for _ in range(1 + len(inner))] for level in levels]
    if inner:
        levels.append(["accuracy", *inner] * len(board.columns))
    if RANK in extras:
        levels = [[*level, RANK if level is levels[-1] else ""] for level in levels]
    return levels


_WHOLE = {"csv": _csv, "json": _json}
_SHOWN = {"text": _text, "markdown": _markdown, "latex": _latex}
