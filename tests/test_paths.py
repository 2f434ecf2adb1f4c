"""No path leaves its folder, no link is followed when a file is written, no file is read without a limit.

Archives are in datasets/test_download.py, names of hub sets in datasets/test_huggingface.py.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from test_records import SPEC, result, write
from third_party import few, snapshot, write_images, write_method

from ddbench.cli.main import cli
from ddbench.datasets import lookup
from ddbench.errors import UserError
from ddbench.store import merge, results_file
from ddbench.store.costs import parse_cost
from ddbench.store.reader import read_runs
from ddbench.store.results_file import FORMAT, VERSION, read_results
from ddbench.utils import files, limits
from ddbench.utils.files import locked, make_once, read_json, write_bytes

HEADER = json.dumps({"format": FORMAT, "version": VERSION}) + "\n"


def ddbench(*words, status=2):
    """Run a command in this process; return its output after a look at the exit status."""
    outcome = CliRunner().invoke(cli, [str(word) for word in words])
    assert outcome.exit_code == status, (outcome.output, outcome.exception)
    return outcome.output


@pytest.fixture
def victim(tmp_path):
    """A file that links lead to."""
    path = tmp_path / "victim"
    path.write_text("untouched")
    return path


# links in the place of a file that is written


TEMPORARY = f".result.json.{files._this_machine()}-{os.getpid()}.tmp"


@pytest.mark.parametrize("name", ["result.json", TEMPORARY], ids=["file", "temporary"])
def test_a_link_is_replaced_not_followed(tmp_path, victim, name):
    """Also at the temporary name, where somebody may have put it between the look and the writing."""
    (tmp_path / name).symlink_to(victim)
    write_bytes(tmp_path / "result.json", b"new")
    assert victim.read_text() == "untouched"
    assert not (tmp_path / "result.json").is_symlink()
    assert (tmp_path / "result.json").read_bytes() == b"new"


def test_a_link_that_comes_after_the_look_is_not_followed(tmp_path, victim, monkeypatch):
    """The race itself: the link appears when the temporary name has just been found free."""
    removed = Path.unlink

    def race(path, missing_ok=False):
        removed(path, missing_ok=missing_ok)
        if path.suffix == ".tmp" and not path.exists():
            path.symlink_to(victim)
            monkeypatch.setattr(Path, "unlink", removed)

    monkeypatch.setattr(Path, "unlink", race)
    with pytest.raises(FileExistsError):
        write_bytes(tmp_path / "result.json", b"new")
    assert victim.read_text() == "untouched"


def test_a_stage_is_not_made_behind_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".stage.partial").symlink_to(tmp_path / "elsewhere")
    assert make_once(tmp_path / "stage", lambda folder: (folder / "file").write_text("x"))
    assert (tmp_path / "stage/file").exists()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_lock_does_not_empty_what_a_link_leads_to(tmp_path, victim):
    (tmp_path / ".pack.lock").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"), locked(tmp_path / "pack"):
        pass
    assert victim.read_text() == "untouched"


RUN = ("run", "--method", "pick.py:Pick", "--dataset", "folder:images", "--ipc", "1", "--protocol", "few.toml")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with images, a method and a protocol of two steps."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images", {"barn": 4, "pond": 4})
    write_method(tmp_path)
    (tmp_path / "few.toml").write_text('like = "quick@1"\n' + few(2))
    return tmp_path


@pytest.mark.parametrize("name", ["distilled", "results", "spec.json", ".work"])
def test_a_run_does_not_write_behind_a_planted_link(here, name):
    task = ddbench(*RUN, "--dry-run", status=0).splitlines()[0]
    folder = here / task.split(": ")[1]
    folder.mkdir(parents=True)
    (here / "elsewhere").mkdir()
    (folder / name).symlink_to(here / "elsewhere")
    assert f"{name} is a link to {here / 'elsewhere'}" in ddbench(*RUN)
    assert list((here / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("level", [1, 2, 3])
def test_a_run_does_not_write_behind_a_link_above_it(here, level):
    task = ddbench(*RUN, "--dry-run", status=0).splitlines()[0]
    folder = (here / task.split(": ")[1]).parents[3 - level]
    folder.parent.mkdir(parents=True)
    (here / "elsewhere").mkdir()
    folder.symlink_to(here / "elsewhere")
    assert f"{folder.name} is a link to {here / 'elsewhere'}" in ddbench(*RUN)
    assert list((here / "elsewhere").iterdir()) == []


def test_a_result_that_cannot_be_read_is_no_success(here):
    ddbench(*RUN, status=0)
    (path,) = here.glob("runs/*/*/*/*/results/*/*.json")
    path.write_text("[[")
    assert "the same command then makes the result again" in ddbench(*RUN, status=1)
    path.unlink()
    ddbench(*RUN, status=0)


def test_merge_copies_no_file_behind_a_link(tmp_path, victim):
    path = write(tmp_path / "theirs")
    run = path.parents[2]
    (run / "distilled").mkdir()
    (run / "distilled/secret.png").symlink_to(victim)
    (run / "notes").symlink_to(tmp_path)
    report = merge.merge(tmp_path / "ours", (tmp_path / "theirs",))
    assert [line.partition(":")[0] for line in report.skipped] == [
        str(run / "distilled/secret.png"),
        str(run / "notes"),
    ]
    copied = snapshot(tmp_path / "ours")
    assert len(copied) == 2
    assert b"untouched" not in copied.values()


def test_output_is_a_file_of_its_own(tmp_path, victim):
    path = write(tmp_path / "runs")
    before, link = snapshot(tmp_path / "runs"), tmp_path / "table.txt"
    link.symlink_to(victim)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    cases = [(link, "is a link or a device"), (pipe, "is a link or a device")]
    cases += [(path, "is in the folder of a run"), (path.parent / "new.txt", "is in the folder of a run")]
    for name, words in cases:
        for command in (("leaderboard", "--output"), ("report", "--output"), ("export", "results")):
            assert words in " ".join(ddbench("--runs", tmp_path / "runs", *command, name).split())
    assert snapshot(tmp_path / "runs") == before
    assert victim.read_text() == "untouched"
    ddbench("--runs", tmp_path / "runs", "leaderboard", "--output", tmp_path / "new/table.txt", status=0)


# what users write as paths


COMMANDS = [("leaderboard", "--output"), ("report", "--output"), ("export", "results", "--")]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "a blank text names no file"),
        ("  ", "a blank text names no file"),
        ("-", "- is no name of a file"),
        ("new/", "new/ is no name of a file"),
        ("/proc/table.txt", "/proc/table.txt"),
    ],
)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_an_output_that_is_no_file_is_refused(tmp_path, monkeypatch, command, name, words):
    write(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    assert words in " ".join(ddbench(*command, name).split())
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_tilde_is_the_home_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    write(tmp_path / "home/runs")
    ddbench("--runs", "~/runs", "leaderboard", "--output", "~/table.txt", status=0)
    assert "no results" not in (tmp_path / "home/table.txt").read_text()
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("option", ["--runs", "--shared", "--data-root"])
@pytest.mark.parametrize("text", ["", " "])
def test_a_folder_without_a_name_is_refused(here, option, text):
    """Such as `--runs "$RUNS"` where RUNS is not set: it would be the working directory."""
    before = snapshot(here)
    assert "a blank text names no file and no folder" in " ".join(ddbench(option, text, *RUN).split())
    assert snapshot(here) == before


@pytest.mark.parametrize("kind", ["pipe", "link", "loop"])
@pytest.mark.parametrize("command", [("leaderboard",), ("report",), ("robustness",), ("merge", "others"), RUN])
def test_runs_that_are_no_folder_are_refused(here, command, kind):
    """The command does not say "no results yet" and end with status 0."""
    os.mkfifo(here / "pipe")
    (here / "link").symlink_to("nowhere")
    (here / "loop").symlink_to("loop")
    before = snapshot(here)
    assert f"{kind} is a pipe, a device or a link that leads nowhere" in " ".join(
        ddbench("--runs", kind, *command).split()
    )
    assert snapshot(here) == before


@pytest.mark.parametrize(
    "command", [("leaderboard",), ("leaderboard", "--output", "t.tex"), ("report",), ("robustness",)]
)
def test_runs_that_are_nowhere_are_named(here, command):
    """A misspelled folder is no folder without results."""
    before = snapshot(here)
    message = " ".join(ddbench("--runs", "rnus", *command).split())
    assert "there is no folder or file rnus: `ddbench run` makes it; --runs" in message
    assert snapshot(here) == before


@pytest.mark.parametrize("option", ["--shared", "--data-root"])
@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_other_folders_that_are_none_are_refused(here, option, kind):
    os.mkfifo(here / "pipe")
    (here / "link").symlink_to("nowhere")
    before = snapshot(here)
    assert f"{kind} is a pipe, a device or a link that leads nowhere" in " ".join(ddbench(option, kind, *RUN).split())
    assert snapshot(here) == before


def test_a_path_that_is_no_utf8_is_printed_with_escapes(tmp_path):
    words = ["--runs", ".", "report", "--output", os.fsdecode(b"page\xff.html")]
    done = subprocess.run([sys.executable, "-m", "ddbench", *words], cwd=tmp_path, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"page\\udcff.html: ")
    assert len(list(tmp_path.iterdir())) == 1


# names


@pytest.mark.parametrize("name", ["../x", "/etc", "..", ".hidden", "", "a\0b", "a" * 256])
def test_a_class_that_cannot_name_a_folder_is_refused(monkeypatch, name):
    source = SimpleNamespace(classes=("beach", name))
    monkeypatch.setattr(lookup, "load_entry", lambda kind, text: source)
    with pytest.raises(UserError, match="cannot name a folder"):
        lookup.find_dataset("plugin")
    source.classes = ("beach", "a\\b: ~\u6d77")
    assert lookup.find_dataset("plugin") is source


def test_the_folder_of_a_stage_in_a_cost_is_a_name():
    stage = {"stage": "prototypes", "seconds": 1.0, "folder": "../.."}
    assert parse_cost({"seconds": 1.0, "stages": [stage]}).folders == {"prototypes": ""}


@pytest.mark.parametrize("text", ["folder:~nobody-of-this-name/x", "folder:a\\u0000b"])
def test_paths_of_nobody_are_refused(tmp_path, text):
    (tmp_path / "plan.toml").write_text(f'datasets = ["{text}"]\nipcs = [1]\nmethods = ["random"]\n')
    assert "cannot list" in ddbench("sweep", tmp_path / "plan.toml", "--dry-run")


def test_names_in_an_exported_file_stay_below_the_folder(tmp_path):
    path = write(tmp_path / "runs")
    results_file.export_results(tmp_path / "runs", tmp_path / "ours.jsonl")
    lines = (tmp_path / "ours.jsonl").read_text().splitlines()
    place = path.relative_to(tmp_path / "runs").as_posix()
    for name in ("../" * 7 + place, f"/{place}", place.replace("convnet", "a\0b"), place.replace("convnet", "x" * 300)):
        changed = [line.replace(json.dumps(place), json.dumps(name)) for line in lines]
        (tmp_path / "theirs.jsonl").write_text("\n".join(changed))
        merged = ddbench("--runs", tmp_path / "all", "merge", tmp_path / "theirs.jsonl", status=1)
        assert "is not that of a result" in merged
    assert sorted(p.name for p in tmp_path.iterdir()) == ["all", "ours.jsonl", "runs", "theirs.jsonl"]


# limits


@pytest.mark.parametrize("text", [b"9" * 1_000_000, b"[" * 1_000_000, b'{"a":' * 1_000_000, b'"\\ud800"'])
def test_numbers_and_nesting_without_end_are_refused(tmp_path, text):
    path = write(tmp_path / "runs")
    path.write_bytes(b'{"schema": 1, "overall": ' + text + b"}")
    (problem,) = read_runs(tmp_path / "runs").problems
    assert problem.path == path
    assert problem.reason.startswith("is not readable JSON")


def test_parameters_nested_deeply_are_refused(tmp_path):
    spec = write(tmp_path / "runs").parents[2] / "spec.json"
    value = json.loads(spec.read_text())
    spec.write_text(json.dumps(value | {"params": {"a": "deep"}}).replace('"deep"', 400 * "[" + 400 * "]"))
    (problem,) = read_runs(tmp_path / "runs").problems
    assert problem.path == spec


@pytest.mark.parametrize("kind", ["result", "exported", "toml", "list"])
def test_a_file_of_a_billion_digits_is_refused_at_once(tmp_path, kind):
    path = write(tmp_path / "runs")
    write_images(tmp_path / "images", {"barn": 4, "pond": 4})
    place, words = {
        "result": (path, ("--runs", tmp_path / "runs", "leaderboard")),
        "exported": (tmp_path / "x.jsonl", ("--runs", tmp_path / "x.jsonl", "leaderboard")),
        "toml": (tmp_path / "x.toml", ("sweep", tmp_path / "x.toml")),
        "list": (tmp_path / "x.csv", ("data", "show", f"folder:{tmp_path}/images@{tmp_path}/x.csv")),
    }[kind]
    place.write_text(HEADER if kind == "exported" else "")
    os.truncate(place, 10**9)  # of zeros, without room on the disk
    start = time.process_time()
    if kind == "list":
        assert "cannot be read" in ddbench(*words, status=0)
    else:
        text = ddbench(*words, status=1 if kind in ("result", "exported") else 2)
        assert ("is too long" if kind == "exported" else "more than the") in text
    assert time.process_time() - start < 5


def test_an_archive_of_lines_without_end_is_read_no_further(tmp_path):
    with gzip.open(tmp_path / "bomb.jsonl.gz", "wb") as out:
        out.write(HEADER.encode())
        out.write(b"\n" * 10_000_000)
    scan = read_results(tmp_path / "bomb.jsonl.gz")
    assert len(scan.problems) == limits.MOST_PROBLEMS + 1
    assert "read no further" in scan.problems[-1].reason


def test_a_pipe_is_not_waited_for(tmp_path):
    path = write(tmp_path / "runs")
    path.unlink()
    os.mkfifo(path)
    assert "is a pipe or a device" in ddbench("--runs", tmp_path / "runs", "leaderboard", status=1)
    with pytest.raises(ValueError, match="is a pipe or a device"):
        read_json(Path("/dev/zero"))


@pytest.mark.parametrize(
    "line", ["seeds = 1000000000000", "sizes = [1000000000]", "student_seeds = 99999999", "ipcs = [10000000000]"]
)
def test_numbers_that_no_machine_can_do_are_refused(tmp_path, line):
    lines = {"datasets": '["scenes"]', "methods": '["random"]', "ipcs": "[1]"}
    lines[line.partition(" ")[0]] = line.partition("= ")[2]
    (tmp_path / "plan.toml").write_text("\n".join(f"{key} = {value}" for key, value in lines.items()))
    assert "is invalid; expected" in ddbench("sweep", tmp_path / "plan.toml", "--dry-run")
    options = {"sizes": "--size", "ipcs": "--ipc", "student_seeds": "--student-seeds", "seeds": "--seeds"}
    option = options[line.partition(" ")[0]]
    words = ("run", "--method", "random", "--dataset", "scenes", option, line.partition("= ")[2].strip("[]"))
    assert "is not in the range" in ddbench(*words)


def test_a_result_that_was_written_is_read(tmp_path):
    """The guards refuse nothing that is whole."""
    assert read_json(write(tmp_path / "runs"))["overall"] == result().overall
    assert len(read_runs(tmp_path / "runs").results) == 1
    assert SPEC.folder(tmp_path / "runs").is_dir()
