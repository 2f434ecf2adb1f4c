"""`ddbench sweep`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ddbench.cli.common import UserPath, filter_results, format_option, format_table, log, log_to_stderr
from ddbench.leaderboard import FORMATS
from ddbench.runner.options import GlobalOptions
from ddbench.utils.text_table import terminal_width

if TYPE_CHECKING:
    from ddbench.runner.plan import ExecutionSettings
    from ddbench.runner.run import TaskCounts
    from ddbench.sweep.grid import SweepJob
    from ddbench.sweep.workers import AnyJob, Submit


@click.command()
@click.argument("plan", type=UserPath(exists=True, dir_okay=False))
@click.option(
    "--jobs",
    "at_once",
    type=click.IntRange(min=1),
    help="Number of jobs at a time, each in a process.  [default: 1 for each device]",
)
@click.option("--scheduler", metavar="ADDRESS", help="Dask scheduler, such as tcp://head:8786; replaces --jobs.")
@click.option("--compiled", is_flag=True, help="Train students with torch.compile, as in `ddbench run`.")
@click.option("--retry", is_flag=True, help="Repeat jobs that failed earlier.")
@click.option("--dry-run", is_flag=True, help="Print the tasks and an estimate of their time; write nothing.")
@format_option("text", FORMATS)
@click.pass_obj
def sweep(  # noqa: PLR0913
    options: GlobalOptions,
    plan: Path,
    at_once: int | None,
    scheduler: str | None,
    compiled: bool,
    retry: bool,
    dry_run: bool,
    form: str,
) -> None:
    """Run a grid of methods, datasets, IPCs and seeds.

    PLAN is a TOML file. A job is one run with all its students. A repeated command does only what is missing, so it
    resumes an interrupted sweep. A job that fails is recorded and the sweep goes on; the exit status is then 1. A job
    whose process is killed starts again, at most twice. Several sweeps, also on several machines, may use one runs
    folder at once.

    \b
    A plan (optional: sizes, seeds, students, student_seeds, protocols):
      datasets = ["ucm", "scenes"]
      ipcs = [1, 10]
      sizes = [64]
      seeds = 3                      # 0, 1, 2; or a list
      students = ["convnet", "resnet18"]
      methods = [
          "random", "full",
          { method = "herding", seeds = 1, student_seeds = 3 },  # which uses no seed
          { method = "dpd", preset = "tiny" },
          { method = "dm", preset = "tiny", set = ["iterations=500", "rate=0.05"], ipcs = [1] },
          { method = "my_method.py:MyMethod", config = "mine.toml" },
      ]

    \b
    Examples:
      ddbench sweep plan.toml --dry-run
      ddbench sweep plan.toml --jobs 2
      ddbench sweep plan.toml --scheduler tcp://head:8786
    """
    from ddbench.runner.run import TaskCounts
    from ddbench.sweep.grid import read_plan, sweep_jobs

    options = options.absolute()
    pool = pool_of(options, at_once, scheduler)
    jobs = sweep_jobs(*read_plan(plan), options.data_paths, options.runs)
    todo: list[SweepJob] = []
    errors: dict[str, str] = {}  # of jobs that failed earlier, by their titles: they wait for --retry
    for job in jobs:
        if job.missing:
            failure = None if retry else job.earlier_failure
            if failure:
                errors[job.title] = failure.error
            else:
                todo.append(job)
    if dry_run:
        return _print_plan(jobs, todo, errors, options.runs, at_once or len(options.devices), form)
    for title, error in errors.items():
        log.error("%s: failed earlier (%s); --retry repeats it", title, error)
    counts = TaskCounts(failed=len(errors), existing=len(jobs) - len(todo) - len(errors))
    if todo:
        settings = replace(options.settings, quiet=True, compiled=compiled)
        counts += run_jobs(todo, pool, settings, retry, options.quiet)
    log.info("%d jobs: %d done now, %d failed, %d done before", len(jobs), counts.done, counts.failed, counts.existing)
    has_problem = _print_tables(jobs, options, form)
    if counts.failed or has_problem:
        raise SystemExit(1)
    return None


def run_jobs(
    jobs: Sequence[AnyJob],
    pool: AbstractContextManager[Submit] | None,
    settings: ExecutionSettings,
    retry: bool,
    quiet: bool,
) -> TaskCounts:
    """Do the jobs in a pool, or in this process, with a progress bar."""
    from ddbench.sweep.workers import carry_out, carry_out_here, run_job
    from ddbench.utils.progress import progress_bar

    with progress_bar(total=len(jobs), desc="jobs", hidden=quiet) as bar:

        def on_done(job: AnyJob, status: str, number: int) -> None:
            bar.update()
            log.info("%d/%d %s: %s", number, len(jobs), job.title, status)

        if pool is None:
            return carry_out_here(jobs, settings, retry, on_done)
        with pool as submit:
            return carry_out(jobs, lambda job: submit(run_job, job, settings, retry), on_done)


def pool_of(options: GlobalOptions, at_once: int | None, scheduler: str | None) -> AbstractContextManager[Submit]:
    """Return the processes of --jobs, one for each device if it is not given, or those of --scheduler.

    Raises UserError for both, and for a GPU that is not.
    """
    from ddbench.sweep.workers import cluster, local
    from ddbench.utils import distributed

    if scheduler:
        if at_once or len(options.devices) > 1:
            for_this_machine = "--jobs" if at_once else "several devices"
            raise click.UsageError(
                f"{for_this_machine} and --scheduler exclude each other: a scheduler has workers and devices of its own"
            )
        return cluster(scheduler)
    for device in options.devices:
        if device.startswith("cuda"):
            distributed.device(device)  # UserError for a GPU that this machine does not have
    return local(at_once or len(options.devices), partial(log_to_stderr, logging.WARNING), options.devices)


def _print_plan(
    jobs: Sequence[SweepJob],
    todo: Sequence[SweepJob],
    errors: Mapping[str, str],
    runs: Path,
    at_once: int,
    form: str,
) -> None:
    """Print the tasks to do and, as text, an estimate of their time. errors: of jobs that failed earlier, by title."""
    from ddbench.sweep.grid import estimate

    rows = []
    for job in jobs:
        tasks = ", ".join(
            f"{task.description} ({task.path.parent.name})" if task.student else task.description
            for task in job.missing
        )
        note = f"failed earlier ({errors[job.title]}); --retry repeats it" if job.title in errors else ""
        rows.append((job.title, tasks or "done", note))
    if form != "text":
        click.echo(format_table(rows, ("job", "tasks", "note"), form))
        return
    for title, tasks, note in rows:
        click.echo(f"{title}: {tasks}" + (f" ({note})" if note else ""))
    missing = [task for job in todo for task in job.missing]
    time = estimate(missing, runs).describe(at_once)
    click.echo(f"{len(jobs)} jobs, {len(missing)} tasks to do; {time}")


def _print_tables(jobs: Sequence[SweepJob], options: GlobalOptions, form: str) -> bool:
    """Print a table of the plan's runs, as text one per dataset, size and IPC.

    Returns True if one of their files is unusable.
    """
    from ddbench.leaderboard.render import TableOptions, render
    from ddbench.store.reader import read_runs, report_problems

    scan = read_runs(options.runs, details=form == "json")
    report_problems(scan.problems)
    specs = [job.tasks[0].spec for job in jobs]
    digests = {spec.digest for spec in specs}
    results = [stored for stored in scan.results if stored.spec.digest in digests]
    if form == "text":
        for fingerprint, size, ipc in dict.fromkeys((spec.fingerprint, spec.size, spec.ipc) for spec in specs):
            of_place = filter_results(results, fingerprint=fingerprint, size=size, ipc=ipc)
            click.echo(render(of_place, form, TableOptions(width=terminal_width())))
    else:
        click.echo(render(results, form), nl=False)
    folders = {job.folder for job in jobs}
    return any(folders & {problem.path, *problem.path.parents} for problem in scan.problems)
