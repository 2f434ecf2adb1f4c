"""A tenth of benchmarks/malformed.py: damaged inputs are refused with a clear word, or read as others read them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "malformed.py"


@pytest.mark.slow
def test_a_tenth_of_the_damaged_inputs_raise_nothing():
    command = [sys.executable, SCRIPT, "--share", "0.1", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["inputs"] >= 95
    kinds = figures["kinds"].values()
    wrong = ("wrong", "traceback", "slow", "died")
    assert not any(kind[state] for kind in kinds for state in wrong), done.stdout
    assert sum(kind["refused"] for kind in kinds) >= 50
    assert sum(kind["read"] for kind in kinds) >= 15
