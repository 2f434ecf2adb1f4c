"""`ddbench demo`."""

from __future__ import annotations

import io
import shlex
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

import click

from ddbench.cli.common import UserPath, log
from ddbench.runner.options import GlobalOptions
from ddbench.utils.units import format_seconds

PROTOCOL = """\
# written by `ddbench demo`: quick@1 with a quarter of its steps, so that three students take a minute
like = "quick@1"
source = "ddbench demo"
[recipes.convnet]
min_steps = 100
max_steps = 100
"""
IPC = 5
# the base model knows such scenes, by this prompt: nothing is fine-tuned
SETS = ("weights=none", "captioner=template", "prompt=A drawn aerial scene of {}.")
DPD = ["--preset", "tiny", *(word for setting in SETS for word in ("--set", setting))]


class Step(NamedTuple):
    """A command of the demo.

    purpose: in words.
    words: the command without "ddbench".
    seconds: wall time on two idle cores.
    shown: print its output; the tables of single runs are left out, the last table has all of them.
    """

    purpose: str
    words: list[str]
    seconds: float
    shown: bool = False


def steps(folder: Path, options: GlobalOptions) -> list[Step]:
    """Return the commands of the demo, which write below `folder`."""
    quiet = ["--quiet"] if options.quiet else []
    device = ["--device", options.device] if options.device != "auto" else []
    head = [*quiet, *device, "--runs", str(folder / "runs"), "--shared", str(folder / "shared")]
    data = ["--dataset", "scenes", "--ipc", str(IPC)]
    students = ["--size", "64", "--student", "convnet", "--protocol", str(folder / "short.toml")]

    def run(*method: str) -> list[str]:
        return [*head, "run", "--method", *method, *data, *students]

    figure = str(folder / "figure.png")
    compared = [str(folder / "runs" / "scenes64" / method / f"ipc{IPC}") for method in ("dpd", "random", "herding")]
    return [
        Step("draw the dataset; real images at random, the baseline", run("random"), 30),
        Step("real images chosen by their features in an untrained network", run("herding", "--preset", "tiny"), 32),
        Step("DPD: sample an image per prototype, with a small diffusion model", run("dpd", *DPD), 36),
        Step("compare them", [*head, "leaderboard", *data], 1, shown=True),
        Step("draw them", [*head, "figure", "--real", *compared, "--output", figure], 2, shown=True),
        Step("write the report", [*head, "report", "--output", str(folder / "report.html")], 3, shown=True),
    ]


@click.command()
@click.option(
    "--folder",
    type=UserPath(file_okay=False),
    default="demo",
    show_default=True,
    help="Where runs, data, figure and report go, in place of --runs and --shared.",
)
@click.pass_context
def demo(ctx: click.Context, folder: Path) -> None:
    """Compare three methods on the embedded dataset: minutes on a CPU, no download.

    The methods are random, herding and DPD. Prints each command, then a table, the path of a figure (per class: a real
    image, a prototype of DPD, and an image of each method) and the path of the HTML report. A student of each method is
    trained for few steps, so the accuracies are no benchmark. A repeated command does only what is missing.
    """
    from ddbench.utils.files import write_bytes

    todo = steps(folder, ctx.obj)
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "short.toml", PROTOCOL.encode())
    begun, expected = time.monotonic(), 0.0
    for number, step in enumerate(todo):
        passed = time.monotonic() - begun
        pace = passed / expected if expected else 1.0
        left = pace * sum(later.seconds for later in todo[number:])
        log.info(
            "[%d/%d] %s: about %s, then %s more", number + 1, len(todo), step.purpose,
            format_seconds(pace * step.seconds), format_seconds(left - pace * step.seconds),
        )  # fmt: skip
        log.info("$ %s", shlex.join(["ddbench", *step.words]))
        out = io.StringIO()
        with redirect_stdout(out):
            ctx.find_root().command.main(step.words, prog_name="ddbench", standalone_mode=False)
        if step.shown:
            click.echo(out.getvalue(), nl=False)
        expected += step.seconds
    log.info(
        "done in %s. Open %s in a browser. The accuracies are no benchmark: one run of each method, and students of "
        "few steps. Next: `ddbench --help` has the commands of a first run",
        format_seconds(time.monotonic() - begun), folder / "report.html",
    )  # fmt: skip
