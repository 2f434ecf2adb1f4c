"""Commands open no network address that they were not asked for, also without the variables that switch hubs off."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from third_party import few, write_images

from ddbench import registry

OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "DIFFUSERS_OFFLINE")

# Python imports this in every process, those of a sweep too; unix sockets have no tuple for an address
HOOK = """
import os, sys

def note(event, args):
    if event in ("socket.getaddrinfo", "socket.gethostbyname") or (
        event in ("socket.connect", "socket.sendto") and isinstance(args[1], tuple)
    ):
        with open(os.environ["NOTED"], "a") as out:
            out.write(f"{event} {args[-1] if event == 'socket.connect' else args[0]}\\n")

sys.addaudithook(note)
"""
CHILD = """
import json, sys
from click.testing import CliRunner
from ddbench.cli.main import cli

for words in json.loads(sys.argv[1]):
    outcome = CliRunner().invoke(cli, words)
    assert outcome.exit_code == 0, (words, outcome.output, outcome.exception)
"""
STUDENT = ("--dataset", "folder:images", "--size", "16", "--protocol", "few.toml")
RUN = ("run", *STUDENT, "--ipc", "1")
PLAN = (
    'datasets = ["folder:images"]\nsizes = [16]\nipcs = [1]\nprotocols = ["few.toml"]\nmethods = ["random"]\nseeds = 2'
)
COMMANDS = [
    [*RUN, "--method", "random"],
    ["evaluate", "images", *STUDENT],
    ["sweep", "plan.toml"],
    ["leaderboard", "--with", "seconds"],
    ["report", "--output", "page.html"],
    ["export", "results", "ours.jsonl"],
    *(["show", name] for name in ("dpd", "ucm", "quick@1", "resnet18")),
    ["list", "methods"],
    ["data", "list"],
    ["data", "verify", "folder:images"],
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with images of 16 px, a protocol of two steps, a plan, and Python's hook."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images", {"barn": 6, "pond": 6}, 16)
    (tmp_path / "few.toml").write_text('like = "quick@1"\n' + few(2))
    (tmp_path / "plan.toml").write_text(PLAN)
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook/sitecustomize.py").write_text(HOOK)
    return tmp_path


def noted(here, code, *words):
    """Run code in a process of its own; return the addresses that it and its children looked up or opened."""
    path = here / "noted"
    path.write_text("")
    paths = (here / "hook", Path(__file__).parents[1])
    env = {name: value for name, value in os.environ.items() if name not in OFFLINE}
    env |= {"PYTHONPATH": os.pathsep.join(map(str, paths)), "NOTED": str(path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code, *words], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return path.read_text().splitlines()


def test_the_hook_notes_what_is_opened(here):
    code = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('127.0.0.1', 9))"
    assert noted(here, code) == ["socket.connect ('127.0.0.1', 9)"]
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}], check=True)"
    assert len(noted(here, child)) == 1


def test_commands_open_no_address(here):
    assert noted(here, CHILD, json.dumps(COMMANDS)) == []
    assert (here / "page.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("method", registry.names("methods"))
def test_no_method_opens_an_address(here, method):
    """Each distils on few images with few steps (`ddbench check`): embeddings, teachers, the embedded base."""
    assert noted(here, CHILD, json.dumps([["check", method]])) == []
