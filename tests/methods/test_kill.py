"""A process of DPD that is killed while it fine-tunes goes on from its checkpoint, to the same images."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from third_party import write_images

from ddbench import distilled
from ddbench.files import read_json


def command(pipeline: Path, place: Path, images: Path) -> list[str]:
    sets = [f"base={pipeline}", "captioner=template", "consistency=0", "tune_steps=320", "tune_batch=2", "steps=2"]
    options = [word for value in sets for word in ("--set", value)]
    places = ["--runs", str(place / "runs"), "--shared", str(place / "shared"), "--device", "cpu"]
    words = ["run", "--method", "dpd", "--dataset", f"folder:{images}", "--ipc", "2", "--student", "convnet", *options]
    return [sys.executable, "-m", "ddbench", "-q", *places, *words]


def content(place: Path) -> str:
    return distilled.read(next((place / "runs").glob("*/dpd/ipc2/*/distilled"))).content()


@pytest.mark.slow
def test_killed_while_fine_tuning(pipeline, tmp_path):
    images = write_images(tmp_path / "images", {"barn": 6, "pond": 6}, size=32)
    quiet = {"env": os.environ | {"OMP_NUM_THREADS": "1"}, "capture_output": True, "check": True}
    subprocess.run(command(pipeline, tmp_path / "whole", images), **quiet)
    shared = tmp_path / "killed" / "shared"
    victim = subprocess.Popen(command(pipeline, tmp_path / "killed", images), env=quiet["env"])
    deadline = time.monotonic() + 300
    while not list(shared.glob(".finetune-*.checkpoints/state.safetensors")):
        assert victim.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    victim.kill()
    victim.wait()
    assert not list(shared.glob("finetune-*"))
    subprocess.run(command(pipeline, tmp_path / "killed", images), **quiet)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    costs = read_json(next((tmp_path / "killed" / "runs").glob("*/dpd/ipc2/*/distill.json")))["stages"]
    assert next(cost for cost in costs if cost["stage"] == "finetune")["earlier_seconds"] > 0
    assert not list(shared.glob(".*partial*"))
