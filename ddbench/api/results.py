"""Results of runs: to look through, as a table, as a pandas frame. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddbench.datasets.name import display_name
from ddbench.errors import UserError, unknown
from ddbench.leaderboard import EXTRA_COLUMNS
from ddbench.leaderboard.extra_values import cell_costs
from ddbench.leaderboard.filters import Filters
from ddbench.leaderboard.render import TableOptions, cell_fields, cell_records, render
from ddbench.leaderboard.reported import Reported, read_reported
from ddbench.protocols import protocol_names, student_names
from ddbench.registry import names
from ddbench.runner.options import GlobalOptions
from ddbench.store.audits import Audit
from ddbench.store.costs import DistillationCost
from ddbench.store.reader import Problem, report_problems
from ddbench.store.records import StoredResult
from ddbench.store.results_file import read_results

if TYPE_CHECKING:
    import os

    import pandas

# of a spec and of a result, in the order of the columns of `Results.to_pandas`
_SPEC = ("dataset", "size", "method", "preset", "ipc", "seed")
_RESULT = ("overall", "average", "kappa", "macro_f1", "calibration", "n_test", "image_bytes", "label_bytes",
           "precision", "compiled", "teacher", "seconds", "memory_bytes", "device", "commit")  # fmt: skip


@dataclass(frozen=True)
class Results:
    """Results of students, a sequence of `StoredResult`: each has the `spec` of its run, the `result`, the `path`.

    entries: the results. `entries[0].result.overall` is an accuracy, a fraction.
    problems: files that cannot be used, each with the reason. failed: recorded failures.
    costs: folder of a run -> cost of its distillation.
    unselected: all results before `select`, for measures over several IPCs; empty for `entries`.
    audits: folder of a run -> audits of its set (`ddbench.audit`).

    `print(results)` shows the table that `ddbench leaderboard` prints.
    """

    entries: tuple[StoredResult, ...]
    problems: tuple[Problem, ...] = ()
    failed: tuple[Problem, ...] = ()
    costs: Mapping[Path, DistillationCost] = field(default_factory=dict, repr=False)
    unselected: tuple[StoredResult, ...] = field(default=(), repr=False)
    audits: Mapping[Path, tuple[Audit, ...]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[StoredResult]:
        return iter(self.entries)

    def __getitem__(self, index: int) -> StoredResult:
        return self.entries[index]

    def __str__(self) -> str:
        return render(self.entries)

    def _repr_markdown_(self) -> str:
        """The table in a notebook."""
        return render(self.entries, "markdown")

    def select(
        self,
        *,
        dataset: str | None = None,
        ipc: int | None = None,
        protocol: str | None = None,
        student: str | Sequence[str] | None = None,
    ) -> Results:
        """Return the results with these values, as the options of `ddbench leaderboard` choose them.

        Results of all training images match every IPC; a protocol is a NAME (all versions) or NAME@VERSION; a student
        is one name or several.

        Raises UserError for a name that is neither in the results nor registered.

        >>> len(ddbench.load_results("runs").select(student="resnet18"))
        0
        """
        students = (student,) if isinstance(student, str) else tuple(student or ())
        filters = Filters(display_name(dataset) if dataset else None, ipc, protocol, students)
        filters.check(
            self.entries, {"datasets": names("datasets"), "protocols": protocol_names(), "students": student_names()}
        )
        chosen = tuple(filter(filters.matches, self.entries))
        return replace(self, entries=chosen, unselected=self.unselected or self.entries)

    def to_latex(self, *, extras: Sequence[str] = (), reported: str | os.PathLike[str] | None = None) -> str:
        """Return the table as LaTeX (needs booktabs): mean accuracy in % ± sample deviation over distillations.

        extras: numbers beside each accuracy, such as "gain" and "share" (`ddbench leaderboard --help` lists them).
        reported: TOML file of numbers from papers, as docs/tables.md describes it.

        Raises UserError for an unknown number, and for a reported one that fits no column.

        >>> table = ddbench.load_results("runs").to_latex()
        >>> table.count("toprule")
        1
        """
        numbers = read_reported(Path(reported)) if reported else ()
        return render(self.entries, "latex", self._options(extras, numbers))

    def to_pandas(self, *, cells: bool = False, extras: Sequence[str] = ()) -> pandas.DataFrame:
        """Return a frame with one row per result, without means, or with one per cell. Accuracies are fractions.

        cells: one row per cell of the table, with the fields of `ddbench leaderboard --format csv`.
        extras: further numbers of each cell, such as "ratio" and "cross", in full precision (docs/tables.md).

        Columns of results: those of the run (dataset, size, method, preset, ipc, seed), of the student (student, init,
        student_seed, protocol), scores, sizes in bytes, seconds, device; `params`, a dict of the hyper-parameters;
        `split` with its `fingerprint`; `run`, the digest of the run, `folder` and `path`.

        Raises UserError without pandas, which ddbench does not install (pip install "ddbench[pandas]"), for an unknown
        number, and for extras without cells.

        >>> frame = ddbench.load_results("runs").to_pandas()
        >>> frame.groupby("method")["overall"].mean().index[-1]
        'random'
        >>> ddbench.load_results("runs").to_pandas(cells=True, extras=["gain"])["gain"].tolist()[0]
        0.0
        """
        if extras and not cells:
            raise UserError(f"{', '.join(extras)}: numbers of cells, not of single results: to_pandas(cells=True, ...)")
        options = self._options(extras)
        try:
            import pandas
        except ImportError:
            raise UserError('to_pandas needs pandas, which is not installed: pip install "ddbench[pandas]"') from None
        if cells:
            return pandas.DataFrame(cell_records(self.entries, options), columns=cell_fields(options.extras))
        return pandas.DataFrame(list(map(_record, self.entries)), columns=_COLUMNS)

    def _options(self, extras: Sequence[str], reported: tuple[Reported, ...] = ()) -> TableOptions:
        """Return what a table takes besides the results; UserError for an unknown number."""
        for name in extras:
            if name not in EXTRA_COLUMNS:
                raise unknown("number of a table", name, EXTRA_COLUMNS)
        costs = cell_costs(self.entries, self.costs, self.audits)
        return TableOptions(tuple(extras), costs, self.unselected, reported)


def load_results(runs: str | os.PathLike[str] | None = None) -> Results:
    """Return all results below a runs folder, or in a file that `ddbench export results` wrote. Imports no torch.

    runs: the folder or file; None for DDBENCH_RUNS, else "runs".

    Files that cannot be used are logged and are in `problems`. Raises UserError where nothing is at `runs`, and for a
    file that is no export.

    >>> run = ddbench.run("random", dataset="folder:images", ipc=1)
    >>> results = ddbench.load_results("runs")
    >>> run.results[0] in results, 0 <= results[0].result.overall <= 1
    (True, True)
    """
    source = GlobalOptions.of_call(True, "lanczos", runs=runs).runs
    scan = read_results(source, costs=True)
    report_problems(scan.problems)
    return Results(tuple(scan.results), tuple(scan.problems), tuple(scan.failed), scan.costs, audits=scan.audits)


def _record(stored: StoredResult) -> dict[str, Any]:
    """Return a result as one row."""
    spec, result = stored.spec, stored.result
    student = {"student": result.student, "init": result.init, "student_seed": result.seed, "protocol": result.title}
    row = {name: getattr(spec, name) for name in _SPEC} | student | {name: getattr(result, name) for name in _RESULT}
    split = {"split": spec.split, "fingerprint": spec.fingerprint}
    return row | {"params": dict(spec.params)} | split | {
        "run": spec.digest, "folder": str(stored.folder), "path": str(stored.path)
    }  # fmt: skip


_COLUMNS = [*_SPEC, "student", "init", "student_seed", "protocol", *_RESULT, "params", "split", "fingerprint", "run",
            "folder", "path"]  # fmt: skip
