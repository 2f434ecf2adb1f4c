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
@click.option("--jobs", type=click.IntRange(min=1), help="Cells at a time, each in a process.  [default: 1]")
@click.option("--scheduler", metavar="ADDRESS", help="A Dask scheduler's, such as tcp://head:8786, in place of --jobs.")
@click.option("--compiled", is_flag=True, help="Train students through torch.compile, as `ddbench run` does.")
@click.option("--retry", is_flag=True, help="Try again what failed earlier.")
@click.option("--dry-run", is_flag=True, help="Print what would be done and about how long it takes; write nothing.")
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
    """Run a grid of methods, datasets, IPCs, seeds, students and protocols, written down in PLAN.

    Only what is missing is done, so an interrupted sweep goes on when it is called again. What fails costs its cell (a
    run and its students): it is recorded, the sweep goes on, and the exit status is 1. A cell whose process is killed
    is begun again, twice. Several sweeps may work on one runs folder at once, on several machines too.

    \b
    A plan (sizes, seeds, students, student_seeds and protocols may be left out):
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
            "--jobs is for processes of this machine; how many cells a scheduler has at a time is its own"
        )
    jobs = jobs or 1
    data = options.data.absolute() if options.data else None
    options = replace(options, runs=options.runs.absolute(), shared=options.shared.absolute(), data=data)
    _check_device(options.device, scheduler)
    grid = sweep_jobs(*read_plan(plan), options.data_paths, options.runs)
    if dry_run:
        return _show(grid, options.runs, jobs, retry)
    tally = _carry_out(grid, options, (jobs, scheduler), compiled, retry)
    log.info("%d cells: %d done now, %d failed, %d there already", len(grid), tally.done, tally.failed, tally.existing)
    unusable = _print_tables(grid, options)
    if tally.failed or unusable:
        raise SystemExit(1)
    return None


def _check_device(device: str, scheduler: str | None) -> None:
    """UserError for a device that this machine has not, unless it is a cluster's that computes."""
    if scheduler is None and device.startswith("cuda"):
        from ddbench.utils import distributed

        distributed.device(device)


def _carry_out(
    grid: Sequence[SweepJob], options: GlobalOptions, where: tuple[int, str | None], compiled: bool, retry: bool
) -> TaskCounts:
    """Do what is missing, but for what failed earlier unless that is to be tried again."""
    from ddbench.runner.run import TaskCounts

    todo, left = _parted(grid, retry)
    for cell in left:
        log.error("%s: failed earlier; --retry tries again", cell.title)
    before = TaskCounts(failed=len(left), existing=len(grid) - len(todo) - len(left))
    settings = replace(options.settings, quiet=True, compiled=compiled)
    return before + _done(todo, (settings, retry), where, options.no_progress) if todo else before


def _parted(grid: Sequence[SweepJob], retry: bool) -> tuple[list[SweepJob], list[SweepJob]]:
    """Of the cells that miss something: those to do, and those that failed earlier and wait for --retry."""
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
    with pool as submit, tqdm(total=len(todo), desc="cells", disable=no_progress, dynamic_ncols=True) as bar:

        def on_done(cell: SweepJob, status: str, number: int) -> None:
            bar.update()
            log.info("%d/%d %s: %s", number, len(todo), cell.title, status)

        return carry_out(todo, lambda cell: submit(run_job, cell, *arguments), on_done)


def _show(grid: Sequence[SweepJob], runs: Path, jobs: int, retry: bool) -> None:
    """What is to be done, and about how long it takes."""
    from ddbench.sweep.grid import estimate

    todo, left = _parted(grid, retry)
    missing, waiting = [task for cell in todo for task in cell.missing], {cell.folder for cell in left}
    for cell in grid:
        words = ", ".join(
            f"{task.description} ({task.path.parent.name})" if task.student else task.description
            for task in cell.missing
        )
        before = " (failed earlier: only with --retry)" if cell.folder in waiting else ""
        click.echo(f"{cell.title}: {words or 'there already'}{before}")
    time = estimate(missing, runs)
    click.echo(f"{len(grid)} cells, {len(missing)} pieces of work to do; {time.words(jobs)}")


def _print_tables(grid: Sequence[SweepJob], options: GlobalOptions) -> bool:
    """One table for each dataset, size and IPC, of the plan's runs alone; whether a file of theirs cannot be used."""
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
