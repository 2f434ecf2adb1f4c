"""Packing in processes of their own, one for each core, for many small images. No torch.

Run as a module it is one of them: `python -m ddbench.datasets.packers RAW SIZE RESIZE`, its rows as JSON on standard
input. Fresh interpreters: a fork after torch has started its threads is not safe, and what `multiprocessing` spawns
runs the user's script again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ddbench.datasets.facts import DatasetError, Place
from ddbench.datasets.images import BATCH, Unreadable, cores, opened, writer

MOST = 16  # processes: each has about 60 MB
Row = tuple[int, str, str]  # its number, the image's name, its path


def write_in_processes(
    raw: Path, names: Sequence[str], paths: Mapping[str, str], size: int, place: Place
) -> tuple[list[str], list[str]]:
    """Fill every row of the file `raw`: "name: reason" of what cannot be read; names of files with several pictures."""
    rows = [(row, name, paths[name]) for row, name in enumerate(names)]
    workers = [_start(raw, size, place.resize) for _ in range(min(cores(), MOST))]
    found: list[dict[str, Any]] = []
    try:
        with (
            ThreadPoolExecutor(len(workers)) as pool,
            tqdm(total=len(rows), desc="packing", disable=place.quiet, leave=False, dynamic_ncols=True) as bar,
        ):
            jobs = [(worker, rows[first :: len(workers)], bar) for first, worker in enumerate(workers)]
            for lines in pool.map(lambda job: _listen(*job), jobs):
                found += lines
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
            worker.stdout.close()
    bad, several = (sorted((row, what) for line in found for row, what in line[kind]) for kind in ("bad", "several"))
    return [what for _, what in bad], [name for _, name in several]


def _start(raw: Path, size: int, resize: str) -> subprocess.Popen:
    package = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, "-P", "-m", "ddbench.datasets.packers", str(raw), str(size), resize]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])}
    return subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _listen(worker: subprocess.Popen, rows: Sequence[Row], bar: tqdm) -> list[dict[str, Any]]:
    """Give a process its rows, and what it says of them. Raises OSError for a disk that is full."""
    found = []
    with suppress(BrokenPipeError), worker.stdin as given:  # one that died is found by its status
        json.dump(rows, given)
    for line in worker.stdout:
        told = json.loads(line)
        if "errno" in told:
            raise OSError(told["errno"], told["error"], told["file"])
        bar.update(told["done"])
        found.append(told)
    if status := worker.wait():
        raise DatasetError(f"a process that was packing ended with status {status} (-9: it was killed); run again")
    return found


def _work(raw: str, size: int, resize: str) -> None:
    """Pack the rows of standard input; a line of JSON for every few of them."""
    rows = json.load(sys.stdin)
    with open(raw, "r+b") as out:
        write = writer(out.fileno(), size, resize)
        for start in range(0, len(rows), BATCH):
            told: dict[str, Any] = {"bad": [], "several": [], "done": len(rows[start : start + BATCH])}
            for row, name, path in rows[start : start + BATCH]:
                try:
                    image, count = opened(name, path)
                except Unreadable as error:
                    told["bad"].append((row, str(error)))
                    continue
                told["several"] += [(row, name)] if count > 1 else []
                write(row, image)
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    try:
        _work(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    except BrokenPipeError:  # whoever asked is gone
        os._exit(1)
    except OSError as error:
        print(json.dumps({"errno": error.errno, "error": error.strerror, "file": sys.argv[1]}), flush=True)
