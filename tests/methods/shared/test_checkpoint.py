"""Test checkpoints of optimised tensors, also of processes that are killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from third_party import write_images

from ddbench.methods.shared import checkpoint
from ddbench.store import distilled_set
from ddbench.utils.checkpoint import Checkpoint
from ddbench.utils.files import read_json


def test_the_last_good_state_outlives_one_that_is_not_finite(context_of):
    state, context = {"pixels": torch.zeros(2)}, context_of()
    path = context.workdir / checkpoint.PIXELS

    def step(i):
        state["pixels"].fill_(torch.nan if i == 3 else i + 1)
        return 1.0

    with pytest.raises(FloatingPointError, match="pixels became not finite at iteration 3"):
        checkpoint.optimise_with_checkpoints(state, step, 5, context, Checkpoint(path, every=0.0))
    tensors, progress = Checkpoint(path).load()
    assert (tensors["pixels"].tolist(), progress.step, progress.losses) == ([3.0, 3.0], 3, [1.0, 1.0, 1.0])


def test_losses_that_are_tensors_are_looked_at_together(context_of):
    """The first that is not finite is named; what is kept is from the last look."""
    state, context, looks = {"pixels": torch.zeros(1)}, context_of(), []

    def step(i):
        state["pixels"].fill_(i + 1)
        looks.append(i)
        return torch.tensor(torch.nan if i == 31 else float(i))

    with pytest.raises(FloatingPointError, match="the loss became nan at iteration 31"):
        checkpoint.optimise_with_checkpoints(state, step, 99, context)
    assert looks[-1] == 2 * checkpoint.CHECK_STEPS - 1
    fitted = checkpoint.optimise_with_checkpoints(state, lambda i: torch.tensor(float(i)), 130, context)
    assert fitted.loss == pytest.approx(sum(range(30, 130)) / 100)
    assert Checkpoint(context.workdir / checkpoint.PIXELS).load()[1].losses == list(range(30, 130))


def test_the_state_is_kept_at_the_end_however_short(context_of):
    context = context_of()
    checkpoint.optimise_with_checkpoints({"pixels": torch.zeros(2)}, float, 2, context)
    assert Checkpoint(context.workdir / checkpoint.PIXELS).load()[1].step == 2


def test_a_former_checkpoint_is_resumed(context_of):
    """Written before the seconds were recorded: the steps were called done, the losses recent."""
    context, steps, pixels = context_of(), [], torch.zeros(2)
    context.workdir.mkdir()
    former = {"pixels": torch.full((2,), 5.0), "done": torch.tensor(3), "recent": torch.tensor([1.0, 2.0, 3.0])}
    save_file(former, context.workdir / checkpoint.PIXELS)
    fitted = checkpoint.optimise_with_checkpoints({"pixels": pixels}, lambda i: steps.append(i) or 6.0, 4, context)
    assert (steps, pixels.tolist(), fitted.loss) == ([3], [5.0, 5.0], 3.0)


QUIET = {"env": os.environ | {"OMP_NUM_THREADS": "1"}, "check": True}
MOVING = {
    "dm": ["iterations=130", "batch=4"],
    "dc": ["iterations=70", "outer=2", "inner=1", "batch=4"],
    "mtt": [
        "iterations=130",
        "steps=2",
        "experts=2",
        "epochs=2",
        "latest=1",
        "expert_epochs=1",
        "rate=10",
        "rate_rate=1e-7",
    ],
    "sre2l": ["iterations=65", "epochs=1", "least=2"],
}


def command(method: str, place: Path, images: Path, sets: list[str]) -> list[str]:
    options = [word for value in sets for word in ("--set", value)]
    places = ["--runs", str(place / "runs"), "--shared", str(place / "shared"), "--device", "cpu"]
    words = ["run", "--method", method, "--dataset", f"folder:{images}", "--ipc", "2", "--student", "convnet", *options]
    return [sys.executable, "-m", "ddbench", "-q", *places, *words]


def content(place: Path) -> str:
    return distilled_set.read(next((place / "runs").glob("*/*/ipc2/*/distilled"))).content()


def kill_at(words: list[str], place: Path, pattern: str) -> None:
    """Start a command and kill it as soon as a file below `place` is there."""
    victim = subprocess.Popen(words, env=QUIET["env"])
    deadline = time.monotonic() + 300
    while not list(place.glob(pattern)):
        assert victim.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    victim.kill()
    victim.wait()


@pytest.mark.slow
@pytest.mark.parametrize("method", MOVING)
def test_killed_while_moving_pixels(method, tmp_path):
    images = write_images(tmp_path / "images", {"barn": 6, "pond": 6}, size=32)
    whole, killed = (command(method, tmp_path / name, images, MOVING[method]) for name in ("whole", "killed"))
    subprocess.run(whole, **QUIET)
    kill_at(killed, tmp_path / "killed" / "runs", "*/*/ipc2/*/.work/pixels.safetensors")
    assert not list((tmp_path / "killed" / "runs").glob("*/*/ipc2/*/distilled"))
    subprocess.run(killed, **QUIET)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


@pytest.mark.slow
def test_killed_while_fine_tuning(pipeline, tmp_path):
    images = write_images(tmp_path / "images", {"barn": 6, "pond": 6}, size=32)
    sets = [f"base={pipeline}", "captioner=template", "consistency=0", "tune_steps=320", "tune_batch=2", "steps=2"]
    whole, killed = (command("dpd", tmp_path / name, images, sets) for name in ("whole", "killed"))
    subprocess.run(whole, **QUIET)
    shared = tmp_path / "killed" / "shared"
    kill_at(killed, shared, ".finetune-*.checkpoints/state.safetensors")
    assert not list(shared.glob("finetune-*"))
    subprocess.run(killed, **QUIET)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    costs = read_json(next((tmp_path / "killed" / "runs").glob("*/dpd/ipc2/*/distill.json")))["stages"]
    assert next(cost for cost in costs if cost["stage"] == "finetune")["earlier_seconds"] > 0
    assert not list(shared.glob(".*partial*"))
