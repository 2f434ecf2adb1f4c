"""Measures with students: redundancy, budgets, continual learning, canaries. No torch until it computes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ddbench.api.data import find_source, whole_number
from ddbench.datasets.lookup import ImageSource
from ddbench.errors import FailedRunError, UserError
from ddbench.leaderboard.measures import MeasuredRow, measure_lines, measured_rows, render_measure
from ddbench.runner.options import GlobalOptions
from ddbench.runner.student_job import MeasuredRun, StudentJob, Students, check_data, find_runs, read_students
from ddbench.store.canaries import CanaryAudit, read_canary_audit
from ddbench.store.failures import read_failure
from ddbench.store.paths import CANARIES, CONTINUAL, failure_path

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

    from ddbench.api.runs import Run
    from ddbench.runner.plan import ExecutionSettings
    from ddbench.sweep.workers import Job

Folder = str | os.PathLike[str]


@dataclass(frozen=True)
class Measure:
    """The students of a measure as a table; `print(measure)` shows it as the command does.

    name: "redundancy", "budget" or "continual".
    rows: one for each method in each setting: `label`, `column` (dataset, size, ipc, protocol, student), `cells`, the
        accuracies by what the measure varies, fractions: `cells[x].mean`, `.std`, `.n`.
    """

    name: str
    rows: tuple[MeasuredRow, ...] = field(repr=False)

    def __str__(self) -> str:
        return render_measure(self.name, self.rows)

    def _repr_markdown_(self) -> str:
        """The table in a notebook."""
        return render_measure(self.name, self.rows, "markdown")

    def to_latex(self) -> str:
        """Return the table as LaTeX (needs booktabs)."""
        return render_measure(self.name, self.rows, "latex")

    def plot(self) -> Figure:
        """Return the table as a plot of Matplotlib, which `savefig` writes. Raises UserError for redundancy."""
        from ddbench.report.measure_plots import plot_measure

        return plot_measure(self.name, self.rows)

    def to_pandas(self) -> pandas.DataFrame:
        """Return a frame with the lines of `--format csv`: fractions.

        Raises UserError without pandas, which ddbench does not install (pip install "ddbench[pandas]").
        """
        try:
            import pandas
        except ImportError:
            raise UserError('to_pandas needs pandas, which is not installed: pip install "ddbench[pandas]"') from None
        return pandas.DataFrame(measure_lines(self.name, self.rows))


def redundancy(  # noqa: PLR0913
    runs: Folder | Run | Sequence[Folder | Run],
    *,
    part_size: int = 10,
    dataset: Any = None,
    students: str | Sequence[str] = ("convnet",),
    student_seeds: int = 1,
    protocol: Folder = "quick",
    compiled: bool = False,
    retry: bool = False,
    classes: Sequence[str] | None = None,
    dataset_name: str = "",
    data_root: Folder | None = None,
    shared: Folder | None = None,
    device: str | None = None,
    resize: Literal["lanczos", "bilinear"] = "lanczos",
    quiet: bool = False,
) -> Measure:
    """Cut distilled sets into parts, train on each, test on the others, as `ddbench redundancy` does.

    runs: what `run` returned, folders of runs, or folders above several.
    part_size: images of a class in each part; a set needs twice as many.
    dataset: of the runs; None for the one that each names. Two torch datasets need their `classes` and `dataset_name`.

    All other arguments are those of `run`. `cells` of the rows have one key, the number of parts; their `mean` is the
    mean accuracy off the diagonal. Records are files in the runs' folders; existing ones are read.

    Raises UserError for an invalid argument, missing data, or if no set has two parts; FailedRunError if a student
    failed.

    >>> run = ddbench.run("random", dataset="folder:images", ipc=2, protocol="few_steps.toml")
    >>> redundancy = ddbench.redundancy(run, part_size=1, protocol="few_steps.toml")
    >>> 0 <= redundancy.rows[0].cells[2].mean <= 1
    True
    """
    from ddbench.runner.redundancy import redundancy_jobs

    options = GlobalOptions.of_call(quiet, resize, data=data_root, shared=shared, device=device)
    source = None if dataset is None else find_source(dataset, classes, dataset_name, quiet)
    trained = _students(students, protocol, student_seeds)
    jobs = redundancy_jobs(_find_runs(runs, source), whole_number("part_size", part_size, 1), trained)
    return _measure("redundancy", jobs, replace(options.settings, compiled=compiled), retry)


def budget(  # noqa: PLR0913
    runs: Folder | Run | Sequence[Folder | Run],
    *,
    fractions: Sequence[float] = (0.125, 0.25, 0.5, 1.0),
    steps: Sequence[int] = (),
    dataset: Any = None,
    students: str | Sequence[str] = ("convnet",),
    student_seeds: int = 1,
    protocol: Folder = "quick",
    compiled: bool = False,
    retry: bool = False,
    classes: Sequence[str] | None = None,
    dataset_name: str = "",
    data_root: Folder | None = None,
    shared: Folder | None = None,
    device: str | None = None,
    resize: Literal["lanczos", "bilinear"] = "lanczos",
    quiet: bool = False,
) -> Measure:
    """Train students for several lengths of time, as `ddbench budget` does: accuracy over training time.

    fractions: of the protocol's steps, above 0. steps: numbers of steps in place of them.

    The schedule of each training follows its own length. All other arguments and the errors are those of `redundancy`.
    `cells` of the rows are by fraction, or by number of steps.

    >>> run = ddbench.run("random", dataset="folder:images", ipc=2, protocol="few_steps.toml")
    >>> budget = ddbench.budget(run, steps=[1, 2], protocol="few_steps.toml")
    >>> list(budget.rows[0].cells)
    [1.0, 2.0]
    """
    from ddbench.runner.budget import Budgets, budget_jobs

    options = GlobalOptions.of_call(quiet, resize, data=data_root, shared=shared, device=device)
    source = None if dataset is None else find_source(dataset, classes, dataset_name, quiet)
    trained = _students(students, protocol, student_seeds)
    budgets = Budgets(tuple(fractions), tuple(whole_number("steps", number, 1) for number in steps))
    jobs = budget_jobs(_find_runs(runs, source), budgets, trained)
    return _measure("budget", jobs, replace(options.settings, compiled=compiled), retry)


def continual(  # noqa: PLR0913
    plan: Folder,
    *,
    compiled: bool = False,
    retry: bool = False,
    runs: Folder | None = None,
    data_root: Folder | None = None,
    shared: Folder | None = None,
    device: str | None = None,
    resize: Literal["lanczos", "bilinear"] = "lanczos",
    quiet: bool = False,
) -> Measure:
    """Learn classes step by step with distilled sets as memory, as `ddbench continual` does.

    plan: a TOML file (`ddbench continual --help` explains it).

    All other arguments are those of `run`. `cells` of the rows are by the number of classes; their mean and deviation
    are over orders of the classes.

    Raises UserError for an invalid plan or missing data, before anything is written; FailedRunError if a distillation
    or a student failed.

    >>> text = 'dataset = "folder:images4"\\nsteps = 2\\nipc = 1\\norders = 1\\nprotocol = "few_steps.toml"\\n'
    >>> _ = Path("plan.toml").write_text(text + 'methods = ["random"]')
    >>> list(ddbench.continual("plan.toml").rows[0].cells)
    [2.0, 4.0]
    """
    from ddbench.sweep.continual import continual_work, read_continual

    options = GlobalOptions.of_call(quiet, resize, runs=runs, data=data_root, shared=shared, device=device).absolute()
    work = continual_work(*read_continual(Path(plan).expanduser()), options.data_paths, options.runs)
    settings = replace(options.settings, runs=options.runs / CONTINUAL, compiled=compiled)
    _run_jobs({job.folder: job for job in work.distillations}, settings, retry)
    return _measure("continual", work.students, settings, retry)


def canaries(  # noqa: PLR0913
    plan: Folder,
    *,
    compiled: bool = False,
    retry: bool = False,
    runs: Folder | None = None,
    data_root: Folder | None = None,
    shared: Folder | None = None,
    device: str | None = None,
    resize: Literal["lanczos", "bilinear"] = "lanczos",
    quiet: bool = False,
) -> tuple[CanaryAudit, ...]:
    """Attack students of distilled sets with LiRA, as `ddbench audit --canaries` does: one for each method and student.

    plan: a TOML file (`ddbench audit --help` explains it).

    All other arguments are those of `run`. Of the returned `results`, `result.finding(attack, results)` is None where a
    control fails.

    Raises UserError for an invalid plan or missing data, before anything is written; FailedRunError if a distillation
    or a student failed.

    >>> text = 'dataset = "folder:images4"\\nipc = 1\\naudited = 40\\nprotocol = "few_steps.toml"\\n'
    >>> _ = Path("plan.toml").write_text(text + 'distillations = 6\\nmethods = ["random"]')
    >>> (result,) = ddbench.canaries("plan.toml")
    >>> sorted(result.attacks)
    ['other audited images', 'relabelled images']
    """
    from ddbench.runner.canaries import attack_students
    from ddbench.sweep.canaries import canary_work, read_canaries

    options = GlobalOptions.of_call(quiet, resize, runs=runs, data=data_root, shared=shared, device=device).absolute()
    work = canary_work(*read_canaries(Path(plan).expanduser()), options.data_paths, options.runs)
    settings = replace(options.settings, runs=options.runs / CANARIES, compiled=compiled)
    _run_jobs({job.folder: job for job in work.distillations}, settings, retry)
    _run_jobs({job.task.path: job for subject in work.subjects for job in subject.jobs}, settings, retry)
    return tuple(read_canary_audit(attack_students(subject)) for subject in work.subjects)


def _students(names: str | Sequence[str], protocol: Folder, seeds: int) -> Students:
    chosen = (names,) if isinstance(names, str) else tuple(names)
    return Students.of(chosen, os.fspath(protocol), whole_number("student_seeds", seeds, 1))


def _find_runs(runs: Folder | Run | Sequence[Folder | Run], source: ImageSource | None) -> list[MeasuredRun]:
    from ddbench.api.runs import Run

    several = [runs] if isinstance(runs, str | os.PathLike | Run) else list(runs)
    folders = [run.folder if isinstance(run, Run) else Path(run).expanduser() for run in several]
    return find_runs(folders, source)


def _measure(name: str, jobs: Sequence[StudentJob], settings: ExecutionSettings, retry: bool) -> Measure:
    """Do the missing jobs one after another and read the records of all. Raises FailedRunError."""
    check_data(jobs, settings.data_paths)
    _run_jobs({job.task.path: job for job in jobs}, settings, retry)
    students, problems = read_students(jobs)
    if problems:
        raise UserError("\n".join(problem.reason for problem in problems))
    return Measure(name, tuple(measured_rows(students)))


def _run_jobs(jobs: Mapping[Path, Job], settings: ExecutionSettings, retry: bool) -> None:
    """Do the missing jobs, each under the path that its failure is recorded for. Raises FailedRunError."""
    failed = {path: job for path, job in jobs.items() if job.run(settings, retry).failed}
    if failed:
        lines = [f"{job.title}: {failure.error}; see {failure_path(path)}"
                 for path, job in failed.items() if (failure := read_failure(path))]  # fmt: skip
        raise FailedRunError("\n".join([*lines, "retry=True repeats what failed"]))
