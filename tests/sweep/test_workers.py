"""Jobs in real processes: done, failing, killed, begun again; two sweeps at once; Ctrl-C; a Dask cluster."""

import errno
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from third_party import few, results_and_problems, run_command, write_images

from ddbench.cli.common import log_to_stderr
from ddbench.datasets.info import DataPaths
from ddbench.runner.plan import ExecutionSettings
from ddbench.runner.run import TaskCounts
from ddbench.store import failures, reader
from ddbench.sweep import grid as sweeps
from ddbench.sweep import workers as sweeping

METHOD = '''
"""A method that notes when it is begun, and then may die, hang, fail or ask, as its settings say."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ddbench.errors import UserError
from ddbench.types import DistilledSet


@dataclass(frozen=True)
class Mortal:
    name: ClassVar[str] = "mortal"
    version: ClassVar[int] = 1
    deaths: int = 0
    hangs: int = 0
    fails: bool = False
    asks: bool = False

    def distill(self, train, ipc, ctx):
        log = ctx.shared / f"begun-{self.deaths}-{self.hangs}-{self.fails}-{self.asks}-{ctx.seed}.txt"
        with open(log, "a") as out:
            out.write(f"{os.getpid()}\\n")
        times = len(log.read_text().splitlines())
        if times <= self.deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        if times <= self.hangs:
            time.sleep(600)
        if self.fails:
            raise RuntimeError("out of ideas")
        if self.asks:
            raise UserError("there is no base model; get it from a shop")
        index = [i for c in range(len(train.classes)) for i in train.of_class(c)[:ipc].tolist()]
        return DistilledSet(train.images[index], train.labels[index], train.classes, train.readable)
'''
PLAN = """
datasets = ["folder:{home}/images"]
ipcs = [1]
protocols = ["{home}/few.toml"]
methods = [{methods}]
"""
LIMIT = 120  # seconds after which something hangs


@pytest.fixture
def home(tmp_path):
    write_images(tmp_path / "images", {"barn": 4, "pond": 4})
    (tmp_path / "mortal.py").write_text(METHOD)
    (tmp_path / "few.toml").write_text(few(5))
    return tmp_path


def plan(home, *sets, seeds=1):
    """A plan of the method with each of the settings."""
    one = '{{ method = "{home}/mortal.py:Mortal", set = [{sets}], seeds = {seeds} }}'
    methods = ", ".join(one.format(home=home, seeds=seeds, sets=f'"{s}"' if s else "") for s in sets)
    (home / "plan.toml").write_text(PLAN.format(home=home, methods=methods))
    return home / "plan.toml"


def jobs(home, path):
    return sweeps.sweep_jobs(*sweeps.read_plan(path), data_paths(home), home / "runs")


def data_paths(home):
    return DataPaths(None, home / "shared", True)


def setting(home):
    return ExecutionSettings(home / "runs", data_paths(home), "cpu", True)


def begun(home, words):
    """The processes that began a job."""
    found = home / "shared" / f"begun-{words}.txt"
    return [int(line) for line in found.read_text().split()] if found.exists() else []


def command(home, *words):
    head = [sys.executable, "-m", "ddbench", "--runs", home / "runs", "--shared", home / "shared", "--device", "cpu"]
    return [str(word) for word in [*head, "sweep", home / "plan.toml", *words]]


def started(home, *words):
    """Begun where Ctrl-C counts: a shell has what it starts in the background ignore it."""
    heeding = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(
        command(home, *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heeding
    )


def until(seen):
    deadline = time.monotonic() + LIMIT
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def gone(process):
    """Whether a process has ended, be it that nobody has asked for its status."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_what_happens_to_a_job_costs_that_job(home, monkeypatch):
    monkeypatch.setattr(sweeping, "ATTEMPTS", 2)
    grid = jobs(home, plan(home, "", "deaths=1", "deaths=9", "fails=true", "asks=true"))
    told = []
    with sweeping.local(2, partial(log_to_stderr, logging.CRITICAL)) as submit:
        how = lambda job: submit(sweeping.run_job, job, setting(home), False)  # noqa: E731
        tally = sweeping.carry_out(grid, how, lambda *line: told.append(line))
    assert tally == TaskCounts(done=2, failed=3)
    assert sorted(number for _, _, number in told) == [1, 2, 3, 4, 5]
    fine, revived, dead, failing, asking = grid
    assert [job.missing for job in (fine, revived)] == [[], []]
    assert len(set(begun(home, "1-0-False-False-0"))) == len(begun(home, "9-0-False-False-0")) == 2
    recorded = {job.title: failures.read_failure(job.folder) for job in (dead, failing, asking)}
    assert [failure.status for failure in recorded.values()] == ["died", "failed", "failed"]
    assert "out of ideas" in recorded[failing.title].trace
    assert recorded[asking.title].error == "there is no base model; get it from a shop"
    assert all(job.earlier_failure for job in (dead, failing, asking))
    assert len(reader.read_runs(home / "runs").results) == 2


def die_twice(folder):
    """Kill this process where it starts, if it is the first or the second one."""
    for number in (1, 2):
        with suppress(FileExistsError):
            (folder / f"died-{number}").touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_process_that_dies_before_a_job_begins_costs_no_job(home):
    grid = jobs(home, plan(home, "", seeds=2))
    with sweeping.local(1, partial(die_twice, home)) as submit:
        how = lambda job: submit(sweeping.run_job, job, setting(home), False)  # noqa: E731
        assert sweeping.carry_out(grid, how, lambda *line: None) == TaskCounts(done=2)
    assert (home / "died-2").exists()


def test_a_future_that_was_taken_back_is_a_death_and_no_wait():
    inner = Future()
    outer = sweeping._with_died_error(inner, KeyError)
    inner.cancel()
    with pytest.raises(sweeping.DiedError):
        outer.result(timeout=5)


def test_waiting_for_another_is_no_death_and_a_death_is_the_task_that_has_no_failure_yet(home):
    (job,) = jobs(home, plan(home, ""))
    outcomes = [
        None,
        None,
        sweeping.DiedError(retryable=True),
        sweeping.DiedError(retryable=True),
        sweeping.DiedError(retryable=True),
    ]

    def submit(job):
        future = Future()
        found = outcomes.pop(0)
        future.set_exception(found) if isinstance(found, Exception) else future.set_result(found)
        return future

    failures.write_failure(job.tasks[0].path, failures.Failure("oom", "its own", "trace"))
    assert sweeping.carry_out([job], submit, lambda *_: None) == TaskCounts(failed=1)
    assert outcomes == []
    assert [failures.read_failure(task.path).status for task in job.tasks] == ["oom", "died"]


@pytest.mark.slow
def test_a_sweep_by_its_command(home):
    plan(home, "", "fails=true", seeds=2)
    words = command(home)[3:]
    planned = lambda *more: run_command(*words, "--dry-run", *more).stdout  # noqa: E731
    assert "4 jobs, 8 tasks to do; time unknown: no finished run is similar" in planned()
    assert not (home / "runs").exists()
    first = subprocess.run(command(home, "--jobs", "2"), capture_output=True, text=True)
    assert first.returncode == 1, first.stderr
    assert "4 jobs: 2 done now, 2 failed, 0 done before" in first.stderr
    assert "100.0 (n=1)" in first.stdout  # two seeds, and the same images
    again = run_command(*words, status=1).stderr
    assert "4 jobs: 0 done now, 2 failed, 2 done before" in again
    assert len(re.findall(r"failed earlier \(.+\); --retry repeats it", again)) == 2
    assert len(begun(home, "0-0-True-False-0")) == 1
    run_command(*words, "--retry", status=1)
    assert len(begun(home, "0-0-True-False-0")) == 2
    assert "4 jobs, 0 tasks to do; nothing to do" in planned()
    assert len(re.findall(r"\(failed earlier \(.+\); --retry repeats it\)", planned())) == 2
    assert "4 jobs, 4 tasks to do" in planned("--retry")
    assert "failed earlier" not in planned("--retry")
    next((home / "runs").rglob("results/*/*.json")).write_text("{")
    run_command(*words, status=1)


@pytest.mark.slow
def test_two_sweeps_at_once_share_the_work(home):
    plan(home, "", seeds=4)
    both = [started(home), started(home)]
    said = [process.communicate(timeout=LIMIT)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert [len(begun(home, f"0-0-False-False-{seed}")) for seed in range(4)] == [1] * 4
    assert sum(int(line.split()[2]) for text in said for line in text.splitlines() if "done now" in line) == 4
    entries, problems = results_and_problems(home / "runs")
    assert (len(entries), problems) == (4, [])


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_it_ends_with_what_it_began_and_goes_on_later(home, how):
    plan(home, "hangs=1", seeds=2)
    process = started(home, "--jobs", "2")
    until(lambda: all(begun(home, f"0-1-False-False-{seed}") for seed in (0, 1)))
    workers = [begun(home, f"0-1-False-False-{seed}")[0] for seed in (0, 1)]
    process.send_signal(how)
    _, stderr = process.communicate(timeout=LIMIT)
    assert process.returncode != 0
    assert how == signal.SIGKILL or "leaked semaphore" not in stderr
    until(lambda: all(gone(worker) for worker in workers))
    assert all(len(job.missing) == 2 for job in jobs(home, home / "plan.toml"))
    again = subprocess.run(command(home), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "2 jobs: 2 done now, 0 failed" in again.stderr


@pytest.fixture
def scheduler(tmp_path):
    """The address of a real scheduler with two workers, processes of this machine."""
    env = os.environ | {"DASK_DISTRIBUTED__SCHEDULER__WORK_STEALING": "False", "OMP_NUM_THREADS": "1"}
    run = lambda *words: subprocess.Popen([sys.executable, "-m", "dask", *map(str, words)], env=env, cwd=tmp_path,  # noqa: E731
                                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    told = tmp_path / "scheduler.json"
    head = run("scheduler", "--host", "127.0.0.1", "--port", 0, "--no-dashboard", "--scheduler-file", told)
    until(told.exists)
    address = json.loads(told.read_text())["address"]
    workers = [run("worker", address, "--nthreads", 2, "--no-dashboard", "--no-nanny") for _ in range(2)]
    yield address, workers
    for process in (head, *workers):
        process.kill()
        process.wait()


@pytest.mark.slow
def test_on_a_cluster_a_lost_worker_costs_no_job(home, scheduler):
    address, workers = scheduler
    text = plan(home, "hangs=1", "", seeds=1).read_text()
    (home / "plan.toml").write_text(text.replace("set = [], seeds = 1", "set = [], seeds = 3"))
    process = started(home, "--scheduler", address)
    until(lambda: begun(home, "0-1-False-False-0"))
    (victim,) = begun(home, "0-1-False-False-0")
    assert victim in [worker.pid for worker in workers]
    os.kill(victim, signal.SIGKILL)
    said = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, said
    assert "4 jobs: 4 done now, 0 failed" in said[1]
    assert len(set(begun(home, "0-1-False-False-0"))) == 2
    assert [len(begun(home, f"0-0-False-False-{seed}")) for seed in range(3)] == [1, 1, 1]


def test_a_full_disk_ends_a_sweep_and_is_no_failure(home):
    (job,) = jobs(home, plan(home, ""))
    full: Future = Future()
    full.set_exception(OSError(errno.ENOSPC, "No space left on device", "a.json"))
    with pytest.raises(OSError, match=r"a\.json"):
        sweeping.carry_out([job], lambda job: full, lambda *done: None)
    assert failures.read_failure(job.folder) is None


def test_no_scheduler_there_is_said(home, monkeypatch):
    monkeypatch.setattr(sweeping, "SCHEDULER_TIMEOUT", 0.3)
    plan(home, "")
    words = command(home)[3:]
    both = run_command(*words, "--jobs", "2", "--scheduler", "tcp://h:1", status=2)
    assert "--jobs and --scheduler exclude each other" in both.stderr
    done = run_command(*words, "--scheduler", "tcp://127.0.0.1:9", status=2)
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in done.stderr
