"""Results to rows and columns: pure arithmetic, nothing is read or printed. No torch.

Numbers are pooled only within a *column* (dataset and split, size, IPC, protocol and its exact content, version of the
evaluator, student, initialisation, precision) and a *row* (method, version, source, complete parameters). Within a
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

from ddbench.leaderboard.labels import row_labels
from ddbench.leaderboard.statistics import best_and_ties, between_std, half_width, within_std
from ddbench.store.records import RunSpec, StoredResult

RANDOM, FULL = "random", "full"  # the anchors
ALL_STUDENTS = "all students"
NETWORKS = ("student", "teacher", "embedding", "surrogate")  # hyper-parameters that name a distilling network


@dataclass(frozen=True, order=True)
class Column:
    """Everything that two numbers must share to be compared.

    dataset: name of the dataset
    size: side of the images, pixels
    ipc: images per class; 0 for all training images
    protocol: name and version, "quick@1"
    student, init: name of the student, initialisation of its weights
    precision: of the student's training, "fp32" or "bf16"
    fingerprint: SHA-256 of the split
    protocol_hash: SHA-256 of the protocol's content
    evaluators: evaluators.VERSION
    split: name of the split
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
    evaluators: str
    split: str = field(default="", compare=False)

    @property
    def any_ipc(self) -> Column:
        """The column of all training images; equal for all columns that differ by the IPC alone."""
        return replace(self, ipc=0)

    @property
    def split_label(self) -> str:
        """Name of the split and the beginning of its fingerprint."""
        return f"{self.split} ({self.fingerprint[:8]})"


@dataclass(frozen=True)
class Cell:
    """Accuracy of a row in a column, as fractions.

    mean: over distillations
    std: sample standard deviation over distillations; None for one
    n: number of distillations
    students: number of students, over all distillations
    half_width: half of the 95 % interval of the mean; None for one distillation
    within: standard deviation among the students of a distillation; None where each has one
    between: standard deviation among distillations, without what their students add; None where unknown
    by_seed: seed of a distillation -> mean of its students
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
    """One method with one set of parameters.

    label: unique within a table
    method: name of the method
    preset: name of the preset, or names joined by "/"; None without one
    identity: SHA-256 of the method with its parameters
    cells: column -> accuracy
    source: paper that reports the row; empty for a computed one
    network: student that the method distilled with; empty for none, or an unknown one
    """

    label: str
    method: str
    preset: str | None
    identity: str
    cells: Mapping[Column, Cell]
    source: str = ""
    network: str = ""

    @property
    def is_ranked(self) -> bool:
        """Computed here, and not `full`."""
        return self.method != FULL and not self.source


@dataclass(frozen=True)
class Table:
    """Columns sorted, rows by method, preset and settings. A row has no cell in a column where it was not run."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


Key = tuple[str, Column]  # a row's identity, a column
_Number = tuple[int, str, int, float]  # distillation seed, content of its set, student seed, accuracy


def make_table(results: Iterable[StoredResult], metric: str = "overall") -> Table:
    """Return the leaderboard of `metric` ("overall" or "average" accuracy), whatever the order of the results."""
    numbers: dict[str, dict[Column, list[_Number]]] = defaultdict(lambda: defaultdict(list))
    specs: dict[str, RunSpec] = {}  # one of each row
    presets: dict[str, set[str]] = defaultdict(set)  # equal parameters may come with and without a preset
    for stored in sorted(results, key=lambda stored: stored.spec.split):  # one split may have several names
        spec, result, row = stored.spec, stored.result, row_identity(stored)
        specs.setdefault(row, spec)
        presets[row] |= {spec.preset} if spec.preset else set()
        number = (spec.seed, result.content, result.seed, getattr(result, metric))
        numbers[row][column_of(stored)].append(number)

    preset = {row: "/".join(sorted(presets[row])) or None for row in specs}
    rows = []
    for row, label in row_labels(specs, preset).items():
        cells = {column: make_cell(_distillations(group)) for column, group in numbers[row].items()}
        spec = specs[row]
        rows.append(Row(label, spec.method, preset[row], row, cells, network=distilling_network(spec)))
    rows.sort(key=lambda row: (row.method == FULL, row.method != RANDOM))  # `random` first and `full` last
    return Table(tuple(sorted({column for row in rows for column in row.cells})), tuple(rows))


def column_of(stored: StoredResult) -> Column:
    """Return the column of a result."""
    spec, result = stored.spec, stored.result
    # results of older versions record only the device
    precision = result.precision or ("fp32" if result.device.startswith("cpu") else "bf16")
    place = (spec.dataset, spec.size, spec.ipc, result.title, result.student, result.init, precision)
    evaluators = result.versions.get("evaluators", "1")
    return _column(*place, spec.fingerprint, result.protocol_hash, evaluators, split_name(spec.split))


_column = cache(Column)  # a hundred thousand results have some hundred columns


@cache
def split_name(rule: str) -> str:
    """Shorten the rule of a split: "50/50 of each class ..., resized by bilinear" is "50/50 bilinear"."""
    name = re.split(r" of | lists ", rule)[0].replace(" train, ", "/").removesuffix(" test")
    details = re.findall(r", (?:resized by|revision) (\w+)", rule)
    return " ".join([name, *(detail[:8] for detail in details)])


def row_identity(stored: StoredResult) -> str:
    """Return the identity of a result's row: the digest of its method with all parameters."""
    return stored.spec.method_digest


def distilling_network(spec: RunSpec) -> str:
    """Return the student that a method distilled with, as its hyper-parameters record it; empty for none.

    They are `student` (dm, dc, dsa, mtt, forgetting, el2n, cadprune), `teacher` (sre2l, rded), `embedding` (herding,
    kcenter, and kmeans if its `features` are those of a network) and `surrogate` (igd, lgd, unless all of its guidances
    are switched off).
    """
    if spec.params.get("features", "network") != "network":
        return ""
    if "surrogate" in spec.params and not any(spec.params.get(name) for name in ("influence", "learnability")):
        return ""
    return next((value for name in NETWORKS if isinstance(value := spec.params.get(name), str)), "")


def make_cell(distillations: Iterable[tuple[Sequence[int], list[float]]]) -> Cell:
    """Average accuracies.

    distillations: for each its seeds, which no other has, and the accuracies of its students
    """
    seeds, runs = zip(*distillations, strict=True)
    means = [statistics.fmean(run) for run in runs]
    std = statistics.stdev(means) if len(means) > 1 else None
    by_seed = {seed: mean for group, mean in zip(seeds, means, strict=True) for seed in group}
    mean, students = statistics.fmean(means), sum(map(len, runs))
    return Cell(mean, std, len(means), students, half_width(means), within_std(runs), between_std(runs), by_seed)


def _distillations(numbers: Iterable[_Number]) -> list[tuple[list[int], list[float]]]:
    """Group numbers by distillation: its seeds, and one accuracy for each of its students.

    One seed may occur twice, where a split has two names; several seeds are one distillation where their sets are the
    same. A student that occurs twice counts once, as the mean. All is sorted: the order of files must not matter.
    """
    sets: dict[int, set[str]] = defaultdict(set)
    students: dict[int, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for seed, content, student, accuracy in sorted(numbers):
        sets[seed].add(content)
        students[seed][student].append(accuracy)
    seeds: dict[frozenset[str], list[int]] = defaultdict(list)
    for seed, contents in sets.items():
        seeds[frozenset(contents)].append(seed)

    distillations = []
    for group in seeds.values():
        by_student: dict[int, list[float]] = defaultdict(list)
        for seed in group:
            for student, accuracies in students[seed].items():
                by_student[student] += accuracies
        distillations.append((group, sorted(map(statistics.fmean, by_student.values()))))
    return distillations


def best_rows(board: Table, column: Column) -> set[str]:
    """Return the identities of the best row of a column and of its ties; see `statistics.best_and_ties`."""
    rows = [row for row in board.rows if column in row.cells]
    return best_and_ties({row.identity: row.cells[column].by_seed for row in rows if row.is_ranked})


def with_full_everywhere(board: Table) -> Table:
    """Copy the accuracy of `full` into every column that differs from its own by the IPC alone.

    Its own column goes where there is such a column and no other row has a cell in it.
    """
    targets = {column: [c for c in board.columns if c.ipc and c.any_ipc == column] for column in board.columns}
    targets = {column: others for column, others in targets.items() if column.ipc == 0 and others}
    gone = {column for column in targets if all(row.method == FULL for row in board.rows if column in row.cells)}
    rows = []
    for row in board.rows:
        cells = {column: cell for column, cell in row.cells.items() if column not in gone}
        for column in row.cells.keys() & targets.keys() if row.method == FULL else ():
            cells |= dict.fromkeys(targets[column], row.cells[column])
        rows.append(replace(row, cells=cells))
    return Table(tuple(column for column in board.columns if column not in gone), tuple(rows))


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


def shared_fields(board: Table) -> dict[str, str]:
    """Return the fields that all columns share, by name: they belong into the caption."""
    shared = {}
    for name in Column.__dataclass_fields__:
        values = {getattr(column, name) for column in board.columns}
        if len(values) == 1:
            shared[name] = str(values.pop())
    return shared
