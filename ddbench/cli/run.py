"""`ddbench run` and `ddbench evaluate`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ddbench.cli.common import (
    DATASET,
    METHOD,
    PRESET,
    PROTOCOL,
    SIZE,
    SIZE_HELP,
    STUDENT,
    UserPath,
    filter_results,
    format_option,
    format_table,
    log,
)
from ddbench.leaderboard import FORMATS
from ddbench.runner.options import GlobalOptions
from ddbench.utils.limits import MOST_IMAGES, MOST_SEEDS
from ddbench.utils.text_table import terminal_width

if TYPE_CHECKING:
    from ddbench.runner.plan import EvaluationSetup, Plan, Task
    from ddbench.runner.run import TaskCounts

SEEDS = click.IntRange(1, MOST_SEEDS)

# fmt: off
STUDENTS = click.option("--student", "students", type=STUDENT, metavar="NAME", multiple=True, default=["convnet"],
                        show_default=True, help="Network to train on the distilled set; repeatable.")
STUDENT_SEEDS = click.option("--student-seeds", type=SEEDS, default=1, show_default=True, metavar="J",
                             help="Train each student J times, with seeds 0 to J-1.")
PROTOCOL_NAME = click.option("--protocol", type=PROTOCOL, default="quick", show_default=True, metavar="NAME",
                             help="Training settings of the students: NAME (newest version), NAME@VERSION or your "
                                  "FILE.toml.")
COMPILED = click.option("--compiled", is_flag=True,
                        help="Train students with torch.compile: faster for the ConvNet on a CPU; rounding differs.")
RETRY = click.option("--retry", is_flag=True, help="Repeat tasks that failed earlier.")
DRY_RUN = click.option("--dry-run", is_flag=True, help="Print the tasks; write nothing.")
# fmt: on


@dataclass(frozen=True)
class RunOptions:
    """The options that `run` and `evaluate` share.

    evaluation: the students to train.
    retry: try tasks again that failed earlier.
    dry_run: print the tasks only.
    compiled: train students through torch.compile.
    form: one of FORMATS, of the table.
    at_once: processes that train students; None for this one.
    """

    evaluation: EvaluationSetup
    retry: bool
    dry_run: bool
    compiled: bool
    form: str
    at_once: int | None


def evaluation_options(command: Callable) -> Callable:
    """Add the options that `run` and `evaluate` share; the command gets them as `run_options`."""

    # fmt: off
    @STUDENTS
    @STUDENT_SEEDS
    @PROTOCOL_NAME
    @click.option("--corruptions", is_flag=True,
                  help="Also test students under haze, clouds, noise, blur, darkness, JPEG and rotation.")
    @click.option("--jobs", "at_once", type=click.IntRange(min=1),
                  help="Number of students at a time, each in a process.  [default: one, in this process]")
    @COMPILED
    @RETRY
    @DRY_RUN
    @format_option("text", FORMATS)
    @functools.wraps(command)
    def with_options(  # noqa: PLR0913
        *args: Any,
        students: tuple[str, ...],
        student_seeds: int,
        protocol: str,
        corruptions: bool,
        at_once: int | None,
        compiled: bool,
        retry: bool,
        dry_run: bool,
        form: str,
        **options: Any,
    ) -> Any:
        from ddbench.runner.plan import evaluation_setup

        evaluation = evaluation_setup(students, protocol, student_seeds, corruptions)
        run_options = RunOptions(evaluation, retry, dry_run, compiled, form, at_once)
        return command(*args, run_options=run_options, **options)

    return with_options


@click.command()
@click.option(
    "--method", type=METHOD, required=True, metavar="NAME|FILE.py:CLASS", help="Method (`ddbench list methods`)."
)
@click.option(
    "--dataset", type=DATASET, required=True, metavar="NAME|folder:PATH", help="Dataset (`ddbench list datasets`)."
)
@click.option(
    "--ipc",
    "ipcs",
    type=click.IntRange(1, MOST_IMAGES),
    multiple=True,
    help="Images per class; repeatable. All methods but `full` need it.",
)
@click.option("--size", type=SIZE, metavar="PX", help=SIZE_HELP)
@click.option("--preset", type=PRESET, metavar="NAME", help="Named settings of the method (`ddbench list presets`).")
@click.option("--config", metavar="F.toml", type=UserPath(), help="File of settings; overrides the preset.")
@click.option(
    "--set", "sets", metavar="KEY=VALUE", multiple=True, help="One setting; overrides all others; repeatable."
)
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the distillation.  [default: 0]")
@click.option("--seeds", type=SEEDS, metavar="K", help="Distil K times, with seeds 0 to K-1.")
@evaluation_options
@click.pass_obj
def run(  # noqa: PLR0913
    options: GlobalOptions,
    method: str,
    dataset: str,
    ipcs: tuple[int, ...],
    size: int | None,
    preset: str | None,
    config: Path | None,
    sets: tuple[str, ...],
    seed: int | None,
    seeds: int | None,
    run_options: RunOptions,
) -> None:
    """Distil a dataset, train students on the set, test them.

    A repeated command does only what is missing, so it resumes an interrupted run. The run's folder holds the distilled
    set (distilled/), a contact sheet (contact.png), the costs (distill.json) and a file per student (results/).

    \b
    Examples:
      ddbench run --method random --dataset scenes --ipc 1 --ipc 10 --size 64
      ddbench run --method dpd --preset tiny --dataset scenes --ipc 10 --size 64 --student convnet --student resnet18
      ddbench run --method my_method.py:MyMethod --set steps=200 --dataset folder:my_images --ipc 1 --seeds 3
    """
    from ddbench.runner.plan import Request, plan

    if seed is not None and seeds is not None:
        raise click.UsageError(
            "--seed and --seeds exclude each other: use --seed S for one run, --seeds K for seeds 0 to K-1"
        )
    all_seeds = tuple(range(seeds)) if seeds else (seed or 0,)
    request = Request(method, dataset, ipcs, size, preset, config, sets, all_seeds)
    carry_out(options, plan(request, run_options.evaluation, options.data_paths), run_options)


@click.command()
@click.argument("folder", type=UserPath())
@click.option(
    "--dataset",
    type=DATASET,
    metavar="NAME|folder:PATH",
    help="Dataset whose test images are used.  [required, but for what `ddbench export images` wrote]",
)
@click.option("--size", type=SIZE, metavar="PX", help=SIZE_HELP)
@evaluation_options
@click.pass_obj
def evaluate(
    options: GlobalOptions, folder: Path, dataset: str | None, size: int | None, run_options: RunOptions
) -> None:
    """Evaluate a folder of images like a run's distilled set.

    FOLDER has one sub-folder per class, named as the dataset's classes, or is what `ddbench export images` wrote. The
    result is stored as a run of the method folder:NAME.

    FOLDER/soft_labels.safetensors may hold soft labels: `soft_labels`, float32, a row per image in the order of classes
    and file names, a column per class. Its metadata may name both as JSON lists: `classes`, and `files` such as
    "beach/000.png".

    \b
    Example:
      ddbench evaluate my_distilled_images --dataset ucm --size 64 --student resnet18
    """
    from ddbench.datasets.lookup import find_dataset
    from ddbench.runner.external import exported_spec, plan_external

    if dataset is None:
        exported = exported_spec(folder)
        if exported is None:
            raise click.UsageError(f"{folder} names no dataset: add --dataset, for example --dataset ucm")
        dataset = exported.dataset
    carry_out(
        options,
        plan_external(folder, find_dataset(dataset), size, run_options.evaluation, options.data_paths),
        run_options,
    )


def carry_out(options: GlobalOptions, plan: Plan, run_options: RunOptions) -> None:
    """Do the missing tasks and print the table; a dry run only prints the tasks.

    Exits with 1 if a task failed, or a file of these runs cannot be used.
    """
    from ddbench.runner.plan import tasks

    if run_options.dry_run:
        rows = [("done" if t.done else "to do", str(t.folder), t.description) for t in tasks(plan, options.runs)]
        if run_options.form == "text":
            click.echo("\n".join(map(": ".join, rows)))
        else:
            click.echo(format_table(rows, ("state", "folder", "task"), run_options.form))
        return
    counts = _do_tasks(options, plan, run_options)
    if counts is None:  # the lead process of this launch prints
        return
    if not counts.done and not counts.failed:
        log.info("nothing to do: all results exist already")
    unusable = _print_table(options, plan, run_options.form)
    if unusable:
        log.error("remove %s: the same command then makes the result again", unusable[0])
    if counts.failed or unusable:
        raise SystemExit(1)


def _do_tasks(options: GlobalOptions, plan: Plan, run_options: RunOptions) -> TaskCounts | None:
    """Do the missing tasks; with --jobs or several devices, the students of a run in processes of their own."""
    from ddbench.runner.run import run as run_plan

    settings, retry = replace(options.settings, compiled=run_options.compiled), run_options.retry
    if run_options.at_once is None and len(options.devices) == 1:
        return run_plan(plan, settings, retry)
    from ddbench.cli.sweep import pool_of, run_jobs
    from ddbench.runner.run_student import RunStudent
    from ddbench.utils.distributed import process_group

    options = options.absolute()
    settings = replace(settings, runs=options.runs, data_paths=options.data_paths, device=options.devices[0])
    if process_group(options.device == "cpu").size > 1:
        raise click.UsageError("neither --jobs nor several devices go with the processes of `accelerate launch`")
    with pool_of(options, run_options.at_once, None) as submit:

        def train(plan: Plan, tasks: Sequence[Task]) -> TaskCounts:
            jobs = [RunStudent(task, plan.evaluation, plan.source) for task in tasks]
            return run_jobs(jobs, nullcontext(submit), replace(settings, quiet=True), retry, options.quiet)

        return run_plan(plan, settings, retry, train)


def _print_table(options: GlobalOptions, plan: Plan, form: str) -> list[Path]:
    """Print the results that these runs can be compared with; as text, also the paths of their contact sheets.

    Returns the files of results of these runs that cannot be used.
    """
    from ddbench.leaderboard.render import TableOptions, render
    from ddbench.store.reader import read_runs, report_problems

    spec = plan.specs[0]
    scan = read_runs(options.runs, details=form == "json")
    report_problems(scan.problems)
    results = [spec.folder(options.runs) / "results" for spec in plan.specs]
    unusable = [p.path for p in scan.problems if any(p.path.is_relative_to(folder) for folder in results)]
    same = filter_results(scan.results, dataset=spec.dataset, fingerprint=spec.fingerprint, size=spec.size)
    ipcs = dict.fromkeys(spec.ipc for spec in plan.specs)
    if form != "text":
        click.echo(render([entry for entry in same if entry.spec.ipc in ipcs], form), nl=False)
        return unusable
    for ipc in ipcs:
        table = TableOptions(width=terminal_width())
        click.echo(render(filter_results(same, ipc=ipc), form, table), nl=False)
    for spec in plan.specs:
        sheet = spec.folder(options.runs) / "contact.png"
        if sheet.exists():
            click.echo(f"images: {sheet}")
    return unusable
