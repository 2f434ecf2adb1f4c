"""Accuracy over students: mean, worst, and drop from the network that a method distilled with. Pure. No torch."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ddbench.leaderboard.table import Column, Row, Table

ALL_STUDENTS = "all students"


@dataclass(frozen=True)
class CrossArchitecture:
    """Accuracies of one row over all students of a group of columns, fractions.

    mean, worst: over students
    worst_student: name; the first by name of several
    students: number
    drop: accuracy on the distilling network less the mean over the other students; None without one among the students
    """

    mean: float
    worst: float
    worst_student: str
    students: int
    drop: float | None


def student_groups(board: Table) -> dict[Column, tuple[Column, ...]]:
    """Return the groups of columns that differ by the student alone: a column of ALL_STUDENTS -> its columns, sorted.

    A protocol has training settings for each student, so hashes differ within a group. Groups of one student are left
    out, and those in which a student has two columns.
    """
    groups: dict[Column, list[Column]] = {}
    for column in board.columns:
        if any(column in row.cells for row in board.rows if not row.source):
            groups.setdefault(replace(column, student=ALL_STUDENTS, protocol_hash=""), []).append(column)
    return {
        group: tuple(columns)
        for group, columns in groups.items()
        if len(columns) > 1 and len({column.student for column in columns}) == len(columns)
    }


def cross_architecture(row: Row, columns: tuple[Column, ...]) -> CrossArchitecture | None:
    """Return the accuracies of a row over the students of `columns`; None where it lacks one."""
    if not row.cells.keys() >= set(columns):
        return None
    by_student: Mapping[str, float] = {column.student: row.cells[column].mean for column in columns}
    worst = min(by_student, key=lambda student: (by_student[student], student))
    others = [accuracy for student, accuracy in by_student.items() if student != row.network]
    drop = by_student[row.network] - statistics.fmean(others) if row.network in by_student else None
    return CrossArchitecture(statistics.fmean(by_student.values()), by_student[worst], worst, len(by_student), drop)
