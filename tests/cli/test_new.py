"""A method of one's own: the page's file and the skeleton both keep the contract and run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ddbench.cli.main import cli
from ddbench.registry import load_method
from ddbench.testing import check_method

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-method.md"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ddbench(*words, status=0):
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == status, (result.output, result.exception)
    return result


def test_the_pages_method_works_as_the_page_says(here):
    page = PAGE.read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    name = re.match(r"# (\w+\.py)\n", code).group(1)
    (here / name).write_text(code)
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    commands = re.findall(r"^    ddbench (.*)$", page, re.MULTILINE)
    assert len(commands) == 5
    for command in commands:
        words = command.split()
        if words[0] == "run":
            words = [*words, "--dry-run"]
            (here / "runs").mkdir(exist_ok=True)  # not made by a dry run
        ddbench(*words)
    cls = load_method(f"{name}:Brightest")
    assert all(outcome.ok for outcome in check_method(cls))


def test_a_skeleton_runs_and_its_test_passes(here):
    said = ddbench("new", "method", "near_by").stdout
    assert said.splitlines()[-1] == "next: ddbench check near_by.py:NearBy"
    ddbench("check", "near_by.py:NearBy")
    assert "mixed" in ddbench("show", "near_by.py:NearBy").stdout
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_near_by.py"],
        capture_output=True, text=True, check=False, cwd=here,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert re.search(r"\b11 passed", done.stdout)


def test_nothing_is_overwritten(here):
    (here / "test_mine.py").write_text("mine")
    assert "test_mine.py exists already" in ddbench("new", "method", "mine", status=2).output
    assert sorted(path.name for path in here.iterdir()) == ["test_mine.py"]


@pytest.mark.parametrize("name", ["My", "2d", "class", "a-b", "a/b"])
def test_what_is_no_name_of_a_file_is_refused(here, name):
    assert "cannot name a Python module" in ddbench("new", "method", name, status=2).output
