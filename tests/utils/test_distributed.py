"""`accelerate launch` with two processes on the CPU, through the command line, against one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from third_party import few, write_images

from ddbench.cli.main import cli
from ddbench.store import distilled_set
from ddbench.utils.distributed import SINGLE_PROCESS, ProcessGroup
from ddbench.utils.files import read_json

LAUNCH = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1")
PLAIN = ("--mixed_precision", "no", "--dynamo_backend", "no")


def test_one_process_is_the_lead_of_itself():
    assert (SINGLE_PROCESS.is_lead, SINGLE_PROCESS.all_gather([1, 2]), SINGLE_PROCESS.broadcast("go")) == (
        True,
        [1, 2],
        "go",
    )
    assert [list(range(7))[ProcessGroup(rank, 3).shard] for rank in range(3)] == [[0, 3, 6], [1, 4], [2, 5]]


def launch(place: Path, *words: str) -> subprocess.CompletedProcess:
    """The command in two processes, runs and stages in `place`."""
    command = [sys.executable, *LAUNCH, *PLAIN, "-m", "ddbench", *places(place), *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def places(place: Path) -> list[str]:
    return ["--runs", str(place / "runs"), "--shared", str(place / "shared")]


@pytest.fixture
def words(pipeline, tmp_path):
    images = write_images(tmp_path / "images", {"barn": 12, "pond": 12}, size=32)
    sets = [
        "captioner=palette",
        "tune_steps=5",
        "tune_batch=5",
        "tune_ema=0.9",
        "classifier_steps=3",
        "classifier_views=40",
        "candidates=3",
        "polish_steps=2",
        "steps=3",
        "batch=4",
    ]
    options = [word for value in [f"base={pipeline}", *sets] for word in ("--set", value)]
    (tmp_path / "short.toml").write_text(few(3))
    student = ["--student", "convnet", "--protocol", str(tmp_path / "short.toml")]
    return ["run", "--method", "dpd", "--dataset", f"folder:{images}", "--ipc", "2", *student, *options]


def found(place: Path) -> tuple[np.ndarray, list[str]]:
    """The images, and what lies in the run's folder."""
    run = next((place / "runs").glob("*/dpd/ipc2/seed0-*"))
    files = [str(path.relative_to(run)) for path in run.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return distilled_set.read(run / "distilled").images.astype(int), sorted(files)


@pytest.mark.slow
def test_two_processes_make_the_images_of_one(words, tmp_path):
    alone = CliRunner().invoke(cli, [*places(tmp_path / "one"), *words])
    assert alone.exit_code == 0, alone.output
    both = launch(tmp_path / "two", *words)
    assert both.returncode == 0, both.stderr
    (one, files), (two, others) = found(tmp_path / "one"), found(tmp_path / "two")
    assert np.abs(one - two).max() <= 1
    assert files == others
    assert both.stdout.count("dpd") == alone.stdout.count("dpd")  # the table, printed once
    costs = read_json(next((tmp_path / "two" / "runs").glob("*/dpd/ipc2/*/distill.json")))
    assert {cost["stage"] for cost in costs["stages"]} >= {"finetune", "sampling", "polishing"}


@pytest.mark.slow
def test_a_failure_ends_all_processes_and_what_is_done_needs_none(words, tmp_path):
    failed = launch(tmp_path, *words, "--set", "tune_rate=1e30")
    assert failed.returncode != 0
    assert "the loss became" in failed.stderr
    assert list((tmp_path / "runs").rglob("failed.json"))
    done = launch(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    again = launch(tmp_path, *words)
    assert again.returncode == 0, again.stderr
    assert "nothing to do" in again.stderr
