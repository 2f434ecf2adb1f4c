"""Columns beside accuracies, as texts. Pure: from a table and its extra values. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ddbench.leaderboard import CROSS, RANK
from ddbench.leaderboard.table import Cell, Column, Key, Table, student_groups

CROSS_NAMES = ("mean", "worst", "drop")


@dataclass(frozen=True)
class ExtraColumn:
    """A printed column that holds no accuracies.

    head: its place: the column beside which it stands, or a group of student_groups; None for a column of the row
    name: below the place
    texts: row's identity -> text; empty where a value is unknown and in rows that papers report
    """

    head: Column | None
    name: str
    texts: Mapping[str, str]


@dataclass(frozen=True)
class ExtraColumns:
    """Printed columns behind each column of accuracies, and at the end of the table."""

    behind: Mapping[Column, tuple[ExtraColumn, ...]]
    last: tuple[ExtraColumn, ...]


def extra_columns(board: Table, names: Sequence[str], values: Mapping[Key, Mapping[str, Any]]) -> ExtraColumns:
    """Return the printed columns `names`, of EXTRA_COLUMNS.

    values: from `extra_values`
    """
    inner = [name for name in dict.fromkeys(names) if name not in (RANK, CROSS)]
    behind = {column: tuple(_extra_column(board, column, name, values) for name in inner) for column in board.columns}
    for group, columns in student_groups(board).items() if CROSS in names else ():
        for name in CROSS_NAMES:
            texts = {row.identity: _cross_text(name, values.get((row.identity, columns[0]), {})) for row in board.rows}
            behind[columns[-1]] += (ExtraColumn(group, name, texts),)
    if RANK not in names:
        return ExtraColumns(behind, ())
    ranks: dict[str, str] = {row.identity: "-" for row in board.rows}
    ranks |= {identity: f"{of[RANK]:.1f}" for (identity, _), of in values.items() if RANK in of}
    return ExtraColumns(behind, (ExtraColumn(None, RANK, ranks),))


def _extra_column(board: Table, column: Column, name: str, values: Mapping[Key, Mapping[str, Any]]) -> ExtraColumn:
    """Return a column of texts. The head of a slope has its smaller IPC; where rows differ in it, their texts do."""
    fields = {row.identity: values.get((row.identity, column), {}) for row in board.rows}
    cells = {row.identity: None if row.source else row.cells.get(column) for row in board.rows}
    texts = {identity: extra_text(name, cell, fields[identity]) if cell else "" for identity, cell in cells.items()}
    smaller = {of["slope_from"] for of in fields.values() if "slope_from" in of} if name == "slope" else set()
    if len(smaller) == 1:
        return ExtraColumn(column, f"{name} from {smaller.pop()}", texts)
    if smaller:
        texts = {one: text and f"{text} from {fields[one]['slope_from']}" for one, text in texts.items()}
    return ExtraColumn(column, name, texts)


def extra_text(name: str, cell: Cell, values: Mapping[str, Any]) -> str:
    """Return the text of one cell; empty where the value is unknown.

    components: deviation among distillations / among the students of a distillation, both in points
    audit: use of an image / membership; "-" without a finding
    ratio: "1.34 [0.95, 2.10]", the interval in brackets; "> 5.00 [> 5.00]" where all of it is beyond the curve
    """
    if name == "interval":
        return "" if cell.half_width is None else f"± {100 * cell.half_width:.1f}"
    if name == "components":
        parts = ["-" if value is None else f"{100 * value:.1f}" for value in (cell.between, cell.within)]
        return "" if parts == ["-", "-"] else " / ".join(parts)
    if name == "audit" and "audit_by" in values:
        parts = [f"{values[field]:.2f}" if field in values else "-" for field in ("use_auc", "membership_auc")]
        return f"{' / '.join(parts)} ({values['audit_by']})"
    if name not in values:
        return ""
    value = values[name]
    if name == "gain":
        return f"{100 * value:+.1f}"
    if name == "share":
        return f"{100 * value:.1f} %"
    if name == "ratio":
        limits = [_limit_text(values, limit) for limit in ("ratio", "ratio_low", "ratio_high") if limit in values]
        return f"{limits[0]} [{', '.join(dict.fromkeys(limits[1:]))}]" if limits[1:] else limits[0]
    if name == "slope":
        return f"{100 * value:+.2f}"
    if name == "seconds":
        return f"{value:.0f} s"
    if name == "bytes":
        return f"{value / 1e6:.2f} MB"
    raise ValueError(f"unknown column {name!r}")


def _limit_text(values: Mapping[str, Any], name: str) -> str:
    """Return a ratio with its relation unless that is "="."""
    relation, value = values[f"{name}_relation"], values[name]
    return ("" if relation == "=" else f"{relation} ") + (f"{value:.2f}" if value < 10 else f"{value:.1f}")


def _cross_text(name: str, values: Mapping[str, Any]) -> str:
    """Return the mean, the worst or the drop over students; "-" for the drop of a row without a distilling network."""
    value = values.get(f"cross_{name}")
    if value is None:
        return "-" if name == "drop" and "cross_mean" in values else ""
    return f"{100 * value:+.1f}" if name == "drop" else f"{100 * value:.1f}"
