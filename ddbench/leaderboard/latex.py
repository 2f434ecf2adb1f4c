"""Format a leaderboard as LaTeX: booktabs, heads of several levels, the best and its ties bold. No torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate, groupby

from ddbench.leaderboard.extra_columns import ExtraColumns
from ddbench.leaderboard.table import Cell, Column, Table, best_rows

_TABLE = r"""%% needs \usepackage{booktabs}
\begin{%(float)s}
\centering
\caption{%(caption)s}
\medskip
%(size)s\begin{tabular}{l%(align)s}
\toprule
%(lines)s
\bottomrule
\end{tabular}
\end{%(float)s}
"""
_SMALL = "\\footnotesize\\setlength{\\tabcolsep}{2pt}\n"
# article at 10 pt: widths of a column of two, and of a page of one, in pt
_COLUMN, _PAGE = 229, 345
_LETTER, _GAP = 4.7, 12  # mean width of a character, and the space between columns, in pt
_ESCAPES = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$",
    "−": "$-$", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"{\char34}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}  # fmt: skip
_MISSING = set("«»ÐÞðþĄąĐđĘęĦħĮįĸĿŀŉŊŋŦŧŲų")
_PRINTABLE = frozenset(map(chr, range(0xA0, 0x17F))) - _MISSING | set("–—‘’“”…•€→")  # by pdfLaTeX's own fonts
BOLD = (
    "Bold: the highest mean, those equal to it as printed, and those that a paired t-test over shared distillation "
    "seeds does not tell from it (two-sided, 5 %, Holm's correction within a column)"
)


def escape(text: str) -> str:
    """Escape `text` for pdfLaTeX; a letter that its own fonts lack becomes its number: U+6F22."""
    return "".join(_ESCAPES.get(c) or (c if c.isascii() or c in _PRINTABLE else f"U+{ord(c):04X}") for c in text)


def to_latex(board: Table, levels: Sequence[Sequence[str]], caption: str, extras: ExtraColumns) -> str:
    """Return the table. One that is wider than a column of two is a table*, one wider than a page has small letters.

    levels: lines of heads, outermost first, with a text for each cell of a row
    """
    heads, rows = _heads(levels), _rows(board, extras)
    width = _width([heads[-1], *rows])
    parts = {
        "float": "table*" if width > _COLUMN else "table",  # in a document of one column, table* is table
        "caption": escape(f"{caption}. {BOLD}."),
        "size": _SMALL if width > _PAGE else "",
        "align": "r" * len(levels[-1]),
        "lines": "\n".join([*heads, "\\midrule", *rows]),
    }
    return _TABLE % parts


def _width(lines: Sequence[str]) -> float:
    """Estimate the printed width of lines of cells, in pt."""
    printed = [re.sub(r"\\textbf|\\\\|[${}]", "", line.replace("\\pm", "±")).split(" & ") for line in lines]
    return sum(_LETTER * max(len(cell.strip()) for cell in column) + _GAP for column in zip(*printed, strict=True))


def _heads(levels: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of heads. Equal neighbours share a head, and every head but an empty one has a rule below."""
    lines: list[str] = []
    prefixes: list[tuple[str, ...]] = [()] * len(levels[0])
    for level in levels:
        prefixes = [(*outer, text) for outer, text in zip(prefixes, level, strict=True)]
        groups = [list(group) for _, group in groupby(prefixes)]
        heads = [(group[0][-1], len(group)) for group in groups]
        cells = [f"\\multicolumn{{{n}}}{{c}}{{{escape(text)}}}" if n > 1 else escape(text) for text, n in heads]
        if level is levels[-1]:
            return [*lines, " & ".join(["method", *cells]) + " \\\\"]
        ends = [end + 1 for end in accumulate(n for _, n in heads)]  # the first column holds the method
        rules = [(end - n + 1, end) for (text, n), end in zip(heads, ends, strict=True) if text]
        lines.append(" & ".join(["", *cells]) + " \\\\")
        lines.append(" ".join(f"\\cmidrule(lr){{{first}-{last}}}" for first, last in rules))
    return lines


def _rows(board: Table, extras: ExtraColumns) -> list[str]:
    """Return a line for each row."""
    bold, lines = {column: _bold(board, column) for column in board.columns}, []
    for row in board.rows:
        cells = [("{}" if row.label[0] in "[*" else "") + escape(row.label)]  # [ and * are arguments of a \\ before
        for column in board.columns:
            if cell := row.cells.get(column):
                mean = f"\\textbf{{{_mean(cell)}}}" if row.identity in bold[column] else _mean(cell)
                cells.append(mean if cell.std is None else f"{mean} $\\pm$ {100 * cell.std:.1f}")
            else:
                cells.append("--")
            for text in (extra.texts[row.identity] for extra in extras.behind[column]):  # a minus is no hyphen
                negative = text.startswith("-") and len(text) > 1
                cells.append(f"$-${escape(text[1:])}" if negative else escape(text))
        cells += [escape(extra.texts[row.identity]) for extra in extras.last]
        lines.append(" & ".join(cells) + " \\\\")
    return lines


def _bold(board: Table, column: Column) -> set[str]:
    """Return the identities of the best rows, and of those whose mean is printed like the highest."""
    best = best_rows(board, column)
    means = {r.identity: _mean(r.cells[column]) for r in board.rows if r.is_ranked and column in r.cells}
    highest = max((means[row] for row in best), key=float, default="")
    return best | {row for row, mean in means.items() if mean == highest}


def _mean(cell: Cell) -> str:
    return f"{100 * cell.mean:.1f}"
