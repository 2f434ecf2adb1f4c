"""Measure ddbench on a card: one command, under eight minutes; a JSON line for each figure, a table last.

    python benchmarks/gpu.py > card.txt                         all parts on the GPU (the CPU if there is none)
    python benchmarks/gpu.py --part students --part sd2         these parts only
    python benchmarks/gpu.py --small                            seconds to a minute on a CPU: tries the script

Each part is a process of its own with its share of --minutes; what one leaves goes to the next. A part that fails or
is out of time keeps the rows that it printed, and a row says so. The exit status is 1 if a part failed as a whole.

    ceilings    matrix products (bf16, TF32, fp32), copies, launches: the most that the card does
    students    a step and a whole training against a plain loop, eager and compiled (gpu_students.py)
    sd2         LoRA steps and sampling of a base of Stable Diffusion 2's size, random weights (gpu_sd2.py)
    methods     an iteration of DM, MTT, DC at 64 and 256 px against the official structure (gpu_methods.py)
    same-seed   the same seed twice, of every method and three students (gpu_same_seed.py)
    seeds       three student seeds in one pass against one after another (gpu_seeds.py)

Save the JSON lines to benchmarks/results/CARD.jsonl:  grep '^{' card.txt
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields
from importlib import import_module

import click
from gpu_rows import HEADS, Bench, Row
from tabulate import tabulate

# seconds of eight minutes; ten are left for the start of the processes
PARTS = {"ceilings": 20, "students": 130, "sd2": 110, "methods": 110, "same-seed": 70, "seeds": 30}
NAMES = {field.name for field in fields(Row)} - {"figures"}
GRACE = 10  # seconds that a part may take beyond its deadline to end a case


def write_rows(part: str, seconds: float, small: bool) -> None:
    """Measure a part in this process; print its surroundings, then its rows, as JSON lines.

    Whatever else libraries print on standard output goes to standard error.
    """
    deadline = time.monotonic() + seconds
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        module = import_module(f"gpu_{part.replace('-', '_')}")
        from ddbench.utils.distributed import device
        from ddbench.utils.provenance import describe_environment

        bench = Bench(device("auto"), deadline, small)
        print(json.dumps(describe_environment(bench.device)), file=out, flush=True)
        for row in module.rows(bench):
            print(json.dumps(row.record()), file=out, flush=True)


def run_part(part: str, seconds: float, small: bool) -> Iterator[Row | dict]:
    """Measure a part in a process of its own, which is killed GRACE seconds after its time.

    Yields its surroundings (`describe_environment`), then its rows.
    """
    command = [sys.executable, __file__, "--in-process", part, "--seconds", f"{seconds:.1f}", *["--small"] * small]
    limit = seconds + GRACE
    stopped = threading.Event()
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, errors="replace", start_new_session=True
        ) as process,
    ):

        def stop() -> None:
            with suppress(ProcessLookupError):  # its compiler's processes too
                os.killpg(process.pid, signal.SIGKILL)

        def stop_late() -> None:
            stopped.set()
            stop()

        timer = threading.Timer(limit, stop_late)
        timer.start()
        try:
            for line in process.stdout or ():
                values = json.loads(line)
                yield row_of(values) if "part" in values else values
            status = process.wait()
        finally:
            timer.cancel()
            stop()
        if stopped.is_set():
            yield Row(part, "", note=f"stopped after {limit:.0f} s: what comes after the last row was not measured")
        elif status:
            errors.seek(0)
            last = (errors.read().strip().splitlines() or [f"exit status {status}"])[-1]
            yield Row(part, "", note=f"failed: {last[:200]}")


def row_of(values: dict) -> Row:
    """Return the row of a record."""
    figures = {name: value for name, value in values.items() if name not in NAMES}
    return Row(**{name: value for name, value in values.items() if name in NAMES}, figures=figures)


@click.command(help=__doc__)
@click.option("--part", "parts", multiple=True, type=click.Choice(list(PARTS)), help="Part to measure; all by default.")
@click.option("--minutes", default=7.8, show_default=True, help="Of all parts together, at most.")
@click.option("--small", is_flag=True, help="Tiny sizes, no compiler: for a CPU.")
@click.option("--in-process", type=click.Choice(list(PARTS)), hidden=True)
@click.option("--seconds", type=float, hidden=True)
def main(parts: tuple[str, ...], minutes: float, small: bool, in_process: str | None, seconds: float | None) -> None:
    if in_process:
        write_rows(in_process, seconds or 60 * minutes, small)
        return
    end = time.monotonic() + 60 * minutes
    rows: list[Row] = []
    origin: dict = {}
    chosen = [part for part in PARTS if part in (parts or PARTS)]
    for i, part in enumerate(chosen):
        share = PARTS[part] / sum(PARTS[name] for name in chosen[i:])  # of the time that is left
        limit = (end - time.monotonic()) * share - GRACE
        for line in run_part(part, max(limit, 1.0), small):
            if isinstance(line, Row):
                rows.append(line)
                line = line.record() | {"device": origin.get("device"), "small": small}
            elif origin:
                continue
            else:
                origin = line
            print(json.dumps({"benchmark": "gpu", **line}), flush=True)
    print(tabulate([row.cells() for row in rows], HEADS, disable_numparse=True))
    measured = {row.part.replace(" ", "-") for row in rows if row.seconds or row.rate}
    sys.exit(not set(chosen) <= measured)


if __name__ == "__main__":
    main()
