"""A leaderboard as LaTeX sets it: booktabs, heads of several levels, the best and its ties bold. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, groupby

from ddbench.leaderboard.table import Cell, Column, Table, best

Beside = Sequence[Sequence[Sequence[str]]]  # by row, by column, further cells; after all columns those of the row

_TABLE = r"""%% needs \usepackage{booktabs}
\begin{table}
\centering
\caption{%s}
\begin{tabular}{l%s}
\toprule
%s
\bottomrule
\end{tabular}
\end{table}
"""
_ESCAPES = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$",
    "−": "$-$", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"{\char34}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}  # fmt: skip
_LACKING = set("«»ÐÞðþĄąĐđĘęĦħĮįĸĿŀŉŊŋŦŧŲų")
_SET = frozenset(map(chr, range(0xA0, 0x17F))) - _LACKING | set("–—‘’“”…•€→")  # by pdfLaTeX's own fonts
BOLD = (
    "Bold: the highest mean, those equal to it as printed, and those that a paired t-test over shared distillation "
    "seeds does not tell from it (two-sided, 5 %, Holm's correction within a column)"
)


def escape(text: str) -> str:
    """`text` as pdfLaTeX sets it literally; a letter that its own fonts lack becomes its number: U+6F22."""
    return "".join(_ESCAPES.get(sign) or _plain(sign) for sign in text)


def _plain(sign: str) -> str:
    return sign if sign.isascii() or sign in _SET else f"U+{ord(sign):04X}"


def latex(board: Table, levels: Sequence[Sequence[str]], caption: str, extras: Beside) -> str:
    """The table. levels: lines of heads, outermost first, a word for each cell."""
    lines = [*_heads(levels), "\\midrule", *_rows(board, extras)]
    return _TABLE % (escape(f"{caption}. {BOLD}."), "r" * len(levels[-1]), "\n".join(lines))


def _heads(levels: Sequence[Sequence[str]]) -> list[str]:
    """Equal neighbours share a head, which a rule below holds together."""
    lines: list[str] = []
    fixed: list[tuple[str, ...]] = [()] * len(levels[0])
    for depth, level in enumerate(levels):
        fixed = [(*outer, word) for outer, word in zip(fixed, level, strict=True)]
        spans = [(group[0][-1], len(group)) for group in (list(found) for _, found in groupby(fixed))]
        cells = [f"\\multicolumn{{{n}}}{{c}}{{{escape(word)}}}" if n > 1 else escape(word) for word, n in spans]
        last = depth == len(levels) - 1
        lines.append(" & ".join(["method" if last else "", *cells]) + " \\\\")
        if not last:
            lines.append(_rules(spans))
    return lines


def _rules(spans: Sequence[tuple[str, int]]) -> str:
    """A rule below each head that says something."""
    ends = list(accumulate(n for _, n in spans))
    return " ".join(
        f"\\cmidrule(lr){{{end - n + 2}-{end + 1}}}" for (word, n), end in zip(spans, ends, strict=True) if word
    )


def _rows(board: Table, extras: Beside) -> list[str]:
    """A line of the table for each row."""
    bold, lines = {column: _bold(board, column) for column in board.columns}, []
    for row, beside in zip(board.rows, extras, strict=True):
        cells = [("{}" if row.label[0] in "[*" else "") + escape(row.label)]  # after \\ these would be read as its own
        for column, more in zip(board.columns, beside, strict=False):
            cell = row.cells.get(column)
            cells.append(_cell(cell, row.identity in bold[column]))
            cells += [_signed(text) for text in more]
        cells += [escape(text) for more in beside[len(board.columns) :] for text in more]
        lines.append(" & ".join(cells) + " \\\\")
    return lines


def _signed(text: str) -> str:
    """A cell beside an accuracy; a minus is none of the text's hyphens."""
    return f"$-${escape(text[1:])}" if text.startswith("-") and len(text) > 1 else escape(text)


def _bold(board: Table, column: Column) -> set[str]:
    """Identities of the leading rows, and of those whose mean is printed like the highest."""
    leading = best(board, column)
    means = {r.identity: _mean(r.cells[column]) for r in board.rows if r.competes and column in r.cells}
    top = max((means[row] for row in leading), key=float, default="")
    return leading | {row for row, mean in means.items() if mean == top}


def _mean(cell: Cell) -> str:
    return f"{100 * cell.mean:.1f}"


def _cell(cell: Cell | None, bold: bool) -> str:
    if cell is None:
        return "--"
    mean = f"\\textbf{{{_mean(cell)}}}" if bold else _mean(cell)
    return mean if cell.std is None else f"{mean} $\\pm$ {100 * cell.std:.1f}"
