"""Completion of names in a shell, and --format of what commands print."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from test_records import SPEC, write

from ddbench.cli.common import TABLE_FORMATS, format_table
from ddbench.cli.main import cli


def completions(*words):
    """Return the completions that a shell gets for the last word."""
    *before, last = words
    return [item.value for item in ShellComplete(cli, {}, "ddbench", "").get_completions(before, last)]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("run", "--method", "dp"), ["dpd"]),
        (("run", "--method", "dpd", "--preset", "tiny-t"), ["tiny-tgrs"]),
        (("run", "--method", "dpd", "--dataset", "scen"), ["scenes"]),
        (("run", "--student", "resnet1"), ["resnet18", "resnet18_in"]),
        (("evaluate", "--protocol", "real"), ["real-large@1", "real@1"]),
        (("evaluate", "--dataset", "uc"), ["ucm"]),
        (("leaderboard", "--student", "vit_t"), ["vit_tiny"]),
        (("quality", "--dataset", "clr"), ["clrs"]),
        (("robustness", "--own", "quick-p"), ["quick-plain@1"]),
        (("figure", "--dataset", "aid"), ["aid"]),
        (("data", "prepare", "patt"), ["patternnet"]),
        (("show", "mgd"), ["mgd3"]),
        (("show", "scen"), ["scenes"]),
        (("check", "hera"), []),
        (("check", "herd"), ["herding"]),
        (("list", "pre"), ["presets"]),
        (("run", "--preset", "tin"), []),
        (("run", "--method", "nothing.py:No", "--preset", "tin"), []),
        (("expo",), ["export"]),
    ],
)
def test_names_complete(words, expected):
    assert completions(*words) == expected


def test_completion_by_the_shells_protocol_imports_no_torch():
    """As bash calls it; a module that imports torch takes seconds, and a name is asked for at every tab."""
    words = {"_DDBENCH_COMPLETE": "bash_complete", "COMP_WORDS": "ddbench run --method rand", "COMP_CWORD": "3"}
    code = "import sys; sys.modules['torch'] = None; from ddbench.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | words, check=False
    )
    assert (done.stdout, done.stderr) == ("plain,random\n", "")


ROWS = [("pipe|bar", "50 % & more"), ("two words", "a,b")]


@pytest.mark.parametrize("form", TABLE_FORMATS)
def test_every_format_has_all_cells(form):
    text = format_table(ROWS, ("name", "of\nwhat"), form)
    if form == "json":
        assert json.loads(text) == [dict(zip(("name", "of what"), row, strict=True)) for row in ROWS]
    elif form == "csv":
        assert [tuple(row) for row in csv.reader(io.StringIO(text))] == [("name", "of what"), *ROWS]
    elif form == "markdown":
        assert text.splitlines()[2] == r"| pipe\|bar | 50 % & more |"
    elif form == "latex":
        assert r"two words & a,b \\" in text
        assert r"50 \% \& more" in text
        assert text.startswith("\\begin{tabular}{ll}\n\\toprule\nname & of what \\\\\n\\midrule\n")
    else:
        assert text.splitlines()[3].split("  ")[0] == "pipe|bar"


def ddbench(*words, status=0):
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == status, (result.output, result.exception)
    return result.stdout


def test_lists_and_tables_have_formats(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    monkeypatch.delenv("DDBENCH_DATA", raising=False)
    assert {"method": "dpd", "preset": "tiny"} in json.loads(ddbench("list", "presets", "--format", "json"))
    assert ddbench("list", "students", "--format", "csv").splitlines()[:2] == ["student", "convnet"]
    record = json.loads(ddbench("show", "quick@1", "--format", "json"))
    assert (record["name"], record["kind"]) == ("quick@1", "protocol")
    batch = next(row for row in record["tables"][0] if row["field"] == "batch")
    assert next(value for heads, value in batch.items() if heads.startswith("resnet18 ")) == "32"
    assert "| field | " in ddbench("show", "quick@1", "--format", "markdown")
    assert json.loads(ddbench("robustness", "--format", "json")) == []
    listed = {row["name"]: row for row in json.loads(ddbench("data", "list", "--format", "json"))}
    assert (listed["scenes"]["images"], listed["ucm"]["images"]) == ("1000 training, 500 test", "missing")
    words = ("--method", "random", "--dataset", "scenes", "--ipc", 1, "--size", 8, "--dry-run", "--format")
    tasks = json.loads(ddbench("run", *words, "json"))
    assert [task["task"] for task in tasks] == ["distil", "train convnet seed 0"]
    assert {task["state"] for task in tasks} == {"to do"}
    (tmp_path / "plan.toml").write_text('datasets = ["scenes"]\nsizes = [8]\nipcs = [1]\nmethods = ["random"]')
    jobs = json.loads(ddbench("sweep", "plan.toml", "--dry-run", "--format", "json"))
    assert [job["tasks"].split(" (")[0] for job in jobs] == ["distil, train convnet seed 0"]


def test_the_leaderboard_fits_a_terminal(tmp_path, monkeypatch):
    for ipc in range(1, 9):
        write(tmp_path / "runs", replace(SPEC, ipc=ipc))
    monkeypatch.setattr("ddbench.cli.results.terminal_width", lambda: 60)
    table = ddbench("--runs", tmp_path / "runs", "leaderboard")
    assert max(map(len, table.splitlines())) <= 60
    assert table.count("method ") > 1
    monkeypatch.setattr("ddbench.cli.results.terminal_width", lambda: None)
    whole = ddbench("--runs", tmp_path / "runs", "leaderboard")
    assert whole.count("method ") == 1
    assert max(map(len, whole.splitlines())) > 100
    ddbench("--runs", tmp_path / "runs", "leaderboard", "--output", tmp_path / "table.txt")
    assert (tmp_path / "table.txt").read_text() == whole
