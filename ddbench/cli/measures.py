"""`ddbench redundancy`, `ddbench budget`: measures with students of their own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ddbench.cli.common import DATASET, OutputFile, UserPath, format_option, format_table, log
from ddbench.cli.run import COMPILED, DRY_RUN, PROTOCOL_NAME, RETRY, STUDENT_SEEDS, STUDENTS
from ddbench.cli.sweep import pool_of, run_jobs
from ddbench.leaderboard import FORMATS
from ddbench.report import PLOTS
from ddbench.runner.options import GlobalOptions
from ddbench.utils.limits import MOST_IMAGES

if TYPE_CHECKING:
    from ddbench.runner.student_job import StudentJob, Students
    from ddbench.sweep.workers import Job, Submit

RUNS = click.argument("folders", metavar="RUN...", nargs=-1, required=True, type=UserPath(exists=True, file_okay=False))


class PlotFile(OutputFile):
    """A file for a plot, in one of three formats."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = super().convert(value, param, ctx)
        if path.suffix.lower() not in PLOTS:
            self.fail(f"{path}: a plot is one of {', '.join(PLOTS)}: name such a file", param, ctx)
        return path


PLOT = click.option("--plot", type=PlotFile(), metavar="FILE", help="Also draw a plot: SVG, PNG or PDF.")


@dataclass(frozen=True)
class JobOptions:
    """How the jobs of a measure are done.

    at_once: processes; None for this one.
    scheduler: address of a Dask scheduler; None for none.
    retry: try jobs again that failed earlier.
    dry_run: print the jobs only.
    compiled: train students through torch.compile.
    form: one of FORMATS, of the table.
    """

    at_once: int | None
    scheduler: str | None
    retry: bool
    dry_run: bool
    compiled: bool
    form: str

    def pool(self, options: GlobalOptions) -> AbstractContextManager[Submit] | None:
        """Return the processes of the jobs; None for this process."""
        here = not (self.at_once or self.scheduler) and len(options.devices) == 1
        return None if here else pool_of(options, self.at_once, self.scheduler)


def job_options(command: Callable) -> Callable:
    """Add the options that all measures share; the command gets them as `job_options`."""

    # fmt: off
    @click.option("--jobs", "at_once", type=click.IntRange(min=1),
                  help="Number of students at a time, each in a process.  [default: one, in this process]")
    @click.option("--scheduler", metavar="ADDRESS", help="Dask scheduler, as of `ddbench sweep`; replaces --jobs.")
    @COMPILED
    @RETRY
    @DRY_RUN
    @format_option("text", FORMATS)
    @functools.wraps(command)
    def with_options(
        *args: Any, at_once: int | None, scheduler: str | None, retry: bool, dry_run: bool, compiled: bool,
        form: str, **others: Any,
    ) -> Any:
        jobs = JobOptions(at_once, scheduler, retry, dry_run, compiled, form)
        return command(*args, job_options=jobs, **others)
    # fmt: on

    return with_options


def student_options(command: Callable) -> Callable:
    """Add the options of the students of a run; the command gets them as `dataset` and `students`."""

    @click.option("--dataset", type=DATASET, metavar="NAME|folder:PATH",
                  help="Dataset of the runs.  [default: the one that each run names]")  # fmt: skip
    @STUDENTS
    @STUDENT_SEEDS
    @PROTOCOL_NAME
    @functools.wraps(command)
    def with_options(
        *args: Any, students: tuple[str, ...], student_seeds: int, protocol: str, **others: Any
    ) -> Any:  # fmt: skip
        from ddbench.runner.student_job import Students

        return command(*args, students=Students.of(students, protocol, student_seeds), **others)

    return with_options


@click.command()
@RUNS
@click.option("--part-size", type=click.IntRange(1, MOST_IMAGES), default=10, show_default=True,
              help="Images of a class in each part.")  # fmt: skip
@student_options
@job_options
@click.pass_obj
def redundancy(
    options: GlobalOptions,
    folders: tuple[Path, ...],
    part_size: int,
    dataset: str | None,
    students: Students,
    job_options: JobOptions,
) -> None:
    """Cut distilled sets into parts, train on each, test on the others.

    RUN is a run's folder, or one above several. Its set is cut by class into disjoint parts of --part-size images, in
    the order of the files. A student is trained on each part and tested on the images of the others. Where each part
    teaches the same, the mean accuracy on the others (off the diagonal) is high: the set is redundant. Compare it only
    between sets of one dataset, IPC and part size.

    A repeated command does only what is missing. Each student is a file in the run's redundancy/ folder; no leaderboard
    reads it. CSV has a line for each entry of a matrix, JSON the whole matrix, both as fractions.

    \b
    Examples:
      ddbench redundancy runs/ucm64/*/ipc50/seed0-*
      ddbench redundancy runs/scenes64/random runs/scenes64/dpd --part-size 5 --student resnet18 --jobs 2
      ddbench redundancy runs/ucm64/dpd/ipc50 --format latex
    """
    from ddbench.runner.redundancy import redundancy_jobs
    from ddbench.runner.student_job import check_data, find_runs

    options = options.absolute()
    jobs = redundancy_jobs(find_runs(folders, dataset), part_size, students)
    check_data(jobs, options.data_paths)
    finish("redundancy", jobs, do_jobs(options, jobs, job_options), job_options.form)


@click.command()
@RUNS
@click.option("--fraction", "shares", type=click.FloatRange(0, 100, min_open=True), multiple=True,
              help="Share of the protocol's steps; repeatable.  [default: 0.125, 0.25, 0.5, 1]")  # fmt: skip
@click.option("--steps", type=click.IntRange(min=1), multiple=True, help="Number of steps instead; repeatable.")
@PLOT
@student_options
@job_options
@click.pass_obj
def budget(  # noqa: PLR0913
    options: GlobalOptions,
    folders: tuple[Path, ...],
    shares: tuple[float, ...],
    steps: tuple[int, ...],
    plot: Path | None,
    dataset: str | None,
    students: Students,
    job_options: JobOptions,
) -> None:
    """Train students for several lengths of time: accuracy over training time.

    RUN is a run's folder, or one above several. For each budget a student is trained anew, with the protocol's steps
    cut (or stretched) to the budget; its learning rate, warm-up and milestones follow the budget's own length. A
    protocol of whole epochs takes the nearest number of them. Where a run has a result of the same student for the full
    length, that is taken over.

    A repeated command does only what is missing. Each student is a file in the run's budget/ folder; no leaderboard
    reads it. CSV and JSON have fractions, steps and seconds.

    \b
    Examples:
      ddbench budget runs/ucm64/random/ipc10 runs/ucm64/dpd/ipc10 --plot budget.svg
      ddbench budget runs/scenes64 --steps 100 --steps 400 --steps 1600 --student resnet18 --jobs 2
      ddbench budget runs/ucm64/dm/ipc10 --fraction 0.5 --fraction 2 --format csv
    """
    from ddbench.runner.budget import SHARES, Budgets, budget_jobs
    from ddbench.runner.student_job import check_data, find_runs

    if shares and steps:
        raise click.UsageError("--fraction and --steps exclude each other: give shares of the protocol, or steps")
    options = options.absolute()
    jobs = budget_jobs(find_runs(folders, dataset), Budgets(shares or SHARES, steps), students)
    check_data(jobs, options.data_paths)
    finish("budget", jobs, do_jobs(options, jobs, job_options), job_options.form, plot)


def finish(measure: str, jobs: Sequence[StudentJob], failed: bool, form: str, plot: Path | None = None) -> None:
    """Print the table of the students that have a record, and write its plot.

    Ends with status 1 if a job failed, or a record cannot be used.
    """
    from ddbench.leaderboard.measures import measured_rows, render_measure
    from ddbench.runner.student_job import read_students
    from ddbench.store.reader import report_problems

    students, problems = read_students(jobs)
    report_problems(problems)
    rows = measured_rows(students)
    click.echo(render_measure(measure, rows, form), nl=False)
    if plot:
        from ddbench.report.measure_plots import encode, plot_measure
        from ddbench.utils.files import write_bytes

        write_bytes(plot, encode(plot_measure(measure, rows), plot.suffix.lower()))
        log.info("written to %s", plot)
    if failed or problems:
        raise SystemExit(1)


def do_jobs(options: GlobalOptions, jobs: Sequence[Job], job_options: JobOptions) -> bool:
    """Do the missing jobs; return True if one failed. A dry run prints the jobs and ends the command."""
    from ddbench.runner.run import TaskCounts

    retry = job_options.retry
    failures = {} if retry else {job.title: failure for job in jobs if (failure := job.earlier_failure)}
    if job_options.dry_run:
        states = [(job.title, "done" if job.done else "to do") for job in jobs]
        rows = [(*state, failures[state[0]].error if state[0] in failures else "") for state in states]
        click.echo(format_table(rows, ("job", "state", "failed earlier"), job_options.form))
        if job_options.form == "text":
            click.echo(f"{len(rows)} jobs, {sum(state == 'to do' for _, state, _ in rows)} to do")
        click.get_current_context().exit()
    for title, failure in failures.items():
        log.error("%s: failed earlier (%s); --retry repeats it", title, failure.error)
    todo = [job for job in jobs if not job.done and job.title not in failures]
    counts = TaskCounts(failed=len(failures), existing=len(jobs) - len(todo) - len(failures))
    if todo:
        settings = replace(options.settings, quiet=True, compiled=job_options.compiled)
        counts += run_jobs(todo, job_options.pool(options), settings, retry, options.quiet)
    done = (counts.done, counts.failed, counts.existing)
    log.info("%d jobs: %d done now, %d failed, %d done before", len(jobs), *done)
    return counts.failed > 0
