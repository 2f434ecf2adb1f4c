"""Students of a run side by side, and jobs on several devices."""

import json
import time
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from third_party import few, run_command, write_images

from ddbench.datasets.info import DataPaths
from ddbench.errors import UserError
from ddbench.runner import evaluation
from ddbench.runner.plan import ExecutionSettings
from ddbench.runner.run import TaskCounts
from ddbench.sweep import workers
from ddbench.utils import distributed

STUDENTS = ("--student", "convnet", "--student-seeds", "3")


@pytest.fixture
def home(tmp_path):
    write_images(tmp_path / "images", {"barn": 4, "pond": 4})
    (tmp_path / "few.toml").write_text(few(5))
    return tmp_path


def run_random(home, runs, *words, before=(), status=0):
    folders = ("--runs", home / runs, "--shared", home / "shared")
    what = ("--method", "random", "--dataset", f"folder:{home}/images", "--ipc", "1", "--protocol", home / "few.toml")
    return run_command(*folders, *before, "run", *what, *words, status=status)


def results(home, runs):
    """Return the results of a runs folder by their paths, without time and memory."""
    of_path = {}
    for path in (home / runs).rglob("results/*/*-seed?.json"):
        result = json.loads(path.read_text())
        del result["seconds"], result["memory_bytes"]
        of_path[str(path.relative_to(home / runs))] = result
    return of_path


def submit_here(work, *args):
    """Do the work in this process."""
    future = Future()
    future.set_result(work(*args))
    return future


@pytest.mark.slow
def test_students_side_by_side_give_the_results_of_one_after_another(home, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))  # sums of fewer threads round otherwise
    run_random(home, "one", *STUDENTS)
    said = run_random(home, "several", *STUDENTS, "--jobs", "2", before=("--device", "cpu,cpu"))
    assert len(results(home, "one")) == 3
    assert results(home, "several") == results(home, "one")
    assert "3/3 " in said.stderr
    again = run_random(home, "several", *STUDENTS, "--jobs", "2")
    assert "nothing to do: all results exist already" in again.stderr


def test_a_student_that_fails_beside_others_costs_itself_alone(home, monkeypatch):
    """The jobs of `run --jobs`, in this process: the second of three fails, is recorded, and waits for --retry."""
    monkeypatch.setattr("ddbench.cli.sweep.pool_of", lambda *_: nullcontext(submit_here))
    evaluate = evaluation.evaluate_student

    def fail_once(student_task):
        if student_task.task.seed == 1:
            raise RuntimeError("out of ideas")
        evaluate(student_task)

    monkeypatch.setattr(evaluation, "evaluate_student", fail_once)
    said = run_random(home, "runs", *STUDENTS, "--jobs", "2", status=1)
    assert "RuntimeError: out of ideas" in said.stderr
    assert len(results(home, "runs")) == 2
    monkeypatch.setattr(evaluation, "evaluate_student", evaluate)
    again = run_random(home, "runs", *STUDENTS, "--jobs", "2", status=1)
    assert "--retry repeats it" in again.stderr
    run_random(home, "runs", *STUDENTS, "--jobs", "2", "--retry")
    assert len(results(home, "runs")) == 3


def test_what_the_user_lacks_is_no_failure_of_a_student(home, monkeypatch):
    """An error of the command, as without --jobs: nothing is recorded for each student."""
    run_random(home, "runs", "--student-seeds", "1")

    def lacking(evaluation):
        raise UserError("there are no ImageNet weights: download them")

    monkeypatch.setattr(evaluation, "check_weights", lacking)
    said = run_random(home, "runs", *STUDENTS, "--jobs", "2", status=2)
    assert "there are no ImageNet weights: download them" in said.stderr
    assert not list((home / "runs").rglob("*.failed.json"))


@dataclass(frozen=True)
class Meeting:
    """A job that notes its device and waits until `number` jobs have: no process does two of them."""

    folder: Path
    title: str
    number: int

    def run(self, settings, retry):
        (self.folder / self.title).write_text(settings.device)
        deadline = time.monotonic() + 60
        while len(list(self.folder.iterdir())) < self.number and time.monotonic() < deadline:
            time.sleep(0.02)
        return TaskCounts(done=1)


@pytest.mark.slow
def test_processes_take_the_devices_in_turn(tmp_path):
    meetings = [Meeting(tmp_path, f"job{i}", 3) for i in range(3)]
    settings = ExecutionSettings(tmp_path, DataPaths(None, tmp_path, True), "cuda:0,cuda:1")
    with workers.local(3, int, ("cuda:0", "cuda:1")) as submit:
        done = workers.carry_out(meetings, lambda job: submit(workers.run_job, job, settings, False), lambda *_: None)
    assert done == TaskCounts(done=3)
    assert sorted(path.read_text() for path in tmp_path.iterdir()) == ["cuda:0", "cuda:0", "cuda:1"]


@pytest.mark.parametrize(
    ("before", "words", "said"),
    [
        (("--device", "cpu,gpu"), (), "'gpu' is not one of auto, cpu, cuda"),
        (("--device", "cpu,cuda:99"), (), "there is no device cuda:99"),
        (("--gpu-memory", "0"), (), "0.0 is not in the range x>0"),
        ((), ("--jobs", "0"), "0 is not in the range x>=1"),
    ],
)
def test_devices_that_cannot_be_are_refused(home, before, words, said):
    assert said in run_random(home, "runs", *words, before=before, status=2).stderr
    assert not (home / "runs").exists()


def test_several_devices_are_for_jobs_of_this_machine(home):
    run_random(home, "runs")
    folders = ("--runs", home / "runs", "--shared", home / "shared", "--device", "cpu,cpu")
    one = run_command(*folders, "quality", home / "runs", "--dataset", f"folder:{home}/images", status=2)
    assert "one process uses one device; several are for commands with --jobs" in one.stderr
    words = ("budget", home / "runs", "--dataset", f"folder:{home}/images")
    words += ("--protocol", home / "few.toml", "--scheduler", "tcp://h:1")
    assert "several devices and --scheduler exclude each other" in run_command(*folders, *words, status=2).stderr


def test_a_process_holds_its_share_of_a_gpu(monkeypatch):
    shares = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80 * 2**30))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *call: shares.append(call))
    assert distributed.device("auto") == torch.device("cuda")
    distributed.device("cuda:1", 20)
    distributed.device("auto", 100)
    distributed.device("cpu", 20)
    assert shares == [(0.25, torch.device("cuda:1")), (1.0, torch.device("cuda"))]
