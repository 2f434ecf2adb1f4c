"""Collect what the page shows of each cell: accuracies by class, confusions, costs, provenance. No torch."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ddbench.datasets.name import FOLDER
from ddbench.leaderboard import CROSS
from ddbench.leaderboard.extra_columns import extra_columns, extra_text
from ddbench.leaderboard.extra_values import CellCosts, Values, cell_costs, extra_values
from ddbench.leaderboard.table import (
    Cell,
    Column,
    Row,
    Table,
    column_of,
    make_table,
    row_identity,
    student_groups,
    with_full_everywhere,
)
from ddbench.store.costs import DistillationCost
from ddbench.store.reader import RunsScan
from ddbench.store.records import Result, RunSpec, StoredResult


@dataclass(frozen=True)
class ReportCell:
    """One cell of the table with its results.

    row, column: place in the table
    cell: accuracy
    results: every result of the cell, by seeds
    costs: folder of each of its runs -> cost of the distillation
    extras: further numbers that are known, by the fields of EXTRAS
    """

    row: Row
    column: Column
    cell: Cell
    results: tuple[StoredResult, ...]
    costs: Mapping[Path, DistillationCost]
    extras: Values


EXTRAS = ("gain", "share", "ratio", "slope", "seconds")  # of EXTRA_COLUMNS


@dataclass(frozen=True)
class StudentMatrix:
    """Accuracies by method and student, as texts.

    title: what the columns of its students share
    heads: names of the students, then those of the numbers over all of them
    rows: label of a method, and a text for each head with True for the network that the method distilled with
    """

    title: str
    heads: tuple[str, ...]
    rows: list[tuple[str, list[tuple[str, bool]]]]


def collect_cells(scan: RunsScan) -> tuple[Table, list[ReportCell]]:
    """Return the table, and every cell that was computed in its own column.

    scan: of a runs folder, with details and costs
    """
    board = make_table(scan.results)
    by_cell: dict[tuple[str, Column], list[StoredResult]] = {}
    values = extra_values(board, EXTRAS, cell_costs(scan.results, scan.costs))
    for stored in sorted(scan.results, key=lambda stored: (stored.spec.seed, stored.result.seed)):
        by_cell.setdefault((row_identity(stored), column_of(stored)), []).append(stored)
    cells = []
    for row in board.rows:
        for column, cell in sorted(row.cells.items()):
            key = row.identity, column
            costs = {s.folder: scan.costs.get(s.folder, DistillationCost()) for s in by_cell[key]}
            cells.append(ReportCell(row, column, cell, tuple(by_cell[key]), costs, values[key]))
    return with_full_everywhere(board), cells


def student_matrices(board: Table) -> list[StudentMatrix]:
    """Return a matrix for each group of columns that differ by the student alone.

    board: with the accuracy of `full` in columns of every IPC
    """
    values = extra_values(board, (CROSS,), CellCosts())
    printed, matrices = extra_columns(board, (CROSS,), values).behind, []
    for group, columns in student_groups(board).items():
        over_all, rows = printed[columns[-1]], []
        for row in board.rows:
            cells = [(row.cells.get(column), column.student == row.network) for column in columns]
            if any(cell for cell, _ in cells):
                texts = [(_accuracy(cell) if cell else "", own) for cell, own in cells]
                rows.append((row.label, texts + [(extra.texts[row.identity], False) for extra in over_all]))
        ipc = f"IPC {group.ipc}" if group.ipc else "all images"
        setting = f"{group.protocol}, {group.init}, {group.precision}, evaluators {group.evaluators}"
        title = f"{group.dataset}, {group.size} px, {ipc}, split {group.split_label}, {setting}"
        heads = (*(column.student for column in columns), *(extra.name for extra in over_all))
        matrices.append(StudentMatrix(title, heads, rows))
    return matrices


def _accuracy(cell: Cell) -> str:
    return f"{100 * cell.mean:.1f}" + ("" if cell.std is None else f" ± {100 * cell.std:.1f}")


def to_json(report_cell: ReportCell) -> dict[str, Any]:
    """Return a cell as the page's script reads it."""
    cell, column, results, extras = report_cell.cell, report_cell.column, report_cell.results, report_cell.extras
    confusions = [np.array(stored.result.confusion) for stored in results]  # counts, rows true; empty in some
    can_add = len({matrix.shape for matrix in confusions}) == 1 and confusions[0].ndim == 2
    return {
        "method": report_cell.row.label, "name": report_cell.row.method,
        "dataset": column.dataset, "size": column.size, "ipc": column.ipc,
        "protocol": column.protocol, "student": column.student, "init": column.init, "precision": column.precision,
        "split": column.split_label, "evaluators": column.evaluators, "mean": cell.mean, "std": cell.std, "n": cell.n,
        "students": cell.students, "interval": cell.half_width, "within": cell.within, "between": cell.between,
        **{name: extras.get(name) for name in EXTRAS}, "ratio_text": extra_text("ratio", cell, extras),
        "slope_from": extras.get("slope_from"), "classes": _per_class(results),
        "confusion": np.sum(confusions, axis=0).tolist() if can_add else [],
        "results": [_provenance(stored) for stored in results],
    }  # fmt: skip


def _per_class(results: Iterable[StoredResult]) -> dict[str, float]:
    """Return the accuracy by class; within a distilled set the mean over students is taken first."""
    by_set: dict[str, list[list[float]]] = {}
    names: list[str] = []
    for stored in results:
        if stored.result.per_class:
            names = list(stored.result.per_class)
            by_set.setdefault(stored.result.content, []).append(list(stored.result.per_class.values()))
    if not names:
        return {}
    means = np.mean([np.mean(accuracies, axis=0) for accuracies in by_set.values()], axis=0)
    return dict(zip(names, np.atleast_1d(means).round(4).tolist(), strict=True))


def _provenance(stored: StoredResult) -> dict[str, Any]:
    """Return the origin of one result."""
    result = stored.result
    return {
        "seed": stored.spec.seed, "student_seed": result.seed, "overall": result.overall, "average": result.average,
        "seconds": result.seconds, "device": result.device, "versions": dict(result.versions),
        "commit": result.commit, "dirty": result.dirty, "content": result.content,
        "path": str(stored.path), "source": stored.spec.source,
        "command": command(stored.spec, result),
    }  # fmt: skip


def command(spec: RunSpec, result: Result) -> str:
    """Return the command that computes a result again, with every setting; of a user's file only the name is known."""
    folder = spec.method.removeprefix(FOLDER) if spec.method.startswith(FOLDER) else ""  # a folder of any images
    words = ["ddbench", *(["--resize", "bilinear"] if spec.split.endswith("resized by bilinear") else [])]
    words += ["evaluate", folder] if folder else ["run", "--method", "FILE.py:CLASS" if spec.source else spec.method]
    words += ["--dataset", spec.dataset, "--size", str(spec.size)]
    if not folder:
        words += ["--ipc", str(spec.ipc)] if spec.ipc else []
        for name, value in spec.params.items():
            words += ["--set", f"{name}={_setting(value)}"]
        words += ["--seed", str(spec.seed)]
    protocol = result.title.removeprefix("custom:")
    if protocol != result.title:  # a user's: its title has the name of its file
        protocol = f"{protocol.rpartition('-')[0]}.toml"
    words += ["--student", result.student, "--protocol", protocol, *(["--compiled"] if result.compiled else [])]
    words += ["--student-seeds", str(result.seed + 1)] if result.seed else []
    return shlex.join(words)


def _setting(value: Any) -> str:
    """Format a value as `--set` takes it."""
    if isinstance(value, list | tuple):
        return ",".join(map(_setting, value))
    return {"True": "true", "False": "false", "None": "none"}.get(str(value), str(value))
