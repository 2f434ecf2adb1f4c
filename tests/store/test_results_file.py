"""One file of results: the same tables as the folder, and clear words for lines that cannot be used."""

import dataclasses
import gzip
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_records import SPEC, result, write
from third_party import snapshot

from ddbench.cli.main import cli
from ddbench.errors import UserError
from ddbench.leaderboard import EXTRA_COLUMNS, FORMATS
from ddbench.report.page import page
from ddbench.store import failures, merge, reader, records, results_file
from ddbench.store.failures import Failure
from ddbench.utils.files import write_json

COST = {"seconds": 40.0, "stages": [{"stage": "latents", "seconds": 30.0, "reused": False, "folder": "latents-12"}]}


@pytest.fixture
def runs(tmp_path):
    """Three methods and `full`, two seeds each with two students, costs and two failures."""
    runs = tmp_path / "runs"
    for i, method in enumerate(("mine", "random", "full")):
        for seed in range(2):
            spec = dataclasses.replace(SPEC, method=method, seed=seed, ipc=0 if method == "full" else 2)
            for student in range(2):
                accuracy = 0.3 + 0.1 * i + 0.02 * seed + 0.01 * student
                content = f"{method}{seed}".rjust(64, "0")
                write(runs, spec, seed=student, overall=accuracy, content=content, image_bytes=7000, label_bytes=10)
            write_json(spec.folder(runs) / "distill.json", COST)
    failed = dataclasses.replace(SPEC, method="odd")
    records.write_spec(failed.folder(runs), failed)
    failures.write_failure(failed.folder(runs), Failure("diverged", "the loss is nan", "File /home/somebody/odd.py"))
    failures.write_failure(SPEC.folder(runs) / "results/quick-v1/vit_tiny-scratch-seed0.json", Failure("oom", "e", "t"))
    return runs


@pytest.fixture
def exported(runs, tmp_path):
    target = tmp_path / "ours.jsonl"
    results_file.export_results(runs, target)
    return target


PAGE = (Path(__file__).parents[2] / "docs" / "results-format.md").read_text(encoding="utf-8")


def test_the_page_names_every_field():
    names = {field.name for kind in (records.RunSpec, records.Result) for field in dataclasses.fields(kind)}
    assert sorted(name for name in names if f"`{name}`" not in PAGE) == []


def test_the_pages_script_writes_a_file_that_tables_read(tmp_path):
    (script,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    subprocess.run([sys.executable, "-I", "-c", script], cwd=tmp_path, check=True)
    done = invoke(tmp_path / "by_hand.jsonl", "leaderboard")
    assert (done.exit_code, done.stderr) == (0, "")
    assert re.search(r"^ours +75\.0 \(n=1\)", done.stdout, re.MULTILINE)


def invoke(source, *words):
    return CliRunner().invoke(cli, ["--runs", str(source), *words])


@pytest.mark.parametrize("name", ["ours.jsonl", "ours.jsonl.gz"])
@pytest.mark.parametrize("form", FORMATS)
def test_the_file_gives_the_folders_table_byte_for_byte(runs, tmp_path, name, form):
    done = invoke(runs, "export", "results", str(tmp_path / name))
    assert done.exit_code == 0, done.output
    assert "12 results of 6 runs, 2 failures" in done.stdout
    extras = [word for name in EXTRA_COLUMNS for word in ("--with", name)]
    folder, file = (invoke(source, "leaderboard", "--format", form, *extras) for source in (runs, tmp_path / name))
    assert (folder.exit_code, file.exit_code) == (0, 0)
    assert "mine" in folder.stdout
    assert file.stdout == folder.stdout
    assert [line.partition(": ")[2] for line in file.stderr.splitlines()] == [
        line.partition(": ")[2] for line in folder.stderr.splitlines()
    ]


def test_costs_and_details_come_back(runs, exported):
    folder, file = (results_file.read_results(source, costs=True) for source in (runs, exported))
    assert [s.result for s in file.results] == [s.result for s in folder.results]
    assert list(file.costs.values())[:6] == list(folder.costs.values())
    assert folder.results[0].result.per_class
    assert not results_file.read_results(exported, details=False).results[0].result.per_class


def test_robustness_and_the_report_read_the_file(runs, exported):
    folder, file = (invoke(source, "robustness", "--format", "json") for source in (runs, exported))
    assert json.loads(file.stdout)
    assert file.stdout == folder.stdout
    text = page(results_file.read_results(exported, costs=True))
    assert "2 files are not used, or record a failure" in text
    assert "3 cells, 0 distilled sets" in text


def test_a_copied_folder_gives_the_same_bytes(runs, exported, tmp_path):
    shutil.copytree(runs, tmp_path / "elsewhere")
    results_file.export_results(tmp_path / "elsewhere", tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == exported.read_bytes()
    for name in ("a.gz", "b.gz"):
        results_file.export_results(runs, tmp_path / name)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()) == exported.read_bytes()


def test_paths_of_the_machine_are_left_out(runs, tmp_path):
    stage = {**COST["stages"][0], "folder": "/home/somebody/shared/latents-12"}
    write_json(SPEC.folder(runs) / "distill.json", {**COST, "stages": [stage]})
    results_file.export_results(runs, tmp_path / "ours.jsonl")
    text = (tmp_path / "ours.jsonl").read_text()
    assert "somebody" not in text
    assert str(tmp_path) not in text
    assert '"folder":"latents-12"' in text


def test_merging_the_file_gives_the_folder(runs, exported, tmp_path):
    report = merge.merge(tmp_path / "all", (exported,))
    assert (report.runs, report.conflicts, report.skipped) == (7, [], [])
    failures = {name for name in snapshot(runs) if name.endswith("failed.json")}
    folder, merged = snapshot(runs), snapshot(tmp_path / "all")
    assert merged.keys() == folder.keys()
    assert len(failures) == 2
    assert {name: merged[name] for name in folder.keys() - failures} == {
        name: folder[name] for name in folder.keys() - failures
    }
    again = merge.merge(tmp_path / "all", (exported, runs))
    assert (again.runs, again.results, again.same, again.conflicts) == (0, 0, 24, [])


def test_a_conflict_from_a_file_is_kept_under_its_name(runs, exported, tmp_path):
    path = SPEC.folder(runs) / "results/quick-v1/convnet-scratch-seed0.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"overall": 0.9}))
    for _ in range(2):
        ((target, copy),) = merge.merge(runs, (exported,)).conflicts
        assert target == path
        assert json.loads(copy.read_text())["overall"] == 0.3
        assert copy.relative_to(runs / "conflicts").parts[0].startswith("ours.jsonl-")
        assert len(list((runs / "conflicts").iterdir())) == 1


def changed(exported, number, change):
    """Change one line (the first is 1) of a file."""
    lines = exported.read_text().splitlines()
    lines[number - 1] = change(lines[number - 1])
    exported.write_text("\n".join(lines) + "\n")


def edit(**fields):
    """A change of fields of a line, or of its data."""

    def change(line):
        value = json.loads(line)
        for name, item in fields.items():
            (value if name in value else value["data"])[name] = item
        return json.dumps(value)

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda line: line[:-9], "is not readable JSON"),
        (lambda line: "", "is not readable JSON"),
        (
            lambda line: '{"kind": "result", "data": {"a": ' + 100_000 * "[" + 100_000 * "]}}",
            "is not readable JSON (maximum recursion depth",
        ),
        (lambda line: "[1]", "is not an object with kind (spec, "),
        (lambda line: '{"kind": "result", "path": "a", "data": []}', "is not an object with kind (spec, "),
        (edit(kind="image"), "kind (spec, cost, result, failure), path and data: Invalid enum value 'image'"),
        (edit(kind="cost"), "is not that of a cost below a runs folder"),
        (edit(path="../../etc/ipc1/seed0-12345678/results/quick-v1/a.json"), "is not that of a result below a runs"),
        (edit(path="/a/b/ipc1/seed0-12345678/results/a.json"), "is not that of a result below a runs folder"),
        (edit(path=3), "Expected `str`, got `int` - at `$.path`"),
        (edit(overall=62.5), "overall is 62.5"),
        (edit(overall="0.5"), "overall is '0.5': Expected `float`, got `str`"),
        (edit(schema=2), "written by a newer ddbench"),
        (edit(run="0" * 64), "belongs to another run"),
        (edit(student="resnet18"), "its name is not that of its student"),
    ],
)
def test_a_damaged_line_is_named_and_costs_no_other(exported, tmp_path, change, reason):
    number = next(i for i, line in enumerate(exported.read_text().splitlines(), 1) if '"kind":"result"' in line)
    changed(exported, number, change)
    scan = results_file.read_results(exported)
    assert len(scan.results) == 11
    ((path, why),) = [(problem.path, problem.reason) for problem in scan.problems]
    assert path.name == f"ours.jsonl:{number}"
    assert reason in why
    done = invoke(exported, "leaderboard")
    assert done.exit_code == 1
    assert f"skipped {exported}:{number}: " in done.stderr
    merged = merge.merge(tmp_path / "all", (exported,))
    assert len(merged.skipped) == 1
    assert str(exported) in merged.skipped[0]


def test_a_spec_that_was_edited_costs_its_run_alone(exported):
    number = next(i for i, line in enumerate(exported.read_text().splitlines(), 1) if '"kind":"spec"' in line)
    changed(exported, number, edit(seed=5))
    scan = results_file.read_results(exported)
    assert len(scan.results) == 10
    reasons = [problem.reason for problem in scan.problems]
    assert "the spec was edited" in reasons[0]
    assert ["no earlier line has the spec of its run" in reason for reason in reasons[1:]] == [True] * 2


def test_duplicate_runs_are_named_and_count_once(exported):
    lines = exported.read_text().splitlines()
    exported.write_text("\n".join([*lines, *lines[1:5]]) + "\n")
    scan = results_file.read_results(exported)
    assert len(scan.results) == 12
    assert [problem.path.name for problem in scan.problems] == [f"ours.jsonl:{len(lines) + i}" for i in range(1, 5)]
    assert scan.problems[0].reason.endswith("spec.json is also on line 2")


def test_a_copied_run_under_another_name_counts_once(exported):
    lines = [line for line in exported.read_text().splitlines() if "scenes32/mine" in line]
    copies = [line.replace('"path":"scenes32/', '"path":"scenes32.bak/') for line in lines]
    exported.write_text(exported.read_text() + "\n".join(copies) + "\n")
    scan = results_file.read_results(exported)
    assert len(scan.results) == 12
    assert {problem.reason.partition(" in ")[0] for problem in scan.problems} == {"the same result is"}


def test_results_of_several_sets_in_one_run_are_not_used(exported):
    number = next(i for i, line in enumerate(exported.read_text().splitlines(), 1) if '"kind":"result"' in line)
    changed(exported, number, edit(content="e" * 64))
    scan = results_file.read_results(exported)
    assert len(scan.results) == 10
    assert [problem.reason for problem in scan.problems] == ["its results belong to several distilled sets"]


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        ('{"format": "ddbench results", "version": 2, "ddbench": "9.1"}', "has version 2 of the format; this ddbench"),
        ('{"format": "something", "version": 1}', "does not name the format"),
        ("", "does not name the format"),
        ("label,mean", "does not name the format"),
    ],
)
def test_an_unknown_version_and_other_files_are_refused(exported, tmp_path, first, reason):
    changed(exported, 1, lambda line: first)
    with pytest.raises(UserError, match=reason):
        results_file.read_results(exported)
    for words in (["leaderboard"], ["robustness"], ["report", "--output", str(tmp_path / "out.html")]):
        done = invoke(exported, *words)
        assert done.exit_code == 2
        assert reason in " ".join(done.stderr.split())
    done = invoke(tmp_path / "all", "merge", str(exported))
    assert done.exit_code == 2
    assert reason in " ".join(done.stderr.split())


def test_a_truncated_archive_is_named_and_its_beginning_used(runs, tmp_path):
    path = tmp_path / "ours.jsonl.gz"
    results_file.export_results(runs, path)
    path.write_bytes(path.read_bytes()[:-30])
    (problem,) = results_file.read_results(path).problems
    assert problem.path == path
    assert "is damaged after line" in problem.reason


def test_a_damaged_archive_is_not_used(runs, tmp_path):
    """Its checksum is wrong: any number in it may be."""
    target = tmp_path / "ours.jsonl.gz"
    results_file.export_results(runs, target)
    whole = target.read_bytes()
    target.write_bytes(whole[:-8] + bytes(4) + whole[-4:])
    done = invoke(target, "leaderboard")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "is damaged (CRC check failed" in done.stderr
    with pytest.raises(UserError, match="nothing of it is used"):
        merge.merge(tmp_path / "all", (target,))
    assert not (tmp_path / "all").exists()


def test_what_cannot_be_used_is_not_exported(runs, tmp_path):
    bad = next((runs / "scenes32/mine").rglob("results/*/convnet-scratch-seed0.json"))
    bad.write_text("{")
    done = invoke(runs, "export", "results", str(tmp_path / "ours.jsonl"))
    assert done.exit_code == 1
    assert f"skipped {bad}" in done.stderr
    assert len(results_file.read_results(tmp_path / "ours.jsonl").results) == 11


def test_a_run_without_results_has_its_spec_and_cost(tmp_path):
    folder = SPEC.folder(tmp_path / "runs")
    records.write_spec(folder, SPEC)
    (folder / "results").mkdir()
    write_json(folder / "distill.json", COST)
    results_file.export_results(tmp_path / "runs", tmp_path / "ours.jsonl")
    scan = results_file.read_results(tmp_path / "ours.jsonl", costs=True)
    assert (scan.results, scan.problems) == ([], [])
    assert [cost.seconds for cost in scan.costs.values()] == [40.0]
    merge.merge(tmp_path / "all", (tmp_path / "ours.jsonl",))
    assert snapshot(tmp_path / "all") == snapshot(tmp_path / "runs")


def test_results_of_an_older_version_stay_as_they_were(tmp_path):
    """Fields that a result lacks are not written: merged into the folder that it is from, it is the same result."""
    path = write(tmp_path / "runs")
    old = {name: value for name, value in json.loads(path.read_text()).items() if name not in ("kappa", "precision")}
    path.write_text(json.dumps(old))
    results_file.export_results(tmp_path / "runs", tmp_path / "ours.jsonl")
    assert merge.merge(tmp_path / "runs", (tmp_path / "ours.jsonl",)).same == 1
    assert reader.read_runs(tmp_path / "runs").results[0].result == result()


def test_other_commands_refuse_a_file_and_an_empty_folder_is_an_error(exported, tmp_path):
    done = invoke(exported, "export", "results", str(tmp_path / "x.jsonl"))
    assert done.exit_code == 2
    assert "is a file, and only leaderboard, report, robustness, doctor read files" in " ".join(done.stderr.split())
    (tmp_path / "empty").mkdir()
    done = invoke(tmp_path / "empty", "export", "results", str(tmp_path / "x.jsonl"))
    assert done.exit_code == 2
    assert "has no run" in done.stderr
    assert not (tmp_path / "x.jsonl").exists()
