"""Tables of texts, as text, Markdown, LaTeX, CSV and JSON. No torch."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence

from ddbench.utils.text_table import fit_cells, markdown_table, terminal_width

TABLE_FORMATS = ("text", "markdown", "latex", "csv", "json")


def text_table(rows: Iterable[Iterable[str]], heads: Iterable[str]) -> str:
    """Format a plain table as wide as the terminal; of full width where the output is a file or a pipe."""
    from tabulate import tabulate

    table, width = [list(heads), *map(list, rows)], terminal_width()
    head, *body = table if width is None else fit_cells(table, width)
    return tabulate(body, head, tablefmt="simple", disable_numparse=True)


def format_table(rows: Iterable[Sequence[str]], heads: Sequence[str], form: str) -> str:
    """Format a plain table in one of TABLE_FORMATS; JSON is a list of objects. Text has the width of the terminal."""
    table = list(rows)
    if form == "text":
        return text_table(table, heads)
    heads = [" ".join(head.split()) for head in heads]
    if form == "json":
        return json.dumps([dict(zip(heads, row, strict=True)) for row in table], indent=2, ensure_ascii=False)
    if form == "csv":
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows([heads, *table])
        return out.getvalue().rstrip("\n")
    if form == "markdown":
        return markdown_table(heads, table)
    from ddbench.leaderboard.latex import escape  # not for `--help`

    body = [" & ".join(escape(" ".join(cell.split())) for cell in row) + r" \\" for row in (heads, *table)]
    begin = rf"\begin{{tabular}}{{{'l' * len(heads)}}}"
    return "\n".join([begin, r"\toprule", body[0], r"\midrule", *body[1:], r"\bottomrule", r"\end{tabular}"])
