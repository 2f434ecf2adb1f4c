"""Rows to text, Markdown, LaTeX, CSV and JSON. Fractions become per cent here and nowhere else. No torch."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict

from tabulate import tabulate

from ddbench.leaderboard import Cell, Column, Row, Table, best, common, row_identity, table
from ddbench.runs import Entry

MISSING = "-"
UNSAID = ("protocol_hash", "judge")  # not in a caption: a protocol's title says as much, as long as it is one
FORMATS = ("text", "markdown", "latex", "csv", "json")


def render(entries: Sequence[Entry], form: str = "text") -> str:
    """The leaderboard of `entries` in one of FORMATS, ending with a newline.

    text, markdown and latex show per cent, mean ± sample standard deviation over distillation seeds; csv and json hold
    fractions in full precision, json with every result and the spec of its run.
    """
    return _FORMATS[form](entries)


def _text(entries: Sequence[Entry]) -> str:
    return _grid(table(entries), "simple", lambda line: line)


def _markdown(entries: Sequence[Entry]) -> str:
    return _grid(table(entries), "pipe", lambda line: f"*{line}*")


def _grid(board: Table, style: str, caption: Callable[[str], str]) -> str:
    if not board.rows:
        return "no results yet\n"
    heads = ["method", *_heads(board)]
    body = [[row.label, *(_shown(row, column) for column in board.columns)] for row in board.rows]
    align = ["left"] + ["right"] * len(board.columns)
    grid = tabulate(body, heads, tablefmt=style, disable_numparse=True, colalign=align)
    return f"{grid}\n\n{caption(_caption(board))}\n"


def _shown(row: Row, column: Column) -> str:
    return _number(row.cells[column], " ± ") if column in row.cells else MISSING


def _number(cell: Cell, plus_minus: str) -> str:
    """ "61.2 ± 0.8 (n=3)"; without a deviation for a single distillation."""
    spread = "" if cell.std is None else f"{plus_minus}{100 * cell.std:.1f}"
    return f"{100 * cell.mean:.1f}{spread} (n={cell.n})"


_WORDS: dict[str, Callable[[Column], str]] = {
    "dataset": lambda column: column.dataset,
    "size": lambda column: f"{column.size} px",
    "ipc": lambda column: f"{column.ipc} images per class" if column.ipc else "all training images",
    "protocol": lambda column: column.protocol,
    "student": lambda column: column.student,
    "init": lambda column: column.init,
    "precision": lambda column: column.precision,
    "fingerprint": lambda column: f"split {column.split} ({column.fingerprint[:8]})",
    "protocol_hash": lambda column: f"recipe {column.protocol_hash[:8]}",
    "judge": lambda column: f"judge {column.judge}",
}


def _heads(board: Table) -> list[str]:
    """What tells each column from the others; at least the student."""
    shared = common(board)
    varying = [name for name in _WORDS if name not in shared or name == "student"]
    plain = [" ".join(_WORDS[name](column) for name in varying if not _follows(name)) for column in board.columns]
    often = {head for head in plain if plain.count(head) > 1}
    details = [" ".join(_WORDS[name](column) for name in varying if _follows(name)) for column in board.columns]
    return [f"{head} {detail}" if head in often else head for head, detail in zip(plain, details, strict=True)]


def _follows(name: str) -> bool:
    """Digests and the judge's version are shown only where nothing else tells two columns apart."""
    return name in ("fingerprint", *UNSAID)


def _caption(board: Table) -> str:
    shared = common(board)
    said = [_WORDS[name](board.columns[0]) for name in _WORDS if name in shared and name not in UNSAID]
    if board.columns and "fingerprint" not in shared:
        said.append(f"splits: {', '.join(sorted({_split(column) for column in board.columns}))}")
    how = "overall accuracy in %, mean ± sample std over n distillations"
    return f"{', '.join(said)}; {how}" if said else how


def _split(column: Column) -> str:
    return f"{column.dataset} {column.split} ({column.fingerprint[:8]})"


def _csv(entries: Sequence[Entry]) -> str:
    out = io.StringIO()
    lines = _lines(table(entries))
    fields = ["method", "label", "preset", "identity", *Column.__dataclass_fields__, *Cell.__dataclass_fields__]
    writer = csv.DictWriter(out, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def _lines(board: Table) -> list[dict]:
    """One flat record per cell."""
    return [
        {**_head(row), **asdict(column), **asdict(row.cells[column])}
        for row in board.rows
        for column in board.columns
        if column in row.cells
    ]


def _head(row: Row) -> dict:
    return {"method": row.method, "label": row.label, "preset": row.preset, "identity": row.identity}


def _json(entries: Sequence[Entry]) -> str:
    board = {"rows": _lines(table(entries)), "results": [_whole(entry) for entry in entries]}
    return json.dumps(board, indent=2, allow_nan=False) + "\n"


def _whole(entry: Entry) -> dict:
    head = {"path": str(entry.path), "row": row_identity(entry)}
    return {**head, "spec": asdict(entry.spec), "result": asdict(entry.result)}


def _latex(entries: Sequence[Entry]) -> str:
    """A table for booktabs: per cent, the best mean of a column bold."""
    board = table(entries)
    heads = " & ".join(escape(head) for head in ("method", *_heads(board)))
    lines = [_latex_row(board, row) for row in board.rows]
    body = "\n".join([f"{heads} \\\\", "\\midrule", *lines])
    return _LATEX % (escape(_caption(board)), "r" * len(board.columns), body)


_LATEX = """%% needs \\usepackage{booktabs}
\\begin{table}
\\centering
\\caption{%s}
\\begin{tabular}{l%s}
\\toprule
%s
\\bottomrule
\\end{tabular}
\\end{table}
"""


def _latex_row(board: Table, row: Row) -> str:
    cells = [_latex_cell(row.cells.get(column), best(board, column)) for column in board.columns]
    return " & ".join([escape(row.label), *cells]) + " \\\\"


def _latex_cell(cell: Cell | None, top: float | None) -> str:
    """Ties at the printed precision are all bold: the table cannot show which of them is ahead."""
    if cell is None:
        return "--"
    mean = f"{100 * cell.mean:.1f}"
    mean = f"\\textbf{{{mean}}}" if mean == f"{100 * top:.1f}" else mean
    return mean if cell.std is None else f"{mean} $\\pm$ {100 * cell.std:.1f}"


_ESCAPES = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}  # fmt: skip


def escape(text: str) -> str:
    """`text` as LaTeX sets it literally."""
    return "".join(_ESCAPES.get(sign, sign) for sign in text)


_FORMATS = {"text": _text, "markdown": _markdown, "latex": _latex, "csv": _csv, "json": _json}
