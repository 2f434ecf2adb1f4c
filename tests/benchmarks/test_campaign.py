"""A tenth of benchmarks/campaign.py: killed, starved and crowded runs end like undisturbed ones."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "campaign.py"


@pytest.mark.slow
def test_a_tenth_of_the_campaign_finds_nothing():
    done = subprocess.run([sys.executable, SCRIPT, "--share", "0.1", "--seed", "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    kills = figures["kills"].values()
    assert sum(kind["kills"] for kind in kills) >= 25
    assert sum(kind["after_first_file"] for kind in kills) >= 20
    assert all(fault["met"] or fault["skipped"] for fault in figures["faults"].values())
