"""Write the rows of a file in several processes. No torch.

A worker is a fresh interpreter that runs `python -m MODULE RAW ARGUMENTS...`: a fork after torch has started its
threads is not safe, and what `multiprocessing` spawns runs the user's script again. It reads its rows as JSON from
standard input and prints one line of JSON for each batch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

BATCH = 32  # rows per report
MOST = 16  # processes: each has about 60 MB
Report = dict[str, Any]


class WorkerError(RuntimeError):
    """A worker process ended before its rows were done."""


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_workers(module: str, arguments: Sequence[object], rows: Sequence[Any], desc: str, quiet: bool) -> list[Report]:
    """Run `module` in one process per core, which share the rows (JSON values); return the reports of all batches.

    Raises OSError for a disk that is full, WorkerError for a process that ends early.
    """
    package = str(Path(__file__).resolve().parents[2])
    python_path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    # one thread each: BLAS threads of several processes would fight for the cores
    env = os.environ | {"PYTHONPATH": python_path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", module, *map(str, arguments)]
    count = min(cores(), MOST)
    workers: list[subprocess.Popen] = []
    try:
        for first in range(count):
            with tempfile.TemporaryFile("w+") as rows_file:  # a file: a worker that dies leaves no pipe to break
                json.dump(rows[first::count], rows_file)
                rows_file.seek(0)
                workers.append(subprocess.Popen(command, env=env, stdin=rows_file, stdout=subprocess.PIPE, text=True))
        with (
            ThreadPoolExecutor(count) as pool,
            tqdm(total=len(rows), desc=desc, disable=quiet, leave=False, dynamic_ncols=True) as bar,
        ):
            reports: list[Report] = []
            for part in pool.map(lambda worker: _reports(worker, bar), workers):
                reports += part
            return reports
    except subprocess.CalledProcessError as error:
        text = f"a process that was {desc} ended with status {error.returncode} (-9: it was killed); run again"
        raise WorkerError(text) from None
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
            if worker.stdout:
                worker.stdout.close()


def _reports(worker: subprocess.Popen, bar: tqdm) -> list[Report]:
    """Read a worker's reports until it ends."""
    reports = []
    for line in worker.stdout or ():
        report = json.loads(line)
        if "errno" in report:
            raise OSError(report["errno"], report["error"], report["file"])
        bar.update(report["done"])
        reports.append(report)
    if status := worker.wait():
        raise subprocess.CalledProcessError(status, worker.args)
    return reports


def work(raw: str, write_rows: Callable[[int, list[Any]], Report]) -> None:
    """Be a worker: have `write_rows(descriptor, rows)` write the rows of standard input to the file `raw`, in batches.

    Prints what `write_rows` returns.
    """
    try:
        rows = json.load(sys.stdin)
        with open(raw, "r+b") as out:
            for start in range(0, len(rows), BATCH):
                batch = rows[start : start + BATCH]
                print(json.dumps({"done": len(batch)} | write_rows(out.fileno(), batch)), flush=True)
    except BrokenPipeError:  # the process that started this one is gone
        os._exit(1)
    except OSError as error:
        print(json.dumps({"errno": error.errno, "error": error.strerror, "file": raw}), flush=True)
