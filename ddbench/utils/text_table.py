"""Tables in Markdown, and tables that are no wider than a terminal: cells wrapped, or blocks of columns. No torch."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence

from tabulate import MIN_PADDING  # characters by which it makes a column wider than its head

GAP = 2  # characters between columns
WORD = 24  # characters: longer words are cut where a column has to shrink
NARROWEST = 6  # of a column, characters
FLOWING = 80  # characters: a line of prose that is as long goes on in the next line
LABEL_SHARE = 3  # where columns stand in blocks, the first takes at most a third of the width

Rows = list[list[str]]


def terminal_width() -> int | None:
    """Return the columns of the terminal that standard output goes to; None for a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def fit_cells(rows: Rows, width: int) -> Rows:
    """Wrap the longest cells so that tabulate's table of these rows is at most `width` characters wide.

    rows: the first is the head.

    Words stay whole up to WORD characters if the width allows it. A column keeps NARROWEST characters, so a table of
    very many columns stays wider.
    """
    columns = list(zip(*rows, strict=True))
    natural = list(map(_width, columns))
    words = [min(WORD, _width([_longest_word(cell) for cell in column])) for column in columns]
    room = width - GAP * (len(columns) - 1)
    widths = natural
    for least in (words, [NARROWEST] * len(columns)):
        # the widest limit under which the columns fit: those below it keep their width
        for limit in range(max(natural), 0, -1):
            widths = [min(wide, max(limit, few)) for wide, few in zip(natural, least, strict=True)]
            if sum(widths) <= room:
                break
        if sum(widths) <= room:
            break
    head, *body = rows
    return [
        [_wrap(cell, wide - MIN_PADDING) for cell, wide in zip(head, widths, strict=True)],
        *([_wrap(cell, wide) for cell, wide in zip(row, widths, strict=True)] for row in body),
    ]


def fit_prose(text: str, width: int) -> str:
    """Wrap text to lines of at most `width` characters. Short lines, empty and indented ones begin where they did."""
    if _length(text) <= width:
        return text
    lines: list[str] = []
    flowing = False
    for line in text.split("\n"):
        if flowing and line[:1].strip(" -"):
            lines[-1] += f" {line}"
        else:
            lines.append(line)
        flowing = len(line) >= FLOWING
    return "\n".join(part for line in lines for part in textwrap.wrap(line, width, break_on_hyphens=False) or [""])


def column_blocks(rows: Rows, width: int) -> list[Rows]:
    """Return tables of at most `width` characters that together have all columns; each begins with the first column.

    rows: the first is the head. A head wraps between words, down to the width of its cells; the first column wraps at a
    share of the width. A column that is too wide alone stays whole.
    """
    columns = [list(column) for column in zip(*rows, strict=True)]
    if sum(_width(column) + GAP for column in columns) - GAP <= width:
        return [rows]
    columns[0] = [_wrap(cell, max(NARROWEST, width // LABEL_SHARE)) for cell in columns[0]]
    for column in columns[1:]:
        cells = max(map(_length, column[1:])) - MIN_PADDING
        column[0] = _wrap(column[0], max(len(_longest_word(column[0])), cells))
    blocks: list[list[list[str]]] = []
    used = width + 1
    for column in columns[1:]:
        wide = GAP + _width(column)
        if not blocks or used + wide > width:
            blocks.append([columns[0]])
            used = _width(columns[0])
        blocks[-1].append(column)
        used += wide
    return [[list(row) for row in zip(*block, strict=True)] for block in blocks]


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; cells become one line each."""
    cells = [[" ".join(cell.replace("\\", r"\\").replace("|", r"\|").split()) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(heads), *cells))


def _width(column: Sequence[str]) -> int:
    """Return the width that tabulate gives a column; its first cell is the head."""
    return max(_length(column[0]) + MIN_PADDING, *map(_length, column))


def _length(cell: str) -> int:
    return max(map(len, cell.split("\n")))


def _longest_word(cell: str) -> str:
    return max(cell.split(), key=len, default="")


def _wrap(cell: str, width: int) -> str:
    """Wrap every line of a cell."""
    lines: Iterable[Sequence[str]] = (
        textwrap.wrap(line, width, break_on_hyphens=False) or [""] if len(line) > width else [line]
        for line in cell.split("\n")
    )
    return "\n".join(part for line in lines for part in line)
