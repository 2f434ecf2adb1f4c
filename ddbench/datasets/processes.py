"""Write the rows of a file in several processes. No torch.

joblib's processes are fresh interpreters: a fork after torch has started its threads is not safe, and what
`multiprocessing` spawns runs the user's script again.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from ddbench.utils.progress import progress_bar

Report = TypeVar("Report")

BATCH = 32  # rows per report
MOST = 16  # processes: each has about 60 MB


class WorkerError(RuntimeError):
    """A worker process ended before its rows were done."""


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_workers(
    write_rows: Callable[[int, Sequence[Any]], Report], raw: Path, rows: Sequence[Any], desc: str, quiet: bool
) -> list[Report]:
    """Have `write_rows(descriptor, rows)` write batches of rows to the existing file `raw`; return what it returned.

    One process per core, one thread each; threads of this process where the system gives it no semaphore. Raises
    OSError for a disk that is full, WorkerError for a process that ends early.
    """
    from joblib import Parallel, delayed, parallel_config  # an eighth of a second
    from joblib.externals.loky import get_reusable_executor
    from joblib.externals.loky.process_executor import BrokenProcessPool

    options: dict[str, Any] = (
        {"backend": "loky", "inner_max_num_threads": 1} if _semaphores() else {"backend": "threading"}
    )
    batches = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    reports = []
    try:
        with (
            parallel_config(n_jobs=min(cores(), MOST), **options),
            progress_bar(total=len(rows), desc=desc, hidden=quiet) as bar,
        ):
            calls = (delayed(_write_batch)(os.getpid(), write_rows, raw, batch) for batch in batches)
            for batch, report in zip(batches, Parallel(return_as="generator")(calls), strict=True):
                reports.append(report)
                bar.update(len(batch))
    except BrokenProcessPool as error:
        raise WorkerError(f"a process that was {desc} ended early; run again. {error}") from None
    finally:
        if options["backend"] == "loky":
            get_reusable_executor().shutdown(kill_workers=True)  # idle ones would keep their memory for minutes
    return reports


def _semaphores() -> bool:
    """Return whether loky's processes can be started: not where /dev/shm is missing, full or read-only."""
    try:
        multiprocessing.get_context("spawn").Lock()
    except (ImportError, OSError):
        return False
    return True


def _write_batch(
    parent: int, write_rows: Callable[[int, Sequence[Any]], Report], raw: Path, rows: Sequence[Any]
) -> Report:
    if os.getpid() != parent:
        _end_with(parent)
    try:
        with open(raw, "r+b") as out:
            return write_rows(out.fileno(), rows)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(raw)) from None


@cache
def _end_with(parent: int) -> None:
    """End this process within a second of its parent's end: loky's wait for minutes after a parent that was killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
