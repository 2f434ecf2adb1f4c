"""Kill it, starve it, crowd it: runs that are disturbed must end like runs that are not.

    python benchmarks/campaign.py [--share 0.1] [--seed 0]

Kills: SIGKILL at random moments of five kinds of runs at 32 px (selection, pixels, diffusion, teacher, a sweep of two
jobs), then the same command until it is done. Two thirds of the moments are uniform in the time after the first file
(one in eight: before it). One third is uniform over the run's file operations, which are close together in time. Of a
sweep the whole group, the command alone or one of its processes is killed. Then come commands in processes that users
start (`campaign_commands.py`), a full disk, a read-only folder, a clock that jumps, and a crowd (`campaign_faults.py`).

Every file of the runs folder and of the shared folder, hidden ones too, is compared with that of an undisturbed run.
Only these fields of records may differ: times, memory, and which process made a shared stage (`campaign_compare.py`
names them). Two undisturbed runs are compared first, in the same way.

But for those, each command is a fork of this process, which has imported torch, and so are the processes of a sweep.
Forked commands write checkpoints after every step. Prints a table, what went wrong, then one JSON line of figures; exit
status 1 if anything went wrong.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: threads do not survive a fork

import json
import math
import random
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from campaign_commands import kill_commands
from campaign_compare import Place, compare
from campaign_faults import FAULTS, Campaign
from campaign_runs import KINDS, Inputs, Operations, Process, kill_self, start, undisturbed, warm_up
from tabulate import tabulate

KILLS, AT_OPERATIONS = 130, 70  # by time, by file operation
BEFORE = 8  # one in so many moments is drawn before the first file
REPEATS = 3  # of a command that was killed, at most
PARTS = {"commands": (kill_commands, 10)} | FAULTS


@dataclass
class Kills:
    """Figures of the kills of one kind of runs.

    kills: SIGKILLs of running commands. after_first_file: of these, when a file was there. at_operations: of these, at
    a file operation. lost, different, litter: files. failed: repeated commands that did not end with status 0.
    """

    kills: int = 0
    after_first_file: int = 0
    at_operations: int = 0
    lost: int = 0
    different: int = 0
    litter: int = 0
    failed: int = 0
    problems: list[str] = field(default_factory=list)


def kill_at_a_time(campaign: Campaign, kind: str, place: Place, before: bool) -> bool:
    """Start a run and kill it at a random moment; return False where it had ended by then."""
    reference = campaign.references[kind]
    process = start(campaign.inputs.command(kind, place.runs, place.shared), place.folder / "log")
    if before:
        time.sleep(campaign.draws.uniform(0, reference.first))
    else:
        process.wait_for(place)
        time.sleep(campaign.draws.uniform(0, reference.whole - reference.first))
    return kill(campaign, kind, process)


def kill(campaign: Campaign, kind: str, process: Process) -> bool:
    """Kill a command, and if it is a sweep, its processes with it, or it or one of them alone."""
    if process.ended():
        return False
    victim = campaign.draws.choice(["group", "command", "worker"]) if kind == "sweep" else "group"
    children = process.children()
    process.kill({"group": None, "command": process.pid, "worker": children[0] if children else None}[victim])
    process.wait()
    return True


def kill_at_an_operation(campaign: Campaign, kind: str, place: Place) -> bool:
    """Run until a random file operation, whose process kills itself before it."""
    at = campaign.draws.randrange(campaign.references[kind].operations)
    operations = Operations(place, at, kill_self)
    start(campaign.inputs.command(kind, place.runs, place.shared), place.folder / "log", operations.watch).wait()
    return operations.count > at


def kill_runs(campaign: Campaign, kind: str, by_time: int, by_operation: int) -> Kills:
    """Kill runs of a kind, repeat each until it is done, compare its files."""
    figures, number = Kills(), 0
    while figures.kills < by_time + by_operation and number < 5 * (by_time + by_operation):
        place, number = Place.below(campaign.folder / f"{kind}-{number}"), number + 1
        at_operation = figures.kills >= by_time
        if at_operation:
            killed = kill_at_an_operation(campaign, kind, place)
        else:
            killed = kill_at_a_time(campaign, kind, place, before=figures.kills % BEFORE == 0)
        if killed:
            figures.kills += 1
            figures.after_first_file += place.begun()
            figures.at_operations += at_operation
            left = [str(path.relative_to(place.folder)) for path in place.files() if path.is_file()]
            finish(campaign, kind, place, figures, left)
        shutil.rmtree(place.folder)
    return figures


def finish(campaign: Campaign, kind: str, place: Place, figures: Kills, left: list[str]) -> None:
    """Repeat a killed command until it ends with status 0; count the differences to an undisturbed run."""
    for _ in range(REPEATS):
        process = start(campaign.inputs.command(kind, place.runs, place.shared), place.folder / "log")
        if process.wait() == 0:
            break
        figures.failed += 1
        figures.problems.append(f"{kind}: repeated, it ends with {process.status}: {process.text}")
    if difference := compare(campaign.references[kind].files, place):
        figures.lost += len(difference.lost)
        figures.different += len(difference.different)
        figures.litter += len(difference.litter)
        figures.problems.append(f"{kind}: {difference}; the kill had left {left}")


@click.command(help=__doc__)
@click.option("--share", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True)
@click.option("--seed", default=0, show_default=True, help="Of the moments.")
@click.option("--part", "parts", multiple=True, type=click.Choice(["kills", *PARTS]), help="Only this; repeatable.")
def main(share: float, seed: int, parts: tuple[str, ...]) -> None:
    begin = time.monotonic()
    warm_up()
    with TemporaryDirectory(prefix="ddbench-campaign-") as temporary:
        folder = Path(temporary)
        inputs = Inputs(folder / "inputs")
        inputs.folder.mkdir()
        inputs.write()
        place = Place.below(folder / "references")
        references = {kind: undisturbed(inputs, kind, place) for kind in KINDS}
        campaign = Campaign(inputs, references, random.Random(seed), folder)
        numbers = [math.ceil(share * count / len(KINDS)) for count in (KILLS, AT_OPERATIONS)]
        kills = {}
        for kind in KINDS if not parts or "kills" in parts else ():
            kills[kind] = kill_runs(campaign, kind, *numbers)
            click.echo(f"{kind}: {kills[kind].kills} kills after {time.monotonic() - begin:.0f} s", err=True)
        faults = {}
        for name, (inflict, count) in PARTS.items():
            if not parts or name in parts:
                faults[name] = inflict(campaign, math.ceil(share * count))
                click.echo(f"{name}: done after {time.monotonic() - begin:.0f} s", err=True)
    report(kills, faults, {"seed": seed, "share": share, "seconds": time.monotonic() - begin})


def report(kills: dict, faults: dict, settings: dict) -> None:
    """Print the tables, what went wrong and the JSON line; exit with 1 if anything went wrong."""
    columns = ["kills", "after_first_file", "at_operations", "lost", "different", "litter", "failed"]
    rows = [[kind, *(getattr(figures, name) for name in columns)] for kind, figures in kills.items()]
    if rows:
        rows.append(["all", *(sum(row[i] for row in rows) for i in range(1, len(columns) + 1))])
        click.echo(tabulate(rows, ["SIGKILL", *(name.replace("_", " ") for name in columns)]))
    met = [[name, t.met, t.unharmed, t.skipped or len(t.problems)] for name, t in faults.items()]
    click.echo(tabulate(met, ["fault", "met", "without harm", "problems"]))
    problems = [problem for part in (*kills.values(), *faults.values()) for problem in part.problems]
    for problem in problems:
        click.echo(f"PROBLEM {problem}")
    figures = {
        "benchmark": "campaign",
        **settings,
        "kills": {kind: asdict(part) for kind, part in kills.items()},
        "faults": {name: asdict(part) for name, part in faults.items()},
        "cores": os.cpu_count(),
    }
    click.echo(json.dumps(figures))
    if problems:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
