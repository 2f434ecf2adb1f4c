"""Reading a folder of many results: `ddbench leaderboard`, whole, in a process of its own.

    python benchmarks/leaderboard.py [--results 100000] [--folder DIR]

Makes the folder (methods x datasets x IPCs x seeds x students, results as large as UC Merced's, with a confusion matrix
of 21 classes) unless it is there, then runs the command. The reference reads every file and parses its JSON, and does
nothing else. Prints a table (seconds, peak memory), then one JSON line. A second round has the files in memory.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import click
from tabulate import tabulate

from ddbench.store.paths import result_path
from ddbench.store.records import Result, RunSpec, write_spec
from evaluators.protocols import QUICK_1

CLASSES = tuple(f"class number {i:02d}" for i in range(21))
METHODS, DATASETS, IPCS, SEEDS, STUDENTS = (
    20,
    ("ucm", "aid", "nwpu", "eurosat", "whu-rs19"),
    (1, 10, 20, 50, 100),
    10,
    20,
)
REFERENCE = """
import json, sys
from pathlib import Path
files = Path(sys.argv[1]).glob("*/*/*/*/results/*/*.json")
print(sum(len(json.loads(path.read_bytes())["per_class"]) > 0 for path in files))
"""


def result(spec: RunSpec, seed: int, numbers: random.Random, classes: tuple[str, ...] = CLASSES) -> dict:
    """What a student would have written."""
    confusion = [[numbers.randrange(50) for _ in classes] for _ in classes]
    accuracy = numbers.random()
    versions = {"ddbench": "0.1.0", "evaluators": "1", "torch": "2.15.0", "torchvision": "0.29.2", "python": "3.11.7"}
    made = Result(
        spec.digest, spec.digest[::-1], "convnet", "scratch", seed, "quick", 1, "a" * 64, accuracy, accuracy,
        {name: numbers.random() for name in classes}, confusion, 1050, numbers.uniform(60, 90), 1 << 30,
        "cpu (2 threads)", versions, "b" * 40, False, kappa=0.5, macro_f1=0.5, calibration=0.1, image_bytes=1 << 20,
        label_bytes=0, compiled=False, precision="fp32",
    )  # fmt: skip
    return vars(made)


def make(folder: Path, count: int, classes: tuple[str, ...] = CLASSES) -> int:
    """Write about `count` results; how many they are."""
    protocol, numbers = QUICK_1, random.Random(0)
    per_run = max(1, count // (METHODS * len(DATASETS) * len(IPCS) * SEEDS))
    base = RunSpec(
        "", 1, "tiny", {"iterations": 1000, "rate": 0.1, "batch": 64}, "", "50/50 of each class", "f" * 64, 64, 1, 0
    )
    grid = [(m, d, i, s) for m in range(METHODS) for d in DATASETS for i in IPCS for s in range(SEEDS)]
    grid = grid[:count]
    for method, dataset, ipc, seed in grid:
        spec = replace(base, method=f"method{method:02d}", dataset=dataset, ipc=ipc, seed=seed)
        run = spec.folder(folder)
        run.mkdir(parents=True)
        write_spec(run, spec)
        for student in range(per_run):
            path = result_path(run, protocol, "convnet", student)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(result(spec, student, numbers, classes), indent=2, sort_keys=True))
    return len(grid) * per_run


def measured(command: list[str]) -> dict:
    """Seconds and the largest memory of a process (its own children not counted)."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, command
    return {"seconds": time.perf_counter() - start, "peak_bytes": used.ru_maxrss * 1024}


@click.command(help=__doc__)
@click.option("--results", default=100_000, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="Kept for another time; else a temporary one.")
def main(results: int, folder: Path | None) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        runs = folder or Path(temporary) / "runs"
        count = make(runs, results) if not runs.exists() else sum(1 for _ in runs.glob("*/*/*/*/results/*/*.json"))
        ours = [sys.executable, "-m", "ddbench", "--runs", str(runs), "leaderboard", "--format", "csv"]
        found = {"reading alone": [], "ddbench leaderboard": []}
        for _ in range(2):
            found["reading alone"].append(measured([sys.executable, "-c", REFERENCE, str(runs)]))
            found["ddbench leaderboard"].append(measured(ours))
    rows = [[name, *(f"{r['seconds']:.2f}" for r in rounds), f"{max(r['peak_bytes'] for r in rounds) / 2**20:.0f}"]
            for name, rounds in found.items()]  # fmt: skip
    click.echo(tabulate(rows, ("what", "first s", "again s", "peak MiB")))
    click.echo(json.dumps({"benchmark": "leaderboard", "results": count, **found, "cores": os.cpu_count()}))


if __name__ == "__main__":
    main()
