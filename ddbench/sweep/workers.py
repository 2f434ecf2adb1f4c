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
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from queue import SimpleQueue
from typing import Protocol, TypeVar

from filelock import Timeout
from tqdm import tqdm

from ddbench.errors import UserError, disk_error
from ddbench.runner.plan import ExecutionSettings
from ddbench.runner.run import TaskCounts
from ddbench.store.failures import Failure

log = logging.getLogger("ddbench")

PATIENCE = 5  # seconds that a job waits for another process that does it; then other jobs come first
SCHEDULER_TIMEOUT = 5  # seconds
ATTEMPTS = 3  # starts of a job whose process dies

Submit = Callable[..., Future]
_one_at_a_time = threading.Lock()  # a worker with several threads would mix the seeds of two jobs
_device = ""  # of this process, in place of the settings'; only processes of `local` have one


class DiedError(Exception):
    """The process of a job died. retryable: False for a cluster, which has tried again by itself."""

    def __init__(self, retryable: bool) -> None:
        super().__init__("its process died, perhaps for lack of memory")
        self.retryable = retryable


class Job(Protocol):
    """A piece of work of its own, as plain values that can be sent to another process."""

    @property
    def title(self) -> str:
        """The job in words, different for every job."""
        ...

    @property
    def done(self) -> bool:
        """True if nothing of it is missing."""
        ...

    @property
    def earlier_failure(self) -> Failure | None:
        """The recorded failure that a run without `retry` would report."""
        ...

    def run(self, settings: ExecutionSettings, retry: bool) -> TaskCounts:
        """Do what is missing of the job; filelock.Timeout when another process does it.

        Raises UserError, also for missing data.
        """
        ...

    def record(self, failure: Failure) -> None:
        """Record a failure that `run` could not record."""
        ...


AnyJob = TypeVar("AnyJob", bound=Job)


def run_job(job: Job, settings: ExecutionSettings, retry: bool) -> TaskCounts | None:
    """Run a job in this process; return None when another process does it. Failures are recorded, not raised.

    Raises the error of a disk that is full or read-only.
    """
    with _one_at_a_time:
        try:
            return job.run(replace(settings, patience=PATIENCE, device=_device or settings.device), retry)
        except Timeout:
            return None
        except UserError as error:
            if disk_error(error):
                raise
            job.record(Failure("failed", str(error), ""))
            log.error("%s: %s", job.title, error)
            return TaskCounts(failed=1)


def carry_out(
    jobs: Sequence[AnyJob], submit: Callable[[AnyJob], Future], on_done: Callable[[AnyJob, str, int], None]
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


def carry_out_here(
    jobs: Sequence[AnyJob], settings: ExecutionSettings, retry: bool, on_done: Callable[[AnyJob, str, int], None]
) -> TaskCounts:
    """Do every job in this process, and call `on_done` as `carry_out` does; those that another does come last."""
    counts: Counter[str] = Counter()
    waiting = deque(jobs)
    while waiting:
        job = waiting.popleft()
        done = run_job(job, settings, retry)
        if done is None:
            waiting.append(job)
            continue
        status = _status(done)
        counts[status] += 1
        on_done(job, status, counts.total())
    return TaskCounts(**counts)


def _status(counts: TaskCounts) -> str:
    return "failed" if counts.failed else "done" if counts.done else "existing"


def _job_status(job: Job, future: Future, deaths: Counter[str]) -> str:
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
        return _status(counts)
    job.record(failure)
    log.error("%s: %s; --retry repeats it", job.title, failure.error)
    return "failed"


@contextmanager
def local(jobs: int, prepare: Callable[[], None], devices: Sequence[str] = ()) -> Iterator[Submit]:
    """Start `jobs` processes on this machine, each of which calls `prepare` first; they end with this process.

    Each is a pool of its own: a process that dies breaks its whole pool.
    devices: each process computes on one of them, as equally many as can be on each; none for the settings' own.
    """
    threads = max(1, (os.cpu_count() or 1) // jobs)
    fresh = multiprocessing.get_context("spawn")  # no fork: it would inherit threads
    free: SimpleQueue[tuple[Callable[[], ProcessPoolExecutor], ProcessPoolExecutor]] = SimpleQueue()
    for i in range(jobs):
        device = devices[i % len(devices)] if devices else ""
        start = partial(ProcessPoolExecutor, 1, fresh, _start_process, (threads, prepare, device))
        free.put((start, start()))

    def do(work: Callable, *args: object) -> object:
        start, pool = free.get()
        try:
            return pool.submit(work, *args).result()
        except BrokenProcessPool:
            pool.shutdown()
            pool = start()
            raise DiedError(retryable=True) from None
        finally:
            free.put((start, pool))

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
            free.get()[1].shutdown()


def _start_process(threads: int, prepare: Callable[[], None], device: str) -> None:
    """Give a new process its share of the cores and its device, and end it when its parent ends."""
    global _device
    _device = device
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who began it ends it
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    tqdm.set_lock(threading.RLock())  # its own is a semaphore too, which a killed process leaves and Python warns of
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
