"""Run the jobs of a sweep in processes of this machine or on a cluster, through futures. No torch in this process.

A job that fails, or whose process is killed, stops no other job. Several sweeps may work on one runs folder.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from queue import SimpleQueue

from filelock import Timeout

from ddbench.errors import UserError, disk_error
from ddbench.runner import plan as planning
from ddbench.runner import run
from ddbench.runner.plan import ExecutionSettings
from ddbench.runner.run import TaskCounts
from ddbench.store.records import Failure, read_failure, write_failure, write_spec
from ddbench.sweep.grid import SweepJob

log = logging.getLogger("ddbench")

PATIENCE = 5  # seconds that a job waits for another process that does it; then other jobs come first
SCHEDULER_TIMEOUT = 5  # seconds
ATTEMPTS = 3  # starts of a job whose process dies

Submit = Callable[..., Future]
_one_at_a_time = threading.Lock()  # a worker with several threads would mix the seeds of two jobs


class DiedError(Exception):
    """The process of a job died. retryable: False for a cluster, which has tried again by itself."""

    def __init__(self, retryable: bool) -> None:
        super().__init__("its process died, perhaps for lack of memory")
        self.retryable = retryable


def run_job(job: SweepJob, settings: ExecutionSettings, retry: bool) -> TaskCounts | None:
    """Run a job in this process; return None when another process does it. Failures are recorded, not raised.

    Raises the error of a disk that is full or read-only.
    """
    with _one_at_a_time:
        try:
            return _run_protocols(job, replace(settings, patience=PATIENCE), retry)
        except Timeout:
            return None
        except UserError as error:
            if disk_error(error):
                raise
            _record(job, Failure("failed", str(error), ""))
            log.error("%s: %s", job.title, error)
            return TaskCounts(failed=1)


def _run_protocols(job: SweepJob, settings: ExecutionSettings, retry: bool) -> TaskCounts:
    """Do the missing tasks of a job, protocol after protocol."""
    evaluations = [planning.evaluation_setup(job.students, protocol, job.student_seeds) for protocol in job.protocols]
    plans = planning.plans_for_protocols(job.request, evaluations, settings.data_paths)
    if plans[0].specs[0].digest != job.tasks[0].spec.digest:
        reason = "its code or data differ from where the sweep started"
        raise UserError(f"{job.title}: this worker would compute another run: {reason}")
    counts = TaskCounts()
    for plan in plans:
        counts += run.run(plan, settings, retry) or TaskCounts()
        if read_failure(job.folder):  # of the distillation: there is no set to train students on
            break
    return counts


def _record(job: SweepJob, failure: Failure) -> None:
    """Record a failure at the first missing task of a job that has none yet."""
    missing = job.missing or [job.tasks[0]]
    task = next((task for task in missing if not read_failure(task.path)), missing[0])
    write_spec(task.folder, task.spec)
    write_failure(task.path, failure)


def carry_out(
    jobs: Sequence[SweepJob], submit: Callable[[SweepJob], Future], on_done: Callable[[SweepJob, str, int], None]
) -> TaskCounts:
    """Submit every job, in order as far as possible, and call `on_done(job, status, number)` after each.

    A job that another sweep does is submitted again; one whose process died gets ATTEMPTS in all. Raises OSError for a
    disk that is full or read-only.
    """
    deaths: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    running = {submit(job): job for job in jobs}
    while running:
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            job = running.pop(future)
            status = _job_status(job, future, deaths)
            if status:
                counts[status] += 1
                on_done(job, status, counts.total())
            else:
                running[submit(job)] = job
    return TaskCounts(**counts)


def _job_status(job: SweepJob, future: Future, deaths: Counter[str]) -> str:
    """Return "done", "failed" or "existing"; an empty text for a job that must be submitted again."""
    try:
        counts = future.result()
    except DiedError as error:
        deaths[job.title] += 1
        if error.retryable and deaths[job.title] < ATTEMPTS:
            log.warning("%s: %s; starting it again", job.title, error)
            return ""
        failure = Failure("died", str(error), "")
    except Exception as error:
        if disk_error(error):  # no other job could write either
            raise
        failure = Failure("failed", f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error)))
    else:
        if counts is None:
            return ""
        return "failed" if counts.failed else "done" if counts.done else "existing"
    _record(job, failure)
    log.error("%s: %s; --retry repeats it", job.title, failure.error)
    return "failed"


@contextmanager
def local(jobs: int, prepare: Callable[[], None]) -> Iterator[Submit]:
    """Start `jobs` processes on this machine, each of which calls `prepare` first; they end with this process.

    Each is a pool of its own: a process that dies breaks its whole pool.
    """
    threads = max(1, (os.cpu_count() or 1) // jobs)
    fresh = multiprocessing.get_context("spawn")  # no fork: it would inherit threads
    start = partial(ProcessPoolExecutor, 1, fresh, _start_process, (threads, prepare))
    free: SimpleQueue[ProcessPoolExecutor] = SimpleQueue()
    for _ in range(jobs):
        free.put(start())

    def do(work: Callable, *args: object) -> object:
        pool = free.get()
        try:
            return pool.submit(work, *args).result()
        except BrokenProcessPool:
            pool.shutdown()
            pool = start()
            raise DiedError(retryable=True) from None
        finally:
            free.put(pool)

    waiting = ThreadPoolExecutor(jobs)
    try:
        yield lambda work, *args: waiting.submit(do, work, *args)
    except BaseException:
        waiting.shutdown(wait=False, cancel_futures=True)
        while free.qsize() < jobs:  # again, for a process that is being started
            for process in multiprocessing.active_children():
                process.kill()
            time.sleep(0.01)
        raise
    finally:
        waiting.shutdown()
        for _ in range(jobs):
            free.get().shutdown()


def _start_process(threads: int, prepare: Callable[[], None]) -> None:
    """Give a new process its share of the cores, and end it when its parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who began it ends it
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    prepare()
    threading.Thread(target=_watch, args=(multiprocessing.parent_process(),), daemon=True).start()


def _watch(parent: multiprocessing.Process) -> None:
    parent.join()
    os._exit(1)


@contextmanager
def cluster(address: str) -> Iterator[Submit]:
    """Submit to the workers of a Dask scheduler; jobs that have not begun when this process ends are cancelled."""
    try:
        from distributed import Client, KilledWorker
    except ImportError:
        raise UserError("--scheduler needs the library `distributed`: pip install 'ddbench[dask]'") from None
    try:
        client = Client(address, timeout=SCHEDULER_TIMEOUT)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"no Dask scheduler answers at {address} ({error}); an address is tcp://HOST:8786") from None
    with client:
        executor = client.get_executor(pure=False)
        try:
            yield lambda work, *args: _with_died_error(executor.submit(work, *args), KilledWorker)
        finally:
            executor.shutdown(wait=False)


def _with_died_error(inner: Future, died: type[Exception]) -> Future:
    """Return the same future, with DiedError in place of the cluster's own error, or if it was cancelled."""
    outer: Future = Future()

    def pass_on(done: Future) -> None:
        error = None if done.cancelled() else done.exception()
        if done.cancelled() or isinstance(error, died):
            outer.set_exception(DiedError(retryable=False))
        elif error is not None:
            outer.set_exception(error)
        else:
            outer.set_result(done.result())

    inner.add_done_callback(pass_on)
    return outer
