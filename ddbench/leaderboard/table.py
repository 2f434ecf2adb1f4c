"""Results to rows: pure arithmetic, nothing is read or printed. No torch.

Numbers are pooled only within a *column* (dataset and split, size, IPC, protocol and its exact content, version of the
judge, student, initialisation, precision) and a *row* (method, version, source, complete parameters). Within a
distillation the mean over student seeds is taken first; then mean and sample standard deviation are over distillations.
Seeds that led to the same images are one distillation.
"""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from ddbench.leaderboard.statistics import between, half_width, ties, within
from ddbench.store.records import Result, StoredResult

RANDOM, FULL = "random", "full"  # the anchors


@dataclass(frozen=True, order=True)
class Column:
    """What a number is comparable within.

    fingerprint: of the split, which `split` names. precision: "fp32" or "bf16", of the student's training.
    protocol_hash: of its row. judge: evaluators.VERSION.
    """

    dataset: str
    size: int
    ipc: int
    protocol: str
    student: str
    init: str
    precision: str
    fingerprint: str
    protocol_hash: str
    judge: str
    split: str = field(default="", compare=False)

    @property
    def any_ipc(self) -> Column:
        """What all columns share that differ by the IPC alone; it is that of all training images."""
        return replace(self, ipc=0)

    @property
    def parted(self) -> str:
        """The split by its name and the beginning of its fingerprint."""
        return f"{self.split} ({self.fingerprint[:8]})"


@dataclass(frozen=True)
class Cell:
    """Accuracy as fractions. std: ddof = 1, None for one distillation. n: distillations. students: trained in all.

    half_width: of the 95 % interval of the mean. within, between: deviation among the students of a distillation, and
    among distillations without it; see ddbench.leaderboard.statistics. by_seed: the mean of a distillation by each of
    its seeds.
    """

    mean: float
    std: float | None
    n: int
    students: int
    half_width: float | None = None
    within: float | None = None
    between: float | None = None
    by_seed: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One method with one set of parameters. label: unique within a table. identity: SHA-256 of what makes the row.

    source: the paper that reports it, empty for what was computed.
    """

    label: str
    method: str
    preset: str | None
    identity: str
    cells: Mapping[Column, Cell]
    source: str = ""

    @property
    def competes(self) -> bool:
        """Not what takes all training images, which is an anchor, nor what somebody else computed."""
        return self.method != FULL and not self.source


@dataclass(frozen=True)
class Table:
    """Rows by label, columns sorted; a row without a cell in a column has not been run there."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


_Cells = Mapping[Column, Cell]
_Number = tuple[int, str, int, float]  # distillation seed, content of its set, student seed, accuracy


def table(entries: Iterable[StoredResult], metric: str = "overall") -> Table:
    """The leaderboard of `metric` ("overall" or "average" accuracy). The order of the entries does not matter."""
    scores: dict[str, dict[Column, list[_Number]]] = defaultdict(lambda: defaultdict(list))
    heads: dict[str, set[tuple[str, str | None]]] = defaultdict(set)
    for entry in sorted(entries, key=lambda entry: entry.spec.split):  # one split in two people's words has the first
        row = row_identity(entry)
        heads[row].add((entry.spec.method, entry.spec.preset))
        result = entry.result
        number = (entry.spec.seed, result.content, result.seed, getattr(result, metric))
        scores[row][column(entry)].append(number)
    labels = _labels(heads)
    rows = [
        Row(
            labels[row], *_head(heads[row]), row, {where: cell(_distillations(found)) for where, found in cells.items()}
        )
        for row, cells in scores.items()
    ]
    columns = {column for row in rows for column in row.cells}
    return Table(tuple(sorted(columns)), tuple(sorted(rows, key=_place)))


def _place(row: Row) -> tuple[bool, bool, str, str]:
    """The anchors stand at the ends: random images first, all of them last."""
    return row.method == FULL, row.method != RANDOM, row.label.lower(), row.identity


def column(entry: StoredResult) -> Column:
    """The column an entry belongs to."""
    spec, result = entry.spec, entry.result
    where = (spec.dataset, spec.size, spec.ipc, result.title, result.student, result.init, _precision(result))
    judge = result.versions.get("evaluators", "1")
    return _column(*where, spec.fingerprint, result.protocol_hash, judge, split_name(spec.split))


_column = cache(Column)  # a hundred thousand results have some hundred columns


@cache
def split_name(rule: str) -> str:
    """The name of a split in words: "50/50 of each class ..., resized by bilinear" is "50/50 bilinear"."""
    name = re.split(r" of | lists ", rule)[0].replace(" train, ", "/").removesuffix(" test")
    details = re.findall(r", (?:resized by|revision) (\w+)", rule)
    return " ".join([name, *(detail[:8] for detail in details)])


def _precision(result: Result) -> str:
    """Of results of older versions, only the device says it."""
    return result.precision or ("fp32" if result.device.startswith("cpu") else "bf16")


def row_identity(entry: StoredResult) -> str:
    """What makes the row an entry belongs to: its method, as it was set."""
    return entry.spec.method_digest


def cell(found: Iterable[tuple[Sequence[int], list[float]]]) -> Cell:
    """Fold accuracies: of each distillation its seeds, which no other has, and one number per student."""
    seeds, runs = zip(*found, strict=True)
    means = [statistics.fmean(run) for run in runs]
    std = statistics.stdev(means) if len(means) > 1 else None
    by_seed = {seed: mean for of, mean in zip(seeds, means, strict=True) for seed in of}
    students = sum(map(len, runs))
    mean = statistics.fmean(means)
    return Cell(mean, std, len(means), students, half_width(means), within(runs), between(runs), by_seed)


def best(table: Table, column: Column) -> set[str]:
    """Identities of the rows that lead a column, and of those that a test does not tell from it (comparing.ties)."""
    rows = [row for row in table.rows if column in row.cells]
    return ties({row.identity: row.cells[column].by_seed for row in rows if row.competes})


def anchored(board: Table) -> Table:
    """With the accuracy of all training images in every column that differs from its own by the IPC alone.

    Where there is such a column, its own is left out. It is what IPC is compared with, and depends on none.
    """
    whole = {column: [c for c in board.columns if c.ipc and c.any_ipc == column] for column in board.columns}
    moved = {column: others for column, others in whole.items() if column.ipc == 0 and others}
    only = {column for column in moved if all(row.method == FULL for row in board.rows if column in row.cells)}
    rows = [replace(row, cells=_spread(row, moved, only)) for row in board.rows]
    return Table(tuple(column for column in board.columns if column not in only), tuple(rows))


def _spread(row: Row, moved: Mapping[Column, list[Column]], gone: set[Column]) -> _Cells:
    found = {column: cell for column, cell in row.cells.items() if column not in gone}
    own = row.cells.keys() & moved.keys() if row.method == FULL else set()
    return found | {other: row.cells[column] for column in own for other in moved[column]}


def common(table: Table) -> dict[str, str]:
    """What all columns share, by field name: it belongs into the caption."""
    shared = {}
    for name in Column.__dataclass_fields__:
        values = {getattr(column, name) for column in table.columns}
        if len(values) == 1:
            shared[name] = str(values.pop())
    return shared


def _distillations(numbers: Iterable[_Number]) -> list[tuple[list[int], list[float]]]:
    """Of each distillation its seeds and its students' accuracies. Sorted: the order of files must not matter.

    One seed may be there twice, as a split in two people's words; several are one where the sets are the same. A
    student that is there twice counts once, as the mean.
    """
    sets: dict[int, set[str]] = defaultdict(set)
    students: dict[int, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for seed, content, student, accuracy in sorted(numbers):
        sets[seed].add(content)
        students[seed][student].append(accuracy)
    seeds: dict[frozenset[str], list[int]] = defaultdict(list)
    for seed, contents in sets.items():
        seeds[frozenset(contents)].append(seed)
    return [(of, _by_student(students[seed] for seed in of)) for of in seeds.values()]


def _by_student(found: Iterable[Mapping[int, list[float]]]) -> list[float]:
    """One accuracy for each student, sorted."""
    one: dict[int, list[float]] = defaultdict(list)
    for students in found:
        for student, accuracies in students.items():
            one[student] += accuracies
    return sorted(map(statistics.fmean, one.values()))


def _head(found: set[tuple[str, str | None]]) -> tuple[str, str | None]:
    """Method and preset of a row; equal parameters may have been reached with and without a preset's name."""
    presets = sorted({preset for _, preset in found if preset})
    return next(iter(found))[0], "/".join(presets) or None


def _labels(heads: Mapping[str, set[tuple[str, str | None]]]) -> dict[str, str]:
    """ "method" or "method (preset)"; rows that would share it also get the beginning of their identity."""
    plain = {row: _label(*_head(found)) for row, found in heads.items()}
    often = list(plain.values())
    return {row: label if often.count(label) == 1 else f"{label} #{row[:6]}" for row, label in plain.items()}


def _label(method: str, preset: str | None) -> str:
    return f"{method} ({preset})" if preset else method
