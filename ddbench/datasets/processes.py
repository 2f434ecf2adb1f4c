"""Write the rows of a file in several processes. No torch.

joblib's processes are fresh interpreters: a fork after torch has started its threads is not safe, and what
`multiprocessing` spawns runs the user's script again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

Report = TypeVar("Report")

BATCH = 32  # rows per report
MOST = 16  # processes: each has about 60 MB
IDLE = 10  # seconds after which a process ends whose parent was killed


class WorkerError(RuntimeError):
    """A worker process ended before its rows were done."""


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_workers(
    write_rows: Callable[[int, Sequence[Any]], Report], raw: Path, rows: Sequence[Any], desc: str, quiet: bool
) -> list[Report]:
    """Have `write_rows(descriptor, rows)` write batches of rows to the existing file `raw`; return what it returned.

    One process per core, one thread each. Raises OSError for a disk that is full, WorkerError for a process that ends
    early.
    """
    from joblib import Parallel, delayed, parallel_config  # an eighth of a second
    from joblib.externals.loky import get_reusable_executor
    from joblib.externals.loky.process_executor import BrokenProcessPool

    batches = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    reports = []
    try:
        with (
            parallel_config("loky", n_jobs=min(cores(), MOST), inner_max_num_threads=1, idle_worker_timeout=IDLE),
            tqdm(total=len(rows), desc=desc, disable=quiet, leave=False, dynamic_ncols=True) as bar,
        ):
            calls = (delayed(_write_batch)(write_rows, raw, batch) for batch in batches)
            for batch, report in zip(batches, Parallel(return_as="generator")(calls), strict=True):
                reports.append(report)
                bar.update(len(batch))
    except BrokenProcessPool as error:
        raise WorkerError(f"a process that was {desc} ended early; run again. {error}") from None
    finally:
        get_reusable_executor().shutdown(kill_workers=True)  # idle ones would keep their memory for minutes
    return reports


def _write_batch(write_rows: Callable[[int, Sequence[Any]], Report], raw: Path, rows: Sequence[Any]) -> Report:
    try:
        with open(raw, "r+b") as out:
            return write_rows(out.fileno(), rows)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(raw)) from None
