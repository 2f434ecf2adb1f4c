"""`ddbench sweep`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
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
    from ddbench.sweep.workers import Submit


@click.command()
@click.argument("plan", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--jobs", "at_once", type=click.IntRange(min=1), help="Jobs at a time, each in a process.  [default: 1]")
@click.option("--scheduler", metavar="ADDRESS", help="A Dask scheduler's, such as tcp://head:8786, in place of --jobs.")
@click.option("--compiled", is_flag=True, help="Train students through torch.compile, as `ddbench run` does.")
@click.option("--retry", is_flag=True, help="Try again what failed earlier.")
@click.option("--dry-run", is_flag=True, help="Print what would be done and about how long it takes; write nothing.")
@click.pass_obj
def sweep(  # noqa: PLR0913
    options: GlobalOptions,
    plan: Path,
    at_once: int | None,
    scheduler: str | None,
    compiled: bool,
    retry: bool,
    dry_run: bool,
) -> None:
    """Run a grid of methods, datasets, IPCs, seeds, students and protocols, written down in PLAN.

    Only what is missing is done, so an interrupted sweep continues when it is called again. A job is a run and its
    students. If one fails, this is recorded, the sweep continues, and the exit status is 1. A job whose process is
    killed is tried again, twice. Several sweeps may work on one runs folder at once, on several machines too.

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
    from ddbench.runner.run import TaskCounts
    from ddbench.sweep.grid import read_plan, sweep_jobs
    from ddbench.sweep.workers import cluster, local
    from ddbench.utils import distributed

    if at_once and scheduler:
        raise click.UsageError("--jobs is for processes of this machine; a scheduler decides how many run at a time")
    at_once = at_once or 1
    data = options.data.absolute() if options.data else None
    options = replace(options, runs=options.runs.absolute(), shared=options.shared.absolute(), data=data)
    if scheduler is None and options.device.startswith("cuda"):
        distributed.device(options.device)  # UserError for a GPU that this machine does not have
    jobs = sweep_jobs(*read_plan(plan), options.data_paths, options.runs)
    todo: list[SweepJob] = []
    failed: list[SweepJob] = []  # earlier: they wait for --retry
    for job in jobs:
        if job.missing:
            (failed if not retry and job.failed_before else todo).append(job)
    if dry_run:
        return _print_plan(jobs, todo, failed, options.runs, at_once)
    for job in failed:
        log.error("%s: failed earlier; --retry tries again", job.title)
    counts = TaskCounts(failed=len(failed), existing=len(jobs) - len(todo) - len(failed))
    if todo:
        pool = cluster(scheduler) if scheduler else local(at_once, partial(log_to_stderr, logging.WARNING))
        settings = replace(options.settings, quiet=True, compiled=compiled)
        counts += _run_jobs(todo, pool, settings, retry, options.no_progress)
    log.info("%d jobs: %d done now, %d failed, %d done earlier", len(jobs), counts.done, counts.failed, counts.existing)
    has_problem = _print_tables(jobs, options)
    if counts.failed or has_problem:
        raise SystemExit(1)
    return None


def _run_jobs(
    jobs: Sequence[SweepJob],
    pool: AbstractContextManager[Submit],
    settings: ExecutionSettings,
    retry: bool,
    no_progress: bool,
) -> TaskCounts:
    """Do the jobs in a pool, with a progress bar."""
    from tqdm import tqdm

    from ddbench.sweep.workers import carry_out, run_job

    with pool as submit, tqdm(total=len(jobs), desc="jobs", disable=no_progress, dynamic_ncols=True) as bar:

        def on_done(job: SweepJob, status: str, number: int) -> None:
            bar.update()
            log.info("%d/%d %s: %s", number, len(jobs), job.title, status)

        return carry_out(jobs, lambda job: submit(run_job, job, settings, retry), on_done)


def _print_plan(
    jobs: Sequence[SweepJob], todo: Sequence[SweepJob], failed: Sequence[SweepJob], runs: Path, at_once: int
) -> None:
    """Print the missing tasks of every job, and about how long they take."""
    from ddbench.sweep.grid import estimate

    failed_folders = {job.folder for job in failed}
    for job in jobs:
        tasks = ", ".join(
            f"{task.description} ({task.path.parent.name})" if task.student else task.description
            for task in job.missing
        )
        note = " (failed earlier: only with --retry)" if job.folder in failed_folders else ""
        click.echo(f"{job.title}: {tasks or 'there already'}{note}")
    missing = [task for job in todo for task in job.missing]
    time = estimate(missing, runs).describe(at_once)
    click.echo(f"{len(jobs)} jobs, {len(missing)} tasks to do; {time}")


def _print_tables(jobs: Sequence[SweepJob], options: GlobalOptions) -> bool:
    """Print a table of these runs for each dataset, size and IPC; return True if a file of theirs cannot be used."""
    from ddbench.leaderboard.render import render
    from ddbench.store.reader import read_runs

    scan = read_runs(options.runs, details=False)
    report_problems(scan.problems)
    specs = [job.tasks[0].spec for job in jobs]
    digests = {spec.digest for spec in specs}
    results = [stored for stored in scan.results if stored.spec.digest in digests]
    for fingerprint, size, ipc in dict.fromkeys((spec.fingerprint, spec.size, spec.ipc) for spec in specs):
        click.echo(render(filter_results(results, fingerprint=fingerprint, size=size, ipc=ipc)))
    folders = {job.folder for job in jobs}
    return any(folders & {problem.path, *problem.path.parents} for problem in scan.problems)
