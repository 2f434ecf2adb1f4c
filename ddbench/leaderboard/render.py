"""Format rows as text, Markdown, LaTeX, CSV and JSON. Fractions become per cent only here and in LaTeX. No torch."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tabulate import tabulate

from ddbench.leaderboard.extra_columns import CellCosts, ExtraCells, extra_cells
from ddbench.leaderboard.latex import to_latex
from ddbench.leaderboard.reported import Reported, add_reported_rows
from ddbench.leaderboard.table import Cell, Column, Table, make_table, row_identity, shared_fields, with_full_everywhere
from ddbench.store.records import StoredResult
from ddbench.utils.text_table import column_blocks

MISSING = "-"
HIDDEN_IN_CAPTION = ("protocol_hash", "evaluators")  # implied by the protocol's name; version 1
_ONLY_IF_NEEDED = ("fingerprint", *HIDDEN_IN_CAPTION)  # in heads, where nothing else tells two columns apart

_CAPTION_TEXTS: dict[str, Callable[[Column], str]] = {
    "dataset": lambda column: column.dataset,
    "size": lambda column: f"{column.size} px",
    "ipc": lambda column: (
        f"{column.ipc} image{'s' * (column.ipc > 1)} per class" if column.ipc else "all training images"
    ),
    "protocol": lambda column: column.protocol,
    "student": lambda column: column.student,
    "init": lambda column: column.init,
    "precision": lambda column: column.precision,
    "fingerprint": lambda column: f"split {column.split_label}",
    "protocol_hash": lambda column: f"recipe {column.protocol_hash[:8]}",
    "evaluators": lambda column: f"evaluators {column.evaluators}",
}
_HEAD_TEXTS = _CAPTION_TEXTS | {"ipc": lambda column: f"IPC {column.ipc}" if column.ipc else "all images"}


@dataclass(frozen=True)
class TableOptions:
    """Additions to a table; csv and json ignore them.

    extras: names of EXTRA_COLUMNS
    costs: for the columns "seconds" and "bytes"
    reported: numbers from papers
    width: of text in characters; wider tables come in blocks of columns; None for any
    """

    extras: tuple[str, ...] = ()
    costs: CellCosts = field(default_factory=CellCosts)
    reported: tuple[Reported, ...] = ()
    width: int | None = None


def render(results: Sequence[StoredResult], form: str = "text", options: TableOptions | None = None) -> str:
    """Return the leaderboard of `results` in one of FORMATS, ending with a newline.

    text, markdown and latex show per cent, mean ± sample standard deviation over distillation seeds, and `full` in
    every column. csv and json hold fractions in full precision; json also has every result with the spec of its run.

    Raises UserError for a reported number that fits no column.
    """
    if form == "csv":
        return _csv(make_table(results))
    if form == "json":
        return _json(results)
    board, options = with_full_everywhere(make_table(results)), options or TableOptions()
    if not board.rows:
        return "no results yet\n"
    board, sources = add_reported_rows(board, options.reported)
    extras = extra_cells(board, options.extras, options.costs)
    caption = _caption(board)
    note = "".join(f"; [{i}] reported by {source}, not computed here" for i, source in enumerate(sources, 1))
    if form == "latex":
        counts = sorted({cell.n for row in board.rows if not row.source for cell in row.cells.values()})
        count = f"n = {counts[0]}" if len(counts) == 1 else f"n from {counts[0]} to {counts[-1]}"  # cells do not say it
        return to_latex(board, _head_levels(board, extras), f"{caption}, {count}{note}", extras)
    if form == "markdown":
        return f"{_grid(board, extras, 'pipe')}\n\n*{caption}{note}*\n"
    return f"{_grid(board, extras, 'simple', options.width)}\n\n{_wrapped(caption + note, options.width)}\n"


def _wrapped(text: str, width: int | None) -> str:
    return textwrap.fill(text, width, break_on_hyphens=False) if width else text


def _grid(board: Table, extras: ExtraCells, style: str, width: int | None = None) -> str:
    """Return the table as tabulate sets it, in blocks of columns where it is wider than `width`."""
    heads = ["method"]
    for head in _heads(board):
        heads += [head, *(f"{head} {name}" for name in extras.names)]
    body = []
    for row in board.rows:
        cells = [row.label.replace("|", "\\|") if style == "pipe" else row.label]
        for column in board.columns:
            text = MISSING
            if cell := row.cells.get(column):  # "61.2 ± 0.8 (n=3)"; a single distillation has no deviation
                std = "" if cell.std is None else f" ± {100 * cell.std:.1f}"
                text = f"{100 * cell.mean:.1f}{std}" + (f" (n={cell.n})" if cell.n else "")
            cells += [text, *extras.cells[row.identity, column]]
        body.append([*cells, *extras.row_cells[row.identity]])
    heads += extras.row_names
    blocks = column_blocks([heads, *body], width) if width else [[heads, *body]]
    grids = []
    for block in blocks:
        align = ["left"] + ["right"] * (len(block[0]) - 1)
        grids.append(tabulate(block[1:], block[0], tablefmt=style, disable_numparse=True, colalign=align))
    return "\n\n".join(grids)


def _heads(board: Table) -> list[str]:
    """Return a head for each column: the fields in which columns differ; at least the student."""
    shared = shared_fields(board)
    names = [name for name in _HEAD_TEXTS if name not in shared or name == "student"]
    heads = _head_texts(board, [name for name in names if name not in _ONLY_IF_NEEDED])
    details = _head_texts(board, [name for name in names if name in _ONLY_IF_NEEDED])
    return [f"{head} {detail}" if heads.count(head) > 1 else head for head, detail in zip(heads, details, strict=True)]


def _head_texts(board: Table, names: Sequence[str]) -> list[str]:
    """Return the fields `names` of each column as one text."""
    return [" ".join(_HEAD_TEXTS[name](column) for name in names) for column in board.columns]


def _head_levels(board: Table, extras: ExtraCells) -> list[list[str]]:
    """Return the heads by level: dataset and size, images per class, the other fields; at least the student."""
    shared = shared_fields(board)
    levels: list[list[str]] = []
    parts: tuple[tuple[str, ...], ...] = (("dataset", "size"), ("ipc",), ("protocol", "student", "init", "precision"))
    for names in parts:
        texts = _head_texts(board, [n for n in names if n not in shared or (n == "student" and not levels)])
        levels += [texts] if any(texts) else []
    if len(set(zip(*levels, strict=True))) < len(board.columns):
        levels.append(_head_texts(board, [name for name in _ONLY_IF_NEEDED if name not in shared]))

    # below them the columns beside an accuracy, behind them those of a row
    levels = [[text for text in level for _ in range(1 + len(extras.names))] for level in levels]
    if extras.names:
        levels.append(["accuracy", *extras.names] * len(board.columns))
    above = [""] * len(extras.row_names)
    return [[*level, *(extras.row_names if level is levels[-1] else above)] for level in levels]


def _caption(board: Table) -> str:
    """Return the fields that all columns share, and what the numbers are."""
    shared = shared_fields(board)
    parts = [
        text(board.columns[0])
        for name, text in _CAPTION_TEXTS.items()
        if name in shared and (name not in HIDDEN_IN_CAPTION or (name == "evaluators" and shared[name] != "1"))
    ]
    if "ipc" not in shared:
        parts.append("by images per class (IPC)")
    if "fingerprint" not in shared:
        parts.append(f"splits: {', '.join(sorted({f'{c.dataset} {c.split_label}' for c in board.columns}))}")
    numbers = "overall accuracy in %, mean ± sample std over n distillations"
    return f"{', '.join(parts)}; {numbers}" if parts else numbers


def _csv(board: Table) -> str:
    out = io.StringIO()
    numbers = [name for name in Cell.__dataclass_fields__ if name != "by_seed"]
    fields = ["method", "label", "preset", "identity", *Column.__dataclass_fields__, *numbers]
    writer = csv.DictWriter(out, fields, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(_cell_records(board))
    return out.getvalue()


def _json(results: Sequence[StoredResult]) -> str:
    records = [
        {
            "path": stored.relative_path.as_posix(),
            "row": row_identity(stored),
            "spec": asdict(stored.spec),
            "result": {name: value for name, value in asdict(stored.result).items() if name != "best_on_test"},
        }
        for stored in results
    ]
    return (
        json.dumps({"rows": _cell_records(make_table(results)), "results": records}, indent=2, allow_nan=False) + "\n"
    )


def _cell_records(board: Table) -> list[dict[str, Any]]:
    """Return a flat record for each cell."""
    records = []
    for row in board.rows:
        head = {"method": row.method, "label": row.label, "preset": row.preset, "identity": row.identity}
        columns = [column for column in board.columns if column in row.cells]
        records += [{**head, **asdict(column), **asdict(row.cells[column])} for column in columns]
    return records
