"""`ddbench continual`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ddbench.cli.common import UserPath, log
from ddbench.cli.measures import PLOT, JobOptions, do_jobs, finish, job_options
from ddbench.runner.options import GlobalOptions
from ddbench.store.paths import CONTINUAL

if TYPE_CHECKING:
    from ddbench.sweep.workers import Job


@click.command()
@click.argument("plan", type=UserPath(exists=True, dir_okay=False))
@PLOT
@job_options
@click.pass_obj
def continual(options: GlobalOptions, plan: Path, plot: Path | None, job_options: JobOptions) -> None:
    """Learn classes step by step, with distilled sets as memory.

    PLAN is a TOML file. The classes of a dataset come in equal groups. Each group is distilled alone; after each step a
    student is trained from scratch on the sets of all groups so far, and tested on the test images of these classes.
    The table has the accuracy after each step: mean and deviation over the orders of the classes.

    A repeated command does only what is missing. All files are below --runs/continual; no leaderboard reads them.

    \b
    A plan (only dataset, ipc and methods are needed):
      dataset = "ucm"
      ipc = 20                       # images per class in the memory
      steps = 3                      # aid 5x6, nwpu 5x9, ucm 3x7, eurosat 5x2: 5 if it divides the classes, else 3
      orders = 5                     # class orders of the seeds 0 to 4, also seeds of the distillations; or a list
      size = 64
      students = ["convnet"]
      student_seeds = 1
      protocol = "quick"
      methods = ["random", { method = "dm", preset = "tiny" }]

    \b
    Examples:
      ddbench continual plan.toml --dry-run
      ddbench continual plan.toml --jobs 2 --plot steps.svg
    """
    from ddbench.sweep.continual import continual_work, read_continual

    options = options.absolute()
    work = continual_work(*read_continual(plan), options.data_paths, options.runs)
    inner = replace(options, runs=options.runs / CONTINUAL)
    if job_options.dry_run:
        every: list[Job] = [*work.distillations, *work.students]
        do_jobs(inner, every, job_options)
    failed = do_jobs(inner, work.distillations, job_options)
    ready = [job for job in work.students if job.ready]
    if len(ready) < len(work.students):
        log.error("%d students are not trained: a set of theirs is missing", len(work.students) - len(ready))
    failed |= do_jobs(inner, ready, job_options)
    finish("continual", ready, failed, job_options.form, plot)
