"""How cost grows on a CPU: seconds and private memory of twelve tasks, one axis at a time from one middle cell.

    python benchmarks/scaling.py [--task herding] [--axis images] [--limit 600] [--folder DIR]

The middle: 10 000 images of 32 px, 10 classes, IPC 10 (of the leaderboard 1000 results). Axes: images 10^3 to 10^6,
classes 10 to 1000, IPC 1 to 100, results 10^2 to 10^5. Each cell is a process of its own (scaling_cells.py); importing
and making the inputs is not counted. Memory is the most that the process and its children hold for themselves above
what they held at the start, looked at every 10 ms; files that are mapped do not count. A cell that takes longer than
--limit seconds is killed; one that would, by the two before it, is not begun: both are extrapolated and marked ~.

Prints a JSON line for each cell as soon as it is measured, then a table: the cells, the exponent fitted to all of an
axis, and that of its last two measured cells (constants hide growth in the first). "over" marks an axis of images whose
last exponent is above 1.1.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
from scaling_cells import TASKS, Cell, private_bytes
from tabulate import tabulate

AXES = {
    "images": (1000, 10_000, 100_000, 1_000_000),
    "classes": (10, 30, 100, 300, 1000),
    "ipc": (1, 3, 10, 30, 100),
    "results": (100, 1000, 10_000, 100_000),
}
DEPENDS = {
    "packing": ("images", "classes"), "loading": ("images", "classes"), "latents": ("images",),
    "prototypes": ("images", "classes", "ipc"), "embedding": ("images",), "herding": ("images", "classes", "ipc"),
    "kcenter": ("images", "classes", "ipc"), "evaluation": ("images", "classes", "ipc"),
    "quality": ("images", "classes", "ipc"), "audit": ("images", "classes", "ipc"), "duplicates": ("images",),
    "leaderboard": ("results", "classes"),
}  # fmt: skip
FEW_RESULTS = 100  # on the leaderboard's axis of classes: a result of 1000 classes has a million numbers
BAR = 1.1
PERIOD = 0.01  # seconds
PREPARING = 20  # times --limit: a process that is not done by then is killed
MIB = 2**20


@dataclass(frozen=True)
class Cost:
    """The cost of a cell.

    seconds: by the clock. processor: of all threads and processes.
    bytes: private memory above the start.
    measured: False if extrapolated.
    """

    seconds: float
    processor: float
    bytes: float
    measured: bool = True


def tree_bytes(process: int) -> int:
    """Return the private bytes of a process and of all below it."""
    total = 0
    with suppress(OSError):  # it may have ended
        total = private_bytes(process)
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        total += sum(tree_bytes(int(child)) for child in children)
    return total


def run_cell(cell: Cell, folder: Path, limit: float) -> Cost | None:
    """Measure a cell in a process; None if it took longer than the limit. Raises RuntimeError if it fails."""
    command = [sys.executable, str(Path(__file__).with_name("scaling_cells.py")), json.dumps(asdict(cell)), str(folder)]
    highest, done = [0], threading.Event()
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        ) as process,
    ):  # fmt: skip

        def kill() -> None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

        def watch() -> None:
            while not done.wait(PERIOD):
                highest[0] = max(highest[0], tree_bytes(process.pid))

        timer = threading.Timer(PREPARING * limit, kill)
        timer.start()
        watcher = threading.Thread(target=watch)
        start, seconds = 0, None
        try:
            for line in process.stdout or ():
                word, *values = line.split()
                if word == "start":
                    start = int(values[0])
                    timer.cancel()
                    timer = threading.Timer(limit, kill)
                    timer.start()
                    watcher.start()
                else:
                    seconds = [float(value) for value in values]
                    done.set()
            status = process.wait()
        finally:
            done.set()
            timer.cancel()
            kill()
        if seconds is not None:
            return Cost(*seconds, bytes=max(0, highest[0] - start))
        if status == -signal.SIGKILL:
            return None
        errors.seek(0)
        raise RuntimeError((errors.read().strip().splitlines() or [f"exit status {status}"])[-1])


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the exponent e of y = c x^e by least squares of logarithms; nan for fewer than two points above 0."""
    logs = [(math.log(x), math.log(y)) for x, y in points if y > 0]
    if len({x for x, _ in logs}) < 2:
        return math.nan
    mean_x, mean_y = (sum(part) / len(logs) for part in zip(*logs, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in logs) / sum((x - mean_x) ** 2 for x, _ in logs)


def extrapolated(costs: dict[int, Cost], x: int) -> Cost | None:
    """Continue an axis by its last two measured cells; None without two.

    Seconds go on with their exponent, at least in proportion; memory in a straight line, because it has constants.
    """
    known = sorted((size, cost) for size, cost in costs.items() if cost.measured)[-2:]
    if len(known) < 2:
        return None
    (before, smaller), (last, larger) = known
    seconds = (
        getattr(larger, clock)
        * (x / last) ** max(1.0, slope([(before, getattr(smaller, clock)), (last, getattr(larger, clock))]))
        for clock in ("seconds", "processor")
    )
    growth = max(0.0, larger.bytes - smaller.bytes) / (last - before)
    return Cost(*seconds, bytes=larger.bytes + growth * (x - last), measured=False)


def cell_of(task: str, axis: str, x: int) -> Cell:
    """Return the cell of a task at x on an axis."""
    cell = Cell(task)
    if task == "leaderboard" and axis == "classes":
        cell = replace(cell, results=FEW_RESULTS)
    return replace(cell, **{axis: x})


def measure_axis(
    task: str, axis: str, folder: Path, limit: float, known: dict[Cell, Cost]
) -> Iterator[tuple[Cell, Cost | None]]:
    """Yield each cell of an axis with its cost, measured or extrapolated; None where there is too little for either."""
    costs: dict[int, Cost] = {}
    killed = False  # what is larger than a cell that was killed is not begun
    for x in AXES[axis]:
        cell, expected = cell_of(task, axis, x), extrapolated(costs, x)
        cost = known.get(cell)
        if cost is None and not killed and (expected is None or expected.seconds <= limit):
            cost = run_cell(cell, folder, limit)
            killed = cost is None
        cost = cost or expected
        if cost:
            costs[x] = known[cell] = cost
        yield cell, cost


def summary(task: str, axis: str, costs: dict[int, Cost], clock: str) -> list[str]:
    """Return a row of the table. clock: seconds or processor."""
    cells = {x: cost for x, cost in costs.items() if cost.measured}
    row = [task, axis]
    for field, unit in ((clock, 1.0), ("bytes", MIB)):
        points = [(x, getattr(cost, field) / unit) for x, cost in cells.items()]
        texts = [f"{'' if c.measured else '~'}{getattr(c, field) / unit:.3g}" for c in costs.values()]
        fitted, last = slope(points), slope(points[-2:])
        row += ["  ".join(texts), f"{fitted:.2f}", f"{last:.2f}"]
        if field == clock:
            row.append("over" if axis == "images" and last > BAR else "")
    return row


@click.command(help=__doc__)
@click.option("--task", "tasks", multiple=True, type=click.Choice(list(TASKS)), help="All by default.")
@click.option("--axis", "axes", multiple=True, type=click.Choice(list(AXES)), help="All by default.")
@click.option("--limit", default=600.0, show_default=True, help="Seconds of a cell.")
@click.option("--processor", is_flag=True, help="The table has processor seconds: for a machine that does other work.")
@click.option("--folder", type=click.Path(path_type=Path), help="Of inputs, kept; else a temporary one.")
def main(tasks: tuple[str, ...], axes: tuple[str, ...], limit: float, processor: bool, folder: Path | None) -> None:
    clock = "processor" if processor else "seconds"
    rows, known = [], {}
    with tempfile.TemporaryDirectory() as temporary:
        place = (folder or Path(temporary)).absolute()
        for task in tasks or TASKS:
            for axis in (axis for axis in DEPENDS[task] if axis in (axes or AXES)):
                costs: dict[int, Cost] = {}
                for cell, cost in measure_axis(task, axis, place, limit, known):
                    record = {"benchmark": "scaling", "axis": axis, **asdict(cell), "limit": limit}
                    record |= asdict(cost) if cost else {"measured": False}
                    print(json.dumps(record | {"load": os.getloadavg()[0], "cores": os.cpu_count()}), flush=True)
                    if cost:
                        costs[getattr(cell, axis)] = cost
                rows.append(summary(task, axis, costs, clock))
    time_head = "processor s" if processor else "seconds"
    heads = ("task", "axis", time_head, "exponent", "last", "", "MiB above the start", "exponent", "last")
    print(tabulate(rows, heads, disable_numparse=True))
    print(f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; ~ extrapolated")


if __name__ == "__main__":
    main()
