"""A full disk, a read-only folder, a clock that jumps, a crowd: the parts of benchmarks/campaign.py after the kills.

A fault is fair if the command ends with another status than 0 and one message that names a file and a way out, without
a traceback, and if the same command completes once the fault is gone, with the files of an undisturbed run.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from campaign_compare import Place, compare, snapshot
from campaign_runs import KINDS, Inputs, Operations, Process, Reference, kill_self, start

DISK = "64m"  # a run needs 10
WAY_OUT = "the same command then goes on"
LOCKS = (".lock",)  # a run that a merge copied has no lock files of its own
YEARS = 50 * 365 * 86400  # seconds


@dataclass
class Tally:
    """Figures of one fault: commands that met it, and what went wrong, in words."""

    met: int = 0
    unharmed: int = 0
    problems: list[str] = field(default_factory=list)
    skipped: str = ""


@dataclass(frozen=True)
class Campaign:
    """Inputs, undisturbed runs by kind, random draws and the folder of the runs, for all parts of the campaign."""

    inputs: Inputs
    references: dict[str, Reference]
    draws: random.Random
    folder: Path

    def completes(self, kind: str, place: Place, tally: Tally, name: str) -> None:
        """Run a kind once more without a fault; it must end with status 0 and the files of the undisturbed run."""
        process = start(self.inputs.command(kind, place.runs, place.shared), place.folder / "log")
        if process.wait():
            tally.problems.append(f"{name}: repeated, it ends with {process.status}: {process.text}")
        elif difference := compare(self.references[kind].files, place):
            tally.problems.append(f"{name}: {difference}")


def unclear(process: Process, place: Place) -> str:
    """Return why the message of a command that failed is not clear; empty if it is."""
    errors = [line for line in process.text.splitlines() if line.startswith("Error: ")]
    if process.status == 0 or "Traceback" in process.text or len(errors) != 1:
        return f"status {process.status}, {len(errors)} messages: {process.text}"
    if str(place.runs) not in errors[0] and str(place.shared) not in errors[0]:
        return f"the message names no file: {errors[0]}"
    return "" if WAY_OUT in errors[0] else f"the message names no way out: {errors[0]}"


@contextmanager
def small_disk(folder: Path) -> Iterator[str]:
    """Mount a tmpfs at a new folder; yield why that is not possible, or an empty text."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "ddbench-campaign", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
        refusal = done.stderr.strip() if done.returncode else ""
    except OSError as error:
        refusal = str(error)
    try:
        yield refusal
    finally:
        if not refusal:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(disk: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(disk)], check=True)


def fill(disk: Path) -> None:
    """Leave no free byte on the disk."""
    with suppress(OSError), open(disk / "filler", "wb", buffering=0) as out:
        while True:
            out.write(bytes(1 << 20))
    with suppress(OSError), open(disk / "filler", "ab", buffering=0) as out:
        while True:
            out.write(bytes(1 << 10))


def full_disk(campaign: Campaign, moments: int) -> Tally:
    """Fill the disk at a random file operation of a run; free it; repeat."""
    tally = Tally()
    disk = campaign.folder / "disk"
    with small_disk(disk) as refusal:
        if refusal:
            return Tally(skipped=f"no tmpfs can be mounted ({refusal})")
        while tally.met < moments and tally.unharmed < 10 * moments:
            kind = KINDS[tally.met % len(KINDS)]
            place = Place.below(disk / "place")
            log = campaign.folder / "disk.log"
            at = campaign.draws.randrange(campaign.references[kind].operations)
            operations = Operations(place, at, lambda: fill(disk))
            command = campaign.inputs.command(kind, place.runs, place.shared)
            process = start(command, log, operations.watch)
            name = f"full disk at operation {at} of {kind}"
            if process.wait() == 0:  # nothing was written afterwards
                tally.unharmed += 1
            else:
                tally.met += 1
                if reason := unclear(process, place):
                    tally.problems.append(f"{name}: {reason}")
            (disk / "filler").unlink(missing_ok=True)
            campaign.completes(kind, place, tally, name)
            shutil.rmtree(place.folder)
    return tally


def read_only(campaign: Campaign, kinds: int) -> Tally:
    """Make the runs folder, then the shared folder, read-only: empty, with a run that was killed, with a complete one.

    A complete run must be reported as complete, with status 0.
    """
    tally = Tally()
    disk = campaign.folder / "read-only"
    with small_disk(disk) as refusal:
        if refusal:
            return Tally(skipped=f"no tmpfs can be mounted ({refusal})")
        for number, kind in enumerate(campaign.draws.sample(KINDS, kinds)):
            for side in ("runs", "shared"):
                folder = campaign.folder / f"beside-{number}-{side}"
                folder.mkdir()
                parts = {name: (disk if name == side else folder) / name for name in ("runs", "shared")}
                place = Place(folder, parts["runs"], parts["shared"])
                for part in parts.values():
                    part.mkdir()
                _read_only_states(campaign, kind, place, disk, tally)
                shutil.rmtree(folder)
                shutil.rmtree(parts[side])
    return tally


def _read_only_states(campaign: Campaign, kind: str, place: Place, disk: Path, tally: Tally) -> None:
    command = campaign.inputs.command(kind, place.runs, place.shared)
    for state in ("empty", "begun", "complete"):
        if state == "begun":
            at = campaign.draws.randrange(campaign.references[kind].operations)
            start(command, place.folder / "log", Operations(place, at, kill_self).watch).wait()
        elif state == "complete":
            campaign.completes(kind, place, tally, f"read-only {kind}, before")
        before = snapshot(place)
        remount(disk, "ro")
        process = start(command, place.folder / "log")
        process.wait()
        remount(disk, "rw")
        name = f"{state} {kind}, {'runs' if place.runs.is_relative_to(disk) else 'shared'} folder read-only"
        tally.met += 1
        if process.status == 0:  # nothing was left to write there
            tally.unharmed += 1
            if state == "complete" and snapshot(place) != before:
                tally.problems.append(f"{name}: files changed")
        elif state == "complete":
            tally.problems.append(f"{name}: {process.text}")
        elif reason := unclear(process, place):
            tally.problems.append(f"{name}: {reason}")


def jumping_clock(campaign: Campaign, runs: int) -> Tally:
    """Kill runs whose clock jumps by up to fifty years at every look; give their files random dates; repeat so."""
    tally = Tally()
    for number in range(runs):
        kind = KINDS[number % len(KINDS)]
        place = Place.below(campaign.folder / f"clock-{number}")
        at = campaign.draws.randrange(campaign.references[kind].operations)
        killed = Operations(place, at, kill_self)
        jumps = random.Random(campaign.draws.random())
        command = campaign.inputs.command(kind, place.runs, place.shared)

        def with_kill(jumps: random.Random = jumps, killed: Operations = killed) -> None:
            patch_clock(jumps)
            killed.watch()

        start(command, place.folder / "log", with_kill).wait()
        for path in place.files():
            date = jumps.uniform(0, 2 * YEARS)
            os.utime(path, (date, date))
        process = start(command, place.folder / "log", lambda jumps=jumps: patch_clock(jumps))
        name = f"clock jumps, {kind} killed at operation {at}"
        if process.wait():
            tally.problems.append(f"{name}: status {process.status}: {process.text}")
        elif difference := compare(campaign.references[kind].files, place):
            tally.problems.append(f"{name}: {difference}")
        tally.met += 1
        shutil.rmtree(place.folder)
    return tally


def patch_clock(jumps: random.Random) -> None:
    """Let `time.time` and `time.time_ns` jump in this process. What measures a duration has a clock that cannot."""
    true_time = time.time
    time.time = lambda: true_time() + jumps.uniform(-YEARS, YEARS)
    time.time_ns = lambda: int(1e9 * time.time())


def crowd(campaign: Campaign, rounds: int) -> Tally:
    """Two sweeps and a merge at once on one folder; in every other round one sweep is killed and started again."""
    tally = Tally()
    for number in range(rounds):
        place = Place.below(campaign.folder / f"crowd-{number}")
        other = campaign.folder / "references" / "selection-0" / "runs"
        same = campaign.folder / "references" / "sweep-0" / "runs"
        command = campaign.inputs.command("sweep", place.runs, place.shared)
        logs = [place.folder / f"log-{i}" for i in range(3)]
        sweeps = [start(command, log) for log in logs[:2]]
        whole = campaign.references["sweep"].whole
        time.sleep(campaign.draws.uniform(0, whole))
        if number % 2 and not sweeps[0].ended():
            sweeps[0].kill()
            sweeps[0].wait()
            sweeps[0] = start(command, logs[0])
        merge = start(["--runs", str(place.runs), "merge", str(other), str(same)], logs[2])
        name = f"crowd {number}"
        for process in (*sweeps, merge):
            if process.wait():
                tally.problems.append(f"{name}: status {process.status}: {process.text}")
        expected = campaign.references["sweep"].files | {
            path: content for path, content in campaign.references["selection"].files.items() if path[:5] == "runs/"
        }
        difference = compare(expected, place)
        for names in (difference.lost, difference.litter):
            names[:] = [path for path in names if not path.endswith(LOCKS)]
        if difference:
            tally.problems.append(f"{name}: {difference}")
        tally.met += 1
        shutil.rmtree(place.folder)
    return tally


FAULTS: dict[str, tuple[Callable[[Campaign, int], Tally], int]] = {  # with their number in a whole campaign
    "full disk": (full_disk, 20),
    "read-only folder": (read_only, len(KINDS)),
    "jumping clock": (jumping_clock, 10),
    "crowd": (crowd, 6),
}
