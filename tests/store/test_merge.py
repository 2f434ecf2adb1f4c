"""Runs folders of several machines become one; what they have otherwise is named and kept."""

import json
import shutil
import subprocess

import pytest
from click.testing import CliRunner
from third_party import results_and_problems, snapshot, write_anew, write_images, write_method

from ddbench.cli.main import cli
from ddbench.datasets.info import DataPaths
from ddbench.errors import UserError
from ddbench.runner import plan as planning
from ddbench.runner import run
from ddbench.runner.plan import ExecutionSettings, Request
from ddbench.store import merge, reader


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A runs folder with two distillations and a student of each."""
    home = tmp_path_factory.mktemp("home")
    write_images(home / "images", {"barn": 10, "pond": 12})
    write_method(home)
    data_paths = DataPaths(None, home / "shared", True)
    request = Request(f"{home}/pick.py:Pick", f"folder:{home}/images", (2,), seeds=(0, 1))
    plan = planning.plan(request, planning.evaluation_setup(("convnet",), "quick", 1), data_paths)
    assert run.run(plan, ExecutionSettings(home / "runs", data_paths, "cpu", True)) == run.TaskCounts(4, 0, 0)
    return home / "runs"


@pytest.fixture
def two(done, tmp_path):
    """The folder twice: ours, theirs."""
    for name in ("ours", "theirs"):
        shutil.copytree(done, tmp_path / name)
    return tmp_path / "ours", tmp_path / "theirs"


def seed(runs, number):
    (folder,) = runs.glob(f"*/*/ipc*/seed{number}-*")
    return folder


def result(runs, number):
    (path,) = seed(runs, number).glob("results/*/*.json")
    return path


def edited(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def seeds_and_accuracies(entries):
    return sorted((e.spec.seed, e.result.overall) for e in entries)


def test_an_audit_and_its_picture_come_to_a_run_that_is_there(two):
    ours, theirs = two
    audit = seed(theirs, 0) / "audit"
    audit.mkdir()
    (audit / "pixels.json").write_text("{}")
    (audit / "pixels.png").write_bytes(b"\x89PNG")
    first = merge.merge(ours, (theirs,))
    assert first.results == 1
    assert (seed(ours, 0) / "audit" / "pixels.png").read_bytes() == b"\x89PNG"
    again = merge.merge(ours, (theirs,))
    assert (again.results, again.same) == (0, first.same + 1)


def test_what_only_they_have_is_copied(done, two):
    ours, theirs = two
    shutil.rmtree(seed(ours, 0))
    result(ours, 1).unlink()
    merged = merge.merge(ours, (theirs,))
    assert (merged.runs, merged.results, merged.same, merged.conflicts) == (1, 1, 0, [])
    assert snapshot(ours) == snapshot(done)


def test_into_an_empty_folder_and_again(done, tmp_path):
    first = merge.merge(tmp_path / "all", (done,))
    assert (first.runs, first.same) == (2, 0)
    again = merge.merge(tmp_path / "all", (done,))
    assert (again.runs, again.results, again.same) == (0, 0, 2)
    assert seeds_and_accuracies(reader.read_runs(tmp_path / "all").results) == seeds_and_accuracies(
        reader.read_runs(done).results
    )


def test_a_run_that_was_only_begun_here_is_completed(done, two):
    ours, theirs = two
    shutil.rmtree(seed(ours, 0) / "distilled")
    result(ours, 0).unlink()
    (seed(ours, 0) / "failed.json").write_text('{"status": "died", "error": "killed", "trace": ""}')
    merge.merge(ours, (theirs,))
    assert snapshot(ours) == snapshot(done)


def test_what_a_killed_process_left_in_a_run_is_removed(done, two):
    ours, theirs = two
    gone = subprocess.Popen(["true"])
    gone.wait()
    folder = seed(ours, 0)
    shutil.rmtree(folder / "distilled")
    for name in (".work/state", ".distilled.partial/a", f".spec.json.{gone.pid}.tmp"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    merge.merge(ours, (theirs,))
    assert snapshot(folder) == snapshot(seed(done, 0))


def test_seconds_and_versions_are_no_conflict(two):
    ours, theirs = two
    edited(result(theirs, 0), seconds=1234.5, versions={"torch": "9"}, commit="e" * 40)
    before = snapshot(ours)
    assert merge.merge(ours, (theirs,)).conflicts == []
    assert snapshot(ours) == before


def test_another_result_of_the_same_student_is_kept_and_named(two):
    ours, theirs = two
    edited(result(theirs, 0), overall=0.123)
    before = seeds_and_accuracies(reader.read_runs(ours).results)
    ((target, copy),) = merge.merge(ours, (theirs,)).conflicts
    assert target == result(ours, 0)
    assert json.loads(copy.read_text())["overall"] == 0.123
    assert copy.relative_to(ours).parts[0] == "conflicts"
    assert copy.relative_to(ours).parts[1].startswith("theirs-")
    entries, problems = results_and_problems(ours)
    assert (seeds_and_accuracies(entries), problems) == (before, [])


def test_two_folders_of_one_name_keep_a_conflict_each(done, two, tmp_path):
    ours, _ = two
    for name, overall in (("a", 0.11), ("b", 0.22)):
        shutil.copytree(done, tmp_path / name / "runs")
        edited(result(tmp_path / name / "runs", 0), overall=overall)
    conflicts = merge.merge(ours, (tmp_path / "a/runs", tmp_path / "b/runs")).conflicts
    assert [json.loads(copy.read_text())["overall"] for _, copy in conflicts] == [0.11, 0.22]
    assert "are not copied" in merge.merge(tmp_path / "all", (ours,)).skipped[0]


def test_results_of_a_set_that_is_gone_are_not_replaced(two):
    ours, theirs = two
    shutil.rmtree(seed(ours, 0) / "distilled")
    edited(result(ours, 0), overall=0.77, content="e" * 64)
    before = result(ours, 0).read_bytes()
    assert len(merge.merge(ours, (theirs,)).conflicts) == 1
    assert result(ours, 0).read_bytes() == before


@pytest.mark.parametrize("images", [True, False])
def test_results_of_other_images_are_a_conflict_whoever_was_trained(two, images):
    """Each folder has a student that the other has not: copied, neither could be used."""
    ours, theirs = two
    for runs, student, content in ((ours, "convnet", None), (theirs, "resnet18", "e" * 64)):
        path = result(runs, 0)
        edited(path, student=student, **({"content": content} if content else {}))
        path.rename(path.with_name(path.name.replace("convnet", student)))
        if runs == theirs or not images:
            shutil.rmtree(seed(runs, 0) / "distilled")
    before = seeds_and_accuracies(reader.read_runs(ours).results)
    ((target, copy),) = merge.merge(ours, (theirs,)).conflicts
    assert (target, copy.is_dir()) == (seed(ours, 0), True)
    assert results_and_problems(ours) == (reader.read_runs(ours).results, [])
    assert seeds_and_accuracies(reader.read_runs(ours).results) == before


def test_another_precision_of_a_student_stands_beside(two):
    ours, theirs = two
    edited(result(theirs, 0), precision="bf16", overall=0.123)
    for results in (1, 0):
        merged = merge.merge(ours, (theirs,))
        assert (merged.results, merged.conflicts) == (results, [])
    entries, problems = results_and_problems(ours)
    assert problems == []
    precisions = [(e.result.precision, e.result.overall == 0.123) for e in entries if e.spec.seed == 0]
    assert precisions == [("bf16", True), ("fp32", False)]
    edited(result(theirs, 0), overall=0.124)
    assert len(merge.merge(ours, (theirs,)).conflicts) == 1


def test_what_a_run_without_images_cost_goes_along(two):
    ours, theirs = two
    shutil.rmtree(seed(theirs, 0) / "distilled")
    for path in sorted(seed(ours, 0).rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (seed(ours, 0) / "results").mkdir()
    merge.merge(ours, (theirs,))
    assert snapshot(seed(ours, 0)) == snapshot(seed(theirs, 0))


def test_what_quality_measured_goes_along(two):
    ours, theirs = two
    for runs, name in ((ours, "both"), (theirs, "both"), (theirs, "theirs")):
        path = seed(runs, 0) / f"quality/fid-{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"values": {"fid": 3.5}, "seconds": 1.0 if runs == ours else 2.0}))
    merged = merge.merge(ours, (theirs,))
    assert sorted(path.name for path in (seed(ours, 0) / "quality").iterdir()) == ["fid-both.json", "fid-theirs.json"]
    assert (merged.results, merged.conflicts) == (1, [])
    edited(seed(theirs, 0) / "quality/fid-both.json", values={"fid": 4.5})
    ((target, copy),) = merge.merge(ours, (theirs,)).conflicts
    assert json.loads(target.read_text())["values"]["fid"] == 3.5
    assert json.loads(copy.read_text())["values"]["fid"] == 4.5


def test_what_nobody_can_read_is_not_copied(two, tmp_path):
    ours, theirs = two
    result(theirs, 0).write_text("{")
    merged = merge.merge(tmp_path / "all", (theirs,))
    assert (merged.runs, len(merged.skipped)) == (2, 1)
    assert reader.read_runs(tmp_path / "all").problems == []
    assert merge.merge(ours, (theirs,)).conflicts == []


def test_another_set_of_the_same_run_is_kept_whole(two):
    ours, theirs = two
    write_anew(seed(theirs, 1), lambda images: 255 - images)
    ((target, copy),) = merge.merge(ours, (theirs,)).conflicts
    assert target == seed(ours, 1)
    assert snapshot(copy) == snapshot(seed(theirs, 1))


def test_a_damaged_spec_is_skipped_and_named(two):
    ours, theirs = two
    (seed(theirs, 0) / "spec.json").write_text("{")
    merged = merge.merge(ours, (theirs,))
    assert "spec.json: is not readable JSON" in merged.skipped[0]


def test_folders_that_are_none(two, tmp_path):
    with pytest.raises(UserError, match="is neither a runs folder nor a file of results"):
        merge.merge(two[0], (tmp_path / "gone",))
    with pytest.raises(UserError, match="is the folder to merge into"):
        merge.merge(two[0], (two[0],))
    with pytest.raises(UserError, match="has no run: name the folder"):
        merge.merge(two[0], (two[1].parent.parent,))


def test_the_command(two):
    ours, theirs = two
    shutil.rmtree(seed(ours, 1))
    fine = CliRunner().invoke(cli, ["--runs", str(ours), "merge", str(theirs)])
    assert (fine.exit_code, fine.stdout) == (
        0,
        "1 runs and 0 further results copied, 1 existed already, 0 conflicts\n",
    )
    edited(result(theirs, 0), overall=0.123)
    failed = CliRunner().invoke(cli, ["--runs", str(ours), "merge", str(theirs)])
    assert failed.exit_code == 1
    assert "conflict: " in failed.output
    assert "1 conflicts" in failed.output
