"""`ddbench sweep`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ddbench.cli.common import GlobalOptions, filter_results, log, log_to_stderr, report_problems

if TYPE_CHECKING:
    from ddbench.runner.plan import ExecutionSettings
    from ddbench.runner.run import TaskCounts
    from ddbench.sweep.grid import SweepJob


@click.command()
@click.argument("plan", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--jobs", type=click.IntRange(min=1), help="Number of jobs at a time, each in a process.  [default: 1]")
@click.option("--scheduler", metavar="ADDRESS", help="Dask scheduler, such as tcp://head:8786; replaces --jobs.")
@click.option("--compiled", is_flag=True, help="Train students with torch.compile, as in `ddbench run`.")
@click.option("--retry", is_flag=True, help="Repeat jobs that failed earlier.")
@click.option("--dry-run", is_flag=True, help="Print the tasks and an estimate of their time; write nothing.")
@click.pass_obj
def sweep(  # noqa: PLR0913
    options: GlobalOptions,
    plan: Path,
    jobs: int | None,
    scheduler: str | None,
    compiled: bool,
    retry: bool,
    dry_run: bool,
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
    from ddbench.sweep.grid import read_plan, sweep_jobs

    if jobs and scheduler:
        raise click.UsageError(
            "--jobs and --scheduler exclude each other: --jobs is for this machine, a scheduler has its own workers"
        )
    jobs = jobs or 1
    data = options.data.absolute() if options.data else None
    options = replace(options, runs=options.runs.absolute(), shared=options.shared.absolute(), data=data)
    _check_device(options.device, scheduler)
    grid = sweep_jobs(*read_plan(plan), options.data_paths, options.runs)
    if dry_run:
        return _show(grid, options.runs, jobs, retry)
    tally = _carry_out(grid, options, (jobs, scheduler), compiled, retry)
    log.info("%d jobs: %d done now, %d failed, %d done before", len(grid), tally.done, tally.failed, tally.existing)
    unusable = _print_tables(grid, options)
    if tally.failed or unusable:
        raise SystemExit(1)
    return None


def _check_device(device: str, scheduler: str | None) -> None:
    """Raise UserError for a GPU that this machine lacks. A cluster's workers check theirs."""
    if scheduler is None and device.startswith("cuda"):
        from ddbench.utils import distributed

        distributed.device(device)


def _carry_out(
    grid: Sequence[SweepJob], options: GlobalOptions, where: tuple[int, str | None], compiled: bool, retry: bool
) -> TaskCounts:
    """Do the missing jobs. Jobs that failed earlier are done only with `retry`."""
    from ddbench.runner.run import TaskCounts

    todo, left = _parted(grid, retry)
    for cell in left:
        log.error("%s: failed earlier; --retry repeats it", cell.title)
    before = TaskCounts(failed=len(left), existing=len(grid) - len(todo) - len(left))
    settings = replace(options.settings, quiet=True, compiled=compiled)
    return before + _done(todo, (settings, retry), where, options.no_progress) if todo else before


def _parted(grid: Sequence[SweepJob], retry: bool) -> tuple[list[SweepJob], list[SweepJob]]:
    """Split the incomplete jobs into those to do and those that failed earlier and need --retry."""
    todo: list[SweepJob] = []
    left: list[SweepJob] = []
    for cell in grid:
        if cell.missing:
            (left if not retry and cell.failed_before else todo).append(cell)
    return todo, left


def _done(
    todo: Sequence[SweepJob],
    arguments: tuple[ExecutionSettings, bool],
    where: tuple[int, str | None],
    no_progress: bool,
) -> TaskCounts:
    from tqdm import tqdm

    from ddbench.sweep.workers import carry_out, cluster, local, run_job

    jobs, scheduler = where
    pool = cluster(scheduler) if scheduler else local(jobs, partial(log_to_stderr, logging.WARNING))
    with pool as submit, tqdm(total=len(todo), desc="jobs", disable=no_progress, dynamic_ncols=True) as bar:

        def on_done(cell: SweepJob, status: str, number: int) -> None:
            bar.update()
            log.info("%d/%d %s: %s", number, len(todo), cell.title, status)

        return carry_out(todo, lambda cell: submit(run_job, cell, *arguments), on_done)


def _show(grid: Sequence[SweepJob], runs: Path, jobs: int, retry: bool) -> None:
    """Print the tasks to do and an estimate of their time."""
    from ddbench.sweep.grid import estimate

    todo, left = _parted(grid, retry)
    missing, waiting = [task for cell in todo for task in cell.missing], {cell.folder for cell in left}
    for cell in grid:
        words = ", ".join(
            f"{task.description} ({task.path.parent.name})" if task.student else task.description
            for task in cell.missing
        )
        before = " (failed earlier; --retry repeats it)" if cell.folder in waiting else ""
        click.echo(f"{cell.title}: {words or 'done'}{before}")
    time = estimate(missing, runs)
    click.echo(f"{len(grid)} jobs, {len(missing)} tasks to do; {time.words(jobs)}")


def _print_tables(grid: Sequence[SweepJob], options: GlobalOptions) -> bool:
    """Print a table of the plan's runs per dataset, size and IPC. Returns True if one of their files is unusable."""
    from ddbench.leaderboard.render import render
    from ddbench.store.reader import read_runs

    scan = read_runs(options.runs, details=False)
    report_problems(scan.problems)
    digests = {cell.tasks[0].spec.digest for cell in grid}
    entries = [entry for entry in scan.results if entry.spec.digest in digests]
    specs = [cell.tasks[0].spec for cell in grid]
    for fingerprint, size, ipc in dict.fromkeys((spec.fingerprint, spec.size, spec.ipc) for spec in specs):
        click.echo(render(filter_results(entries, fingerprint=fingerprint, size=size, ipc=ipc)))
    folders = {cell.folder for cell in grid}
    return any(folders & {problem.path, *problem.path.parents} for problem in scan.problems)
