"""Kills of commands as users start them: a Python process of their own, a sweep's processes spawned, not forked.

A part of benchmarks/campaign.py. Elsewhere in the campaign each command is a fork of a process that has imported torch.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

from campaign_compare import Place, compare
from campaign_faults import Campaign, Tally
from campaign_runs import Process

import ddbench

KINDS = ("sweep", "pixels", "sweep", "diffusion")  # in turn
VICTIMS = ("group", "command", "worker", "starting")  # of a sweep, in turn; starting: a worker before its first job
END = 20  # seconds in which the processes of a killed command must end


def spawn(words: list[str], log: Path) -> Process:
    """Run `python -m ddbench WORDS` in a new process, which leads a group of its own."""
    environment = os.environ | {"PYTHONPATH": str(Path(ddbench.__file__).parents[1])}
    output = (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    actions = [output, (os.POSIX_SPAWN_DUP2, 1, 2)]
    command = [sys.executable, "-m", "ddbench", *words]
    return Process(os.posix_spawn(sys.executable, command, environment, file_actions=actions, setsid=True), log)


def words_of(campaign: Campaign, kind: str, place: Place) -> list[str]:
    """Return the words after `ddbench`; a sweep has two processes at a time."""
    words = campaign.inputs.command(kind, place.runs, place.shared)
    return [*words, "--jobs", "2"] if kind == "sweep" else words


def kill_commands(campaign: Campaign, kills: int) -> Tally:
    """Kill commands between their first file and their end, or a starting worker; repeat each; compare its files."""
    tally, spans, kinds = Tally(), {}, KINDS[:kills]
    for kind in dict.fromkeys(kinds):
        place = Place.below(campaign.folder / f"command-{kind}")
        process = spawn(words_of(campaign, kind, place), place.folder / "log")
        process.wait_for(place)
        begin = time.monotonic()
        check_end(campaign, kind, place, process, tally, f"command {kind}, undisturbed")
        spans[kind] = time.monotonic() - begin
    number = 0
    while tally.met < kills and number < 5 * kills:
        kind = kinds[number % len(kinds)]
        victim = VICTIMS[number // 2 % len(VICTIMS)] if kind == "sweep" else "group"
        place, number = Place.below(campaign.folder / f"command-{number}"), number + 1
        process = spawn(words_of(campaign, kind, place), place.folder / "log")
        if victim == "starting":
            while len(process.children()) < 2 and not process.ended():  # the first is multiprocessing's own
                time.sleep(0.002)
            moment = "when it started"
        else:
            process.wait_for(place)
            time.sleep(after := campaign.draws.uniform(0, spans[kind]))
            moment = f"{after:.2f} s after the first file"
        if process.ended():
            tally.unharmed += 1
        else:
            tally.met += 1
            name = f"command {kind}, {victim} killed {moment}"
            kill(campaign, process, victim)
            again = spawn(words_of(campaign, kind, place), place.folder / "log-again")
            check_end(campaign, kind, place, again, tally, name)
            if not ended(process.pid):
                tally.problems.append(f"{name}: its processes are there after the repeated command")
        shutil.rmtree(place.folder)
    return tally


def kill(campaign: Campaign, process: Process, victim: str) -> None:
    """Kill all processes of a command, the command alone, or one or its newest process; wait for the command's end."""
    children = process.children() or [process.pid]
    worker, newest = campaign.draws.choice(children), max(children)
    process.kill({"group": None, "command": process.pid, "worker": worker, "starting": newest}[victim])
    process.wait()


def check_end(campaign: Campaign, kind: str, place: Place, process: Process, tally: Tally, name: str) -> None:
    """Wait for a command; it must end with status 0 and the files of the undisturbed run."""
    if process.wait():
        tally.problems.append(f"{name}: repeated, it ends with {process.status}: {process.text}")
    elif difference := compare(campaign.references[kind].files, place):
        tally.problems.append(f"{name}: {difference}")


def ended(group: int) -> bool:
    """Return True when no process of a group is left, after END seconds at most."""
    deadline = time.monotonic() + END
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False
