"""How long the instant commands take, as whole processes, beside a bare interpreter.

    python benchmarks/startup.py [--repeat 9]

Prints a table (median and fastest of the repeats, the ratio of medians to `python -c pass`), then one JSON line. The
commands take turns, so that a busy moment of the machine does not fall on one of them alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tabulate import tabulate

LIMIT = 0.5  # seconds
BARE = "python -c pass"
COMMANDS = {
    BARE: ["-c", "pass"],
    "ddbench --help": ["-m", "ddbench", "--help"],
    "ddbench list methods": ["-m", "ddbench", "list", "methods"],
    "ddbench leaderboard": ["-m", "ddbench", "leaderboard"],
}


def seconds(words: list[str], place: Path) -> float:
    """Wall time of one process that starts in an empty folder."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *words], cwd=place, check=True, capture_output=True)
    return time.perf_counter() - start


def measure(repeat: int) -> dict[str, dict[str, float]]:
    """Median and fastest seconds per command, and the ratio of medians to the bare interpreter's."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with TemporaryDirectory() as place:
        for _ in range(repeat + 1):  # the first round fills the disk cache and writes byte code
            for name, words in COMMANDS.items():
                times[name].append(seconds(words, Path(place)))
    medians = {name: statistics.median(found[1:]) for name, found in times.items()}
    return {
        name: {"median": medians[name], "fastest": min(found[1:]), "ratio": medians[name] / medians[BARE]}
        for name, found in times.items()
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=9)
    found = measure(parser.parse_args().repeat)
    rows = [
        (name, f"{t['median']:.3f}", f"{t['fastest']:.3f}", f"{t['ratio']:.1f}", "yes" if t["median"] < LIMIT else "NO")
        for name, t in found.items()
    ]
    heads = ("command", "median s", "fastest s", "ratio", f"under {LIMIT} s")
    print(tabulate(rows, heads, disable_numparse=True))
    print(json.dumps({"benchmark": "startup", "python": sys.version.split()[0], "seconds": found}))


if __name__ == "__main__":
    main()
