"""Damaged inputs of every kind that ddbench reads: each is refused with a clear word, or read as others read it.

    python benchmarks/malformed.py [--share 1.0] [--seed 0] [--only images]

Damages whole files (malformed_inputs.py): images of every suffix that is read, archives, TOML files, result files,
split files, files beside distilled images, the files of a model. Reads each in a process that has imported everything,
which is killed after two minutes. Seconds are those of the processor. An input passes if it is refused (exit status 1
or 2, with a message that names the file, no traceback), or if what is read equals what an independent reader reads
(malformed_readers.py). Prints every input that does not pass, a table, then one JSON line.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from concurrent.futures import TimeoutError
from dataclasses import dataclass
from pathlib import Path

import click
from malformed_inputs import damage
from malformed_readers import FAMILIES, Wrong
from pebble import ProcessExpired, ProcessPool
from tabulate import tabulate

INPUTS = {"images": 380, "archives": 130, "toml": 150, "results": 150, "splits": 50, "sets": 80, "models": 60}
SLOW, KILLED = 10.0, 120.0  # seconds of the processor, of the clock
STATES = ("refused", "read", "wrong", "traceback", "slow", "died")


@dataclass(frozen=True)
class Outcome:
    """How one input ended: one of STATES, and what it said."""

    state: str
    seconds: float
    detail: str


def examine(family: str, name: str, seed: str) -> Outcome:
    """Damage a whole file of a family and read it."""
    numbers, (files, read) = random.Random(seed), FAMILIES[family]
    whole = files()
    data = damage(whole[name], numbers, [whole[other] for other in sorted(whole)])
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()  # of this process: other programs may keep the machine busy
        try:
            state, detail = read(Path(folder), name, data)
        except Wrong as error:
            state, detail = "wrong", str(error)
        except BaseException:
            state, detail = "traceback", traceback.format_exc()
        seconds = time.process_time() - start
    return Outcome("slow" if seconds > SLOW else state, seconds, detail)


def warm_up(families: list[str]) -> None:
    """Import everything: read the whole files of each family. Raises AssertionError for one that is refused."""
    for family in families:
        files, read = FAMILIES[family]
        for name, data in files().items():
            with tempfile.TemporaryDirectory() as folder:
                state, detail = read(Path(folder), name, data)
            assert state == "read", (family, name, state, detail)


def campaign(share: float, seed: int, families: list[str]) -> dict[tuple[str, str, str], Outcome]:
    """Read all damaged inputs; return the outcome of each (family, file, seed)."""
    cases = []
    for family in families:
        names = sorted(FAMILIES[family][0]())
        count = max(1, round(INPUTS[family] * share))
        offset = random.Random(f"{seed}/{family}").randrange(len(names))  # a small share has other files each time
        cases += [(family, names[(offset + i) % len(names)], f"{seed}/{family}/{i}") for i in range(count)]
    outcomes = {}
    with ProcessPool(1, initializer=warm_up, initargs=[families]) as pool:
        futures = [(case, pool.schedule(examine, args=case, timeout=KILLED)) for case in cases]
        for case, future in futures:
            try:
                outcomes[case] = future.result()
            except TimeoutError:
                outcomes[case] = Outcome("slow", KILLED, "killed")
            except ProcessExpired as error:
                outcomes[case] = Outcome("died", 0.0, f"exit status {error.exitcode}")
    return outcomes


@click.command(help=__doc__)
@click.option("--share", default=1.0, show_default=True, help="Part of the inputs to read.")
@click.option("--seed", default=0, show_default=True)
@click.option("--only", multiple=True, type=click.Choice(list(INPUTS)), help="Only this kind; repeatable.")
@click.option("--verbose", is_flag=True, help="Print what each input said.")
def main(share: float, seed: int, only: tuple[str, ...], verbose: bool) -> None:
    start = time.perf_counter()
    families = list(only or INPUTS)
    outcomes = campaign(share, seed, families)
    rows = []
    for family in families:
        own = [outcome for (kind, _, _), outcome in outcomes.items() if kind == family]
        count = Counter(outcome.state for outcome in own)
        rows.append([family, len(own), *(count[state] for state in STATES), f"{max(o.seconds for o in own):.1f}"])
    failed = {case: o for case, o in outcomes.items() if o.state not in ("refused", "read")}
    for case, outcome in (outcomes if verbose else failed).items():
        click.echo(f"--- {' '.join(case)}: {outcome.state} after {outcome.seconds:.1f} s\n{outcome.detail}")
    click.echo(tabulate(rows, ("kind", "inputs", *STATES, "longest s")))
    figures = {row[0]: dict(zip(("inputs", *STATES), row[1:-1], strict=True)) for row in rows}
    line = {"benchmark": "malformed", "seed": seed, "inputs": len(outcomes), "kinds": figures,
            "failed": len(failed), "longest_seconds": max(o.seconds for o in outcomes.values()),
            "seconds": time.perf_counter() - start, "cores": os.cpu_count(),
            "date": time.strftime("%Y-%m-%d")}  # fmt: skip
    click.echo(json.dumps(line))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
