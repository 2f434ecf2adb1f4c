"""Format rows as text, Markdown, LaTeX, CSV and JSON. Fractions become per cent only here and in LaTeX. No torch."""

from __future__ import annotations

import csv
import io
import json
import logging
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tabulate import tabulate

from ddbench.leaderboard.extra_columns import ExtraColumns, extra_columns
from ddbench.leaderboard.extra_values import FIELDS, NEEDS, CellCosts, Values, extra_values
from ddbench.leaderboard.latex import to_latex
from ddbench.leaderboard.reported import Reported, add_reported_rows
from ddbench.leaderboard.table import (
    Cell,
    Column,
    Key,
    Table,
    make_table,
    row_identity,
    shared_fields,
    with_full_everywhere,
)
from ddbench.store.records import StoredResult
from ddbench.utils.text_table import column_blocks

log = logging.getLogger("ddbench")

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
HEAD_TEXTS = _CAPTION_TEXTS | {"ipc": lambda column: f"IPC {column.ipc}" if column.ipc else "all images"}


@dataclass(frozen=True)
class TableOptions:
    """Additions to a table.

    extras: names of EXTRA_COLUMNS
    costs: for the columns "seconds" and "bytes"
    measured: results of further IPCs, for the columns "ratio" and "slope"
    reported: numbers from papers; not in csv and json
    width: of text in characters; wider tables come in blocks of columns; None for any
    """

    extras: tuple[str, ...] = ()
    costs: CellCosts = field(default_factory=CellCosts)
    measured: Sequence[StoredResult] = ()
    reported: tuple[Reported, ...] = ()
    width: int | None = None


def render(results: Sequence[StoredResult], form: str = "text", options: TableOptions | None = None) -> str:
    """Return the leaderboard of `results` in one of FORMATS, ending with a newline.

    text, markdown and latex show per cent, mean ± sample standard deviation over distillation seeds, and `full` in
    every column. csv and json hold fractions in full precision; json also has every result with the spec of its run.

    Raises UserError for a reported number that fits no column.
    """
    options = options or TableOptions()
    if form == "csv":
        return _csv(results, options)
    if form == "json":
        return _json(results, options)
    board = with_full_everywhere(make_table(results))
    if not board.rows:
        return "no results yet\n"
    board, sources = add_reported_rows(board, options.reported)
    extras = extra_columns(board, options.extras, _values(board, options))
    caption = _caption(board)
    note = "".join(f"; [{i}] reported by {source}, not computed here" for i, source in enumerate(sources, 1))
    if form == "latex":
        counts = sorted({cell.n for row in board.rows if not row.source for cell in row.cells.values()})
        count = f"n = {counts[0]}" if len(counts) == 1 else f"n from {counts[0]} to {counts[-1]}"  # cells do not say it
        return to_latex(board, _head_levels(board, extras), f"{caption}, {count}{note}", extras)
    if form == "markdown":
        return f"{_grid(board, extras, 'pipe')}\n\n*{caption}{note}*\n"
    return f"{_grid(board, extras, 'simple', options.width)}\n\n{_wrapped(caption + note, options.width)}\n"


def _values(board: Table, options: TableOptions) -> dict[Key, Values]:
    """Return the extra values of a table; name the columns that have none."""
    over_ipcs = options.measured if {"ratio", "slope"} & set(options.extras) else ()
    values = extra_values(board, options.extras, options.costs, make_table(over_ipcs) if over_ipcs else None)
    for name in options.extras:
        if board.rows and name in NEEDS and not any(FIELDS[name][0] in of for of in values.values()):
            log.warning("the column %r is empty: it needs %s", name, NEEDS[name])
    return values


def _wrapped(text: str, width: int | None) -> str:
    return textwrap.fill(text, width, break_on_hyphens=False) if width else text


def _grid(board: Table, extras: ExtraColumns, style: str, width: int | None = None) -> str:
    """Return the table as tabulate sets it, in blocks of columns where it is wider than `width`."""
    places = _places(board, extras)
    columns = list(dict.fromkeys(column for column, _ in places if column))
    head_of = dict(zip(columns, _heads(board, columns), strict=True))
    heads = ["method", *(f"{head_of[column]} {name}".strip() if column else name for column, name in places)]
    body = []
    for row in board.rows:
        cells = [row.label.replace("|", "\\|") if style == "pipe" else row.label]
        for column in board.columns:
            text = MISSING
            if cell := row.cells.get(column):  # "61.2 ± 0.8 (n=3)"; a single distillation has no deviation
                std = "" if cell.std is None else f" ± {100 * cell.std:.1f}"
                text = f"{100 * cell.mean:.1f}{std}" + (f" (n={cell.n})" if cell.n else "")
            cells += [text, *(extra.texts[row.identity] for extra in extras.behind[column])]
        body.append([*cells, *(extra.texts[row.identity] for extra in extras.last)])
    blocks = column_blocks([heads, *body], width) if width else [[heads, *body]]
    grids = []
    for block in blocks:
        align = ["left"] + ["right"] * (len(block[0]) - 1)
        grids.append(tabulate(block[1:], block[0], tablefmt=style, disable_numparse=True, colalign=align))
    return "\n\n".join(grids)


def _places(board: Table, extras: ExtraColumns) -> list[tuple[Column | None, str]]:
    """Return the column and the name of each printed column: no name for accuracies, no column at the end."""
    places: list[tuple[Column | None, str]] = []
    for column in board.columns:
        places += [(column, ""), *((extra.head, extra.name) for extra in extras.behind[column])]
    return [*places, *((extra.head, extra.name) for extra in extras.last)]


def _heads(board: Table, columns: Sequence[Column]) -> list[str]:
    """Return a head for each of `columns`: the fields in which those of the table differ; at least the student."""
    shared = shared_fields(board)
    names = [name for name in HEAD_TEXTS if name not in shared or name == "student"]
    heads = _head_texts(columns, [name for name in names if name not in _ONLY_IF_NEEDED])
    details = _head_texts(columns, [name for name in names if name in _ONLY_IF_NEEDED])
    return [f"{head} {detail}" if heads.count(head) > 1 else head for head, detail in zip(heads, details, strict=True)]


def _head_texts(columns: Sequence[Column | None], names: Sequence[str]) -> list[str]:
    """Return the fields `names` of each column as one text; empty for none."""
    return [" ".join(HEAD_TEXTS[name](column) for name in names) if column else "" for column in columns]


def _head_levels(board: Table, extras: ExtraColumns) -> list[list[str]]:
    """Return the heads by level: dataset and size, images per class, the other fields; at least the student."""
    shared, places = shared_fields(board), _places(board, extras)
    columns = [column for column, _ in places]
    levels: list[list[str]] = []
    parts: tuple[tuple[str, ...], ...] = (("dataset", "size"), ("ipc",), ("protocol", "student", "init", "precision"))
    for names in parts:
        texts = _head_texts(columns, [n for n in names if n not in shared or (n == "student" and not levels)])
        levels += [texts] if any(texts) else []
    if len(set(zip(*levels, strict=True)) - {("",) * len(levels)}) < len({column for column in columns if column}):
        levels.append(_head_texts(columns, [name for name in _ONLY_IF_NEEDED if name not in shared]))
    if any(extras.behind.values()):  # below them the names of the columns behind an accuracy
        levels.append([name or "accuracy" for _, name in places])
    elif extras.last:
        levels[-1] = [text or name for text, (_, name) in zip(levels[-1], places, strict=True)]
    return levels


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


def _csv(results: Sequence[StoredResult], options: TableOptions) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, cell_fields(options.extras), lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(cell_records(results, options))
    return out.getvalue()


def _json(results: Sequence[StoredResult], options: TableOptions) -> str:
    records = [
        {
            "path": stored.relative_path.as_posix(),
            "row": row_identity(stored),
            "spec": asdict(stored.spec),
            "result": {name: value for name, value in asdict(stored.result).items() if name != "best_on_test"},
        }
        for stored in results
    ]
    return json.dumps({"rows": cell_records(results, options), "results": records}, indent=2, allow_nan=False) + "\n"


def cell_fields(extras: Sequence[str]) -> list[str]:
    """Return the fields of a cell in one line, with those of the columns `extras`."""
    numbers = [name for name in Cell.__dataclass_fields__ if name != "by_seed"]
    of_extras = dict.fromkeys(field for name in extras for field in FIELDS[name])
    return ["method", "label", "preset", "identity", *Column.__dataclass_fields__, *numbers, *of_extras]


def cell_records(results: Sequence[StoredResult], options: TableOptions) -> list[dict[str, Any]]:
    """Return a flat record for each cell: `cell_fields`, and "by_seed"; None for what is unknown."""
    board, records = make_table(results), []
    values = _values(board, options)
    unknown = dict.fromkeys(field for name in options.extras for field in FIELDS[name])
    for row in board.rows:
        head = {"method": row.method, "label": row.label, "preset": row.preset, "identity": row.identity}
        for column in (column for column in board.columns if column in row.cells):
            numbers = asdict(column) | asdict(row.cells[column])
            records.append(head | numbers | unknown | values[row.identity, column])
    return records
