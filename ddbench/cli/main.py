"""The command line: global options, then a command. Heavy imports stand inside the commands."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path
from typing import Literal

import click

from ddbench.cli.audit import audit
from ddbench.cli.common import Group, RunsFolder, UserPath, log_to_stderr
from ddbench.cli.continual import continual
from ddbench.cli.data import data
from ddbench.cli.demo import demo
from ddbench.cli.doctor import doctor
from ddbench.cli.export import export
from ddbench.cli.figure import figure
from ddbench.cli.measures import budget, redundancy
from ddbench.cli.new import new
from ddbench.cli.quality import quality
from ddbench.cli.results import leaderboard, merge, report
from ddbench.cli.robustness import robustness
from ddbench.cli.run import evaluate, run
from ddbench.cli.show import check, list_names, show
from ddbench.cli.sweep import sweep
from ddbench.errors import UserError
from ddbench.runner.options import DEFAULTS, GlobalOptions, check_device
from ddbench.utils.distributed import process_group
from ddbench.version import __version__

READ_FILES = ("leaderboard", "report", "robustness", "doctor")  # commands that take an exported file as --runs
FOLDER = UserPath(file_okay=False)


def _device(ctx: click.Context, param: click.Parameter, value: str) -> str:
    try:
        return check_device(value)
    except UserError as error:
        raise click.BadParameter(str(error)) from None


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--runs",
    type=RunsFolder(),
    envvar=DEFAULTS["runs"].variable,
    default=DEFAULTS["runs"].value,
    show_default=True,
    show_envvar=True,
    help="Folder of runs and results. leaderboard, report, robustness and doctor also read an exported file.",
)
@click.option(
    "--data-root",
    "data",
    type=FOLDER,
    envvar=DEFAULTS["data"].variable,
    show_envvar=True,
    help="Folder of raw datasets.",
)
@click.option(
    "--shared",
    type=FOLDER,
    envvar=DEFAULTS["shared"].variable,
    default=DEFAULTS["shared"].value,
    show_default=True,
    show_envvar=True,
    help="Folder of packed datasets and of stages that runs share.",
)
@click.option(
    "--device",
    envvar=DEFAULTS["device"].variable,
    default=DEFAULTS["device"].value,
    show_default=True,
    show_envvar=True,
    callback=_device,
    help="Device that computes: auto, cpu, cuda, or one GPU (cuda:1). Several, as cuda:0,cuda:1, share the --jobs.",
)
@click.option(
    "--gpu-memory",
    type=click.FloatRange(min=0, min_open=True),
    metavar="GIB",
    help="GPU memory that torch may hold in each process, so that --jobs share a GPU; a job above it is out of memory.",
)
@click.option(
    "--resize",
    type=click.Choice(["lanczos", "bilinear"]),
    default="lanczos",
    show_default=True,
    help="Filter that resizes images. Results of different filters never share a row.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print only results, warnings and errors.")
@click.option("-v", "--verbose", is_flag=True, help="Also print details and the tracebacks of failures.")
@click.version_option(__version__, prog_name="ddbench")
@click.pass_context
def cli(  # noqa: PLR0913
    ctx: click.Context,
    runs: Path,
    data: Path | None,
    shared: Path,
    device: str,
    gpu_memory: float | None,
    resize: Literal["lanczos", "bilinear"],
    quiet: bool,
    verbose: bool,
) -> None:
    """Distil datasets of remote-sensing scenes, evaluate the distilled sets, compare the methods.

    A method turns a dataset's training images into a distilled set: a few images per class (IPC). Students train on
    the distilled set and are tested on real, unseen images. The leaderboard compares the methods.

    \b
    A first run, without any download:
      ddbench run --method random --dataset scenes --ipc 10 --size 64
      ddbench run --method dpd --preset tiny --dataset scenes --ipc 10 --size 64
      ddbench leaderboard
    \b
    Your images (one folder per class), your method (one file), your distilled images:
      ddbench run --method random --dataset folder:my_images --ipc 1
      ddbench check my_method.py:MyMethod
      ddbench run --method my_method.py:MyMethod --dataset scenes --ipc 1 --size 64
      ddbench evaluate my_distilled_images --dataset scenes --size 64

    Results go to standard output, progress and logs to standard error. Exit status: 0 for success; 1 if a run
    failed or a file could not be used; 2 for invalid arguments, before anything is written, and for a disk that is
    full or read-only.
    """
    if runs.is_file() and ctx.invoked_subcommand not in READ_FILES:
        raise click.BadParameter(
            f"{runs} is a file, and only {', '.join(READ_FILES)} read files: name a folder", ctx, param_hint="--runs"
        )
    quiet = quiet or not process_group(device == "cpu").is_lead
    log_to_stderr(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
    ctx.obj = GlobalOptions(runs, data, shared, device, quiet, resize, gpu_memory)


COMMANDS = (
    demo,
    run,
    sweep,
    evaluate,
    quality,
    redundancy,
    budget,
    continual,
    audit,
    leaderboard,
    report,
    figure,
    robustness,
    merge,
    export,
    data,
    doctor,
    list_names,
    show,
    check,
    new,
)
for command in COMMANDS:
    cli.add_command(command)


def main() -> None:
    """The console script."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a path that is no UTF-8 is printed with escapes
        sys.stdout.reconfigure(errors="backslashreplace")
    cli(prog_name="ddbench")
