"""Tables of `ddbench redundancy`, `budget` and `continual`: students of a measure to rows. Pure. No torch.

Numbers are pooled as in `table`: over student seeds first, then over distillations. A cell stands for one value of what
the measure varies (`x`): the number of parts, a budget, the number of classes.
"""

from __future__ import annotations

import csv
import io
import json
import statistics
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ddbench.leaderboard.places import HEADS, place_fields, place_text
from ddbench.leaderboard.plain_table import format_table
from ddbench.leaderboard.render import HEAD_TEXTS
from ddbench.leaderboard.table import Cell, Column, make_table
from ddbench.store.measured import MeasuredResult, MeasuredStudent
from ddbench.store.records import StoredResult
from ddbench.utils.text_table import terminal_width

Matrix = tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class MeasuredRow:
    """One method in one setting.

    label: unique within the table
    method, preset, identity: as of a row of the leaderboard
    column: dataset, size, IPC, protocol, student; without the hash of a protocol, which a measure may vary
    cells: x -> accuracy
    students: x -> the records that the cell is made of
    """

    label: str
    method: str
    preset: str | None
    identity: str
    column: Column
    cells: Mapping[float, Cell]
    students: Mapping[float, Sequence[MeasuredResult]] = field(repr=False)

    def record(self, x: float) -> dict[str, Any]:
        """Return the cell of x with all that it belongs to, as one flat object; fractions in full precision."""
        cell = {name: value for name, value in asdict(self.cells[x]).items() if name != "by_seed"}
        place = {name: value for name, value in asdict(self.column).items() if name != "protocol_hash"}
        row = {"method": self.method, "label": self.label, "preset": self.preset, "identity": self.identity}
        return row | place | cell


def measured_rows(students: Iterable[MeasuredStudent]) -> list[MeasuredRow]:
    """Return a row for every method in every setting, `random` first, settings sorted, all training images last."""
    by_x: dict[float, list[StoredResult]] = defaultdict(list)
    records: dict[tuple[str, Column], dict[float, list[MeasuredResult]]] = defaultdict(lambda: defaultdict(list))
    for student in students:
        by_x[student.x].append(student.stored)
        (column,) = make_table([student.stored]).columns
        key = student.spec.method_digest, replace(column, protocol_hash="")
        records[key][student.x].append(student.measured)
    cells: dict[tuple[str, Column], dict[float, Cell]] = defaultdict(dict)
    for x, results in sorted(by_x.items()):
        for row in make_table(results).rows:
            for column, cell in row.cells.items():
                cells[row.identity, replace(column, protocol_hash="")][x] = cell
    board = make_table([result for results in by_x.values() for result in results])
    rows = [
        MeasuredRow(row.label, row.method, row.preset, row.identity, column, cells[row.identity, column],
                    records[row.identity, column])
        for row in board.rows
        for column in dict.fromkeys(replace(column, protocol_hash="") for column in row.cells)
    ]  # fmt: skip
    return sorted(rows, key=lambda row: (row.column.ipc == 0, row.column))


def accuracy_table(rows: Sequence[MeasuredRow], head: Callable[[float], str], title: str, form: str) -> str:
    """Return the accuracies of all rows in % as text, Markdown or LaTeX, a column for each x, and what rows share.

    title: what the columns are. The number of distillations has a column if it varies between rows, and stands in the
    cells ("61.2 ± 0.8 (n=3)") if it varies within one.
    """
    fields = place_fields([row.column for row in rows], ())
    values = sorted({x for row in rows for x in row.cells})
    counts = [{cell.n for cell in row.cells.values()} for row in rows]
    in_cells = any(len(of_row) > 1 for of_row in counts)
    in_column = not in_cells and len(set.union(*counts)) > 1
    lines = [
        (*(place_text(row.column, name) for name in fields), row.label, *map(str, of_row if in_column else ()),
         *(_cell_text(row.cells.get(x), in_cells) for x in values))
        for row, of_row in zip(rows, counts, strict=True)
    ]  # fmt: skip
    shared = [HEAD_TEXTS[name](rows[0].column) for name in HEADS if name not in fields]
    numbers = f"overall accuracy in %, mean ± sample std over n {title}"
    caption = f"{', '.join(shared)}; {numbers}" + ("" if in_cells or in_column else f", n = {counts[0].pop()}")
    heads = (*fields.values(), "method", *(["n"] if in_column else []), *map(head, values))
    return _with_caption(format_table(lines, heads, form), caption, form)


def _with_caption(table: str, caption: str, form: str) -> str:
    """Return a table with a caption, as the leaderboard has it: below, of LaTeX a comment above."""
    if form == "latex":
        return f"% {caption}\n{table}"
    if form == "markdown":
        return f"{table}\n\n*{caption}*"
    width = terminal_width()
    return f"{table}\n\n{textwrap.fill(caption, width, break_on_hyphens=False) if width else caption}"


def _cell_text(cell: Cell | None, with_count: bool) -> str:
    if cell is None:
        return "-"
    std = "" if cell.std is None else f" ± {100 * cell.std:.1f}"
    return f"{100 * cell.mean:.1f}{std}" + (f" (n={cell.n})" if with_count else "")


def redundancy_matrix(row: MeasuredRow, parts: int) -> Matrix:
    """Return the accuracies by the part of the training, then by the part of the test: the mean over all students.

    None where no student was trained on the part.
    """
    by_part: dict[int, list[tuple[float, ...]]] = defaultdict(list)
    for measured in row.students[parts]:
        by_part[int(measured.variation.place["part"])].append(measured.variation.accuracies)
    return tuple(
        tuple(map(statistics.fmean, zip(*by_part[part], strict=True))) if part in by_part else (None,) * parts
        for part in range(parts)
    )


def redundancy_records(rows: Sequence[MeasuredRow]) -> list[dict[str, Any]]:
    """Return one object for each row: `mean` is that off the diagonal; part_size, parts, matrix."""
    return [
        row.record(parts)
        | {"part_size": int(students[0].variation.place["part_size"]), "parts": int(parts)}
        | {"matrix": redundancy_matrix(row, int(parts))}
        for row in rows
        for parts, students in sorted(row.students.items())
    ]


def _redundancy_lines(rows: Sequence[MeasuredRow]) -> list[dict[str, Any]]:
    """Return one object for the mean off the diagonal, and one for each entry of a matrix, parts counted from 1."""
    lines = []
    for record in redundancy_records(rows):
        matrix = record.pop("matrix")
        lines.append(record | {"trained_on": "each", "tested_on": "others"})
        unknown = {name: None for name in Cell.__dataclass_fields__ if name in record}
        lines += [
            record | unknown | {"mean": accuracy, "trained_on": i, "tested_on": j}
            for i, line in enumerate(matrix, 1)
            for j, accuracy in enumerate(line, 1)
        ]
    return lines


def _redundancy_text(rows: Sequence[MeasuredRow], form: str) -> str:
    """Return the means off the diagonal and the matrices in %, as text, Markdown or LaTeX."""
    size = int(next(iter(rows[0].students.values()))[0].variation.place["part_size"])
    title = f"distillations, trained on one part of {size} images per class and tested on the others"
    blocks = [accuracy_table(rows, lambda parts: f"{parts:.0f} parts", title, form)]
    differ = place_fields([row.column for row in rows], ())
    for row in rows:
        setting = ", ".join([row.label, *(HEAD_TEXTS[name](row.column) for name in differ)])
        for parts in sorted(row.students):
            numbers = [str(part + 1) for part in range(int(parts))]
            matrix = [
                (number, *("-" if value is None else f"{100 * value:.1f}" for value in line))
                for number, line in zip(numbers, redundancy_matrix(row, int(parts)), strict=True)
            ]
            caption = f"{setting}: accuracy in %, trained on the row's part, tested on the column's"
            blocks.append(_with_caption(format_table(matrix, ("part", *numbers), form), caption, form))
    return "\n\n".join(blocks)


def budget_records(rows: Sequence[MeasuredRow]) -> list[dict[str, Any]]:
    """Return one object for each budget of each row: steps, full_steps, share of them, mean seconds of a student."""
    records = []
    for row in rows:
        for x in row.cells:
            steps, full = _steps(row, x)
            times = {"seconds": mean_seconds(row, x), "steps": steps, "full_steps": full, "share": steps / full}
            records.append(row.record(x) | times)
    return records


def mean_steps(row: MeasuredRow, x: float) -> float:
    """Return the steps of the students of a budget."""
    return _steps(row, x)[0]


def mean_seconds(row: MeasuredRow, x: float) -> float:
    """Return the mean seconds of a student, training and test."""
    return statistics.fmean(student.result.seconds for student in row.students[x])


def _steps(row: MeasuredRow, x: float) -> tuple[int, int]:
    """Return the steps of a budget's students, and those of the protocol: equal for all sets of one IPC."""
    place = row.students[x][0].variation.place
    return int(place["steps"]), int(place["full_steps"])


def _budget_text(rows: Sequence[MeasuredRow], form: str) -> str:
    """Return the accuracies in %, a column for each budget, as text, Markdown or LaTeX."""
    if all(x == mean_steps(row, x) for row in rows for x in row.cells):
        return accuracy_table(rows, lambda x: f"{x:.0f} steps", "distillations", form)
    full = " or ".join(map(str, sorted({_steps(row, x)[1] for row in rows for x in row.cells})))
    title = f"distillations, by share of the protocol's {full} steps"
    return accuracy_table(rows, lambda x: f"{100 * x:g} %", title, form)


def continual_records(rows: Sequence[MeasuredRow]) -> list[dict[str, Any]]:
    """Return one object for each step of each row: step, steps, classes; `n` counts orders of the classes."""
    records = []
    for row in rows:
        for x, students in row.students.items():
            place = students[0].variation.place
            step = {"step": int(place["step"]), "steps": int(place["steps"]), "classes": int(x)}
            records.append(row.record(x) | step)
    return records


def _continual_text(rows: Sequence[MeasuredRow], form: str) -> str:
    """Return the accuracies in %, a column for each step, as text, Markdown or LaTeX."""
    return accuracy_table(rows, lambda x: f"{x:.0f} classes", "orders of the classes", form)


@dataclass(frozen=True)
class _Kind:
    """The table of a measure.

    text: rows, "text", "markdown" or "latex" -> the table
    records: rows -> objects of JSON
    lines: rows -> objects of CSV, flat and with equal fields
    """

    text: Callable[[Sequence[MeasuredRow], str], str]
    records: Callable[[Sequence[MeasuredRow]], list[dict[str, Any]]]
    lines: Callable[[Sequence[MeasuredRow]], list[dict[str, Any]]]


_KINDS = {
    "redundancy": _Kind(_redundancy_text, redundancy_records, _redundancy_lines),
    "budget": _Kind(_budget_text, budget_records, budget_records),
    "continual": _Kind(_continual_text, continual_records, continual_records),
}


def render_measure(measure: str, rows: Sequence[MeasuredRow], form: str = "text") -> str:
    """Return the table of a measure in one of FORMATS, ending with a newline.

    text, markdown and latex show %, mean ± sample standard deviation over distillations, of "continual" over orders of
    the classes. csv and json hold fractions.
    """
    kind = _KINDS[measure]
    if form == "json":
        return json.dumps(kind.records(rows), indent=2) + "\n"
    if form == "csv":
        out = io.StringIO()
        lines = kind.lines(rows)
        writer = csv.DictWriter(out, list(lines[0]) if lines else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        return out.getvalue()
    return f"{kind.text(rows, form)}\n" if rows else "no results yet\n"


def measure_lines(measure: str, rows: Sequence[MeasuredRow]) -> list[dict[str, Any]]:
    """Return the lines of the measure's CSV as objects."""
    return _KINDS[measure].lines(rows)
