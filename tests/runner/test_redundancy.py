"""`ddbench redundancy`: against students trained by hand on each part; kept, repeated, refused; in no leaderboard."""

import json
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from third_party import few, run_command, write_anew, write_images

import ddbench
from ddbench.datasets.lookup import find_dataset
from ddbench.errors import UserError
from ddbench.runner.redundancy import parts_of, redundancy_jobs
from ddbench.runner.student_job import Students, find_runs
from ddbench.store import distilled_set
from ddbench.store.measured import read_measured
from evaluators.accuracy import evaluate
from evaluators.train import train_student


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A folder with images of two classes, a run of five random ones of each, and its records."""
    home = tmp_path_factory.mktemp("home")
    write_images(home / "images", {"barn": 14, "pond": 12})
    (home / "few.toml").write_text(few(2))
    command(home, "run", "--method", "random", "--ipc", 5, "--dataset", f"folder:{home}/images")
    command(home, "redundancy", home / "runs", *OPTIONS, "--dataset", f"folder:{home}/images")
    return home


@pytest.fixture
def home(measured, tmp_path):
    """The same, to change."""
    return shutil.copytree(measured, tmp_path / "home")


OPTIONS = ("--part-size", 2)


def command(home, *words, status=0):
    places = ["--runs", home / "runs", "--shared", home / "shared", "--device", "cpu", "-q"]
    own = ["--protocol", home / "few.toml"] if words[0] in ("run", "redundancy") else []
    return run_command(*places, *words, *own, status=status)


def redundancy(home, *words, status=0):
    return command(home, "redundancy", home / "runs", *words, "--dataset", f"folder:{home}/images", status=status)


def records(home):
    return sorted((home / "runs").glob("*/*/*/*/redundancy/*/*/*.json"))


def test_each_entry_is_that_of_a_student_trained_by_hand_on_the_part(measured):
    (row,) = json.loads(redundancy(measured, *OPTIONS, "--format", "json").stdout)
    (run,) = (measured / "runs").glob("*/*/*/*/distilled")
    pictures = distilled_set.read(run)
    images, labels = pictures.to_tensor(), torch.from_numpy(pictures.labels)
    parts = [[0, 1, 5, 6], [2, 3, 7, 8]]  # of five images of each class, one is left over
    protocol = ddbench.protocols.load_protocol(str(measured / "few.toml"))
    expected = np.zeros((2, 2))
    for i, part in enumerate(parts):
        model = train_student(images[part], labels[part], student="convnet", protocol=protocol, num_classes=2,
                              seed=0, device="cpu")  # fmt: skip
        for j, other in enumerate(parts):
            expected[i, j] = evaluate(model, images[other], labels[other], num_classes=2, device="cpu").overall
    assert np.array(row["matrix"]) == pytest.approx(expected)
    assert row["mean"] == pytest.approx((expected[0, 1] + expected[1, 0]) / 2)
    assert (row["parts"], row["part_size"], row["n"], row["students"]) == (2, 2, 1, 1)


def test_parts_are_disjoint_and_have_all_classes():
    labels = np.repeat([0, 1, 2], [7, 6, 9])
    parts = parts_of(labels, 2, 3)
    assert [np.bincount(labels[part]).tolist() for part in parts] == [[2, 2, 2]] * 3
    assert len(np.unique(np.concatenate(parts))) == 18


def test_a_repeated_command_trains_only_what_is_missing(home):
    before = {path: path.stat().st_mtime_ns for path in records(home)}
    assert len(before) == 2
    gone = records(home)[1]
    gone.unlink()
    (gone.parent / f".{gone.name}.lock").touch()  # as a process that was killed leaves it
    redundancy(home, *OPTIONS)
    after = {path: path.stat().st_mtime_ns for path in records(home)}
    assert [path for path in before if before[path] != after[path]] == [gone]


def test_a_record_of_other_images_is_made_again(home):
    (run,) = (home / "runs").glob("*/*/*/*")
    old = read_measured(records(home)[0]).result.content
    write_anew(run, lambda images: 255 - images)
    redundancy(home, *OPTIONS)
    new = {read_measured(path).result.content for path in records(home)}
    assert new == {distilled_set.read(run / "distilled").content()}
    assert old not in new


def test_a_failure_is_recorded_and_repeated_on_request(home, monkeypatch):
    records(home)[0].unlink()
    monkeypatch.setattr("ddbench.runner.evaluation.train_and_test", fail)
    failed = redundancy(home, *OPTIONS, status=1)
    assert "ValueError: out of ideas" in failed.stderr
    assert "nan" not in failed.stdout
    monkeypatch.undo()
    again = redundancy(home, *OPTIONS, status=1)
    assert "failed earlier (ValueError: out of ideas); --retry repeats it" in again.stderr
    redundancy(home, *OPTIONS, "--retry")
    assert not list((home / "runs").rglob("*failed.json"))


def fail(*_):
    raise ValueError("out of ideas")


def test_a_dry_run_lists_the_students_and_writes_nothing(home):
    records(home)[0].unlink()
    rows = json.loads(redundancy(home, *OPTIONS, "--dry-run", "--format", "json").stdout)
    assert [row["state"] for row in rows] == ["to do", "done"]
    assert rows[0]["job"].endswith("redundancy, part 1 of 2 (2 per class), convnet seed 0")
    assert len(records(home)) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--part-size", 3], "a class of 5 images, too few for two parts of 3 images: choose --part-size 2 or less"),
        (["--student", "resnet18", "--part-size", 1], "unknown student"),
    ],
)
def test_what_cannot_be_cut_or_trained_is_refused(measured, words, message):
    assert message in redundancy(measured, *words, status=2).stderr


def test_a_set_without_two_parts_is_left_out_beside_others(measured, caplog):
    (run,) = find_runs([measured / "runs"], f"folder:{measured}/images")
    smaller = replace(run, folder=run.folder.with_name("smaller"), counts=(1, 1))
    students = Students.of(("convnet",), str(measured / "few.toml"), 1)
    assert redundancy_jobs([smaller, run], 2, students) == redundancy_jobs([run], 2, students)
    assert "smaller has a class of 1 images, too few for two parts of 2 images: it is left out" in caplog.text
    with pytest.raises(UserError, match="too few for two parts of 2 images: name a run with more images per class"):
        redundancy_jobs([smaller], 2, students)


def test_a_run_without_a_set_is_left_out_beside_others(home, caplog):
    (run,) = find_runs([home / "runs"], f"folder:{home}/images")
    failed = shutil.copytree(run.folder, home / "runs" / "failed" / "random" / "ipc5" / run.folder.name)
    shutil.rmtree(failed / "distilled")
    assert find_runs([home / "runs"], f"folder:{home}/images") == [run]
    assert f"{failed} has no distilled set yet: it is left out" in caplog.text
    with pytest.raises(UserError, match=r"no distilled set yet .*: repeat its `ddbench run` command"):
        find_runs([failed], f"folder:{home}/images")


def test_another_dataset_and_a_folder_without_runs_are_refused(home):
    other = write_images(home / "other" / "images", {"barn": 5, "pond": 5})
    words = ["redundancy", home / "runs", "--part-size", 1, "--dataset", f"folder:{other}"]
    assert "name the run's dataset with --dataset" in command(home, *words, status=2).stderr
    assert "there is no run at" in command(home, "redundancy", home / "shared", status=2).stderr


def test_no_leaderboard_reads_the_records_and_a_merge_copies_them(home):
    (one,) = json.loads(command(home, "leaderboard", "--format", "json").stdout)["results"]
    assert one["path"].split("/")[4] == "results"
    other = shutil.copytree(home / "runs", home / "other")
    records(home)[0].unlink()
    run_command("--runs", home / "runs", "merge", other)
    assert len(records(home)) == 2


def test_tables_of_all_formats(measured):
    texts = {form: redundancy(measured, *OPTIONS, "--format", form).stdout for form in ("text", "markdown", "latex")}
    assert all("one part of 2 images per class" in text and "IPC 5" in text for text in texts.values())
    assert texts["latex"].count(r"\begin{tabular}") == 2
    lines = redundancy(measured, *OPTIONS, "--format", "csv").stdout.splitlines()
    assert [line.split(",")[-2:] for line in lines[1:]] == [
        ["each", "others"], ["1", "1"], ["1", "2"], ["2", "1"], ["2", "2"],
    ]  # fmt: skip


def test_a_job_can_be_sent_to_another_process(measured):
    runs = find_runs([measured / "runs"], f"folder:{measured}/images")
    jobs = redundancy_jobs(runs, 2, Students.of(("convnet",), str(measured / "few.toml"), 1))
    assert pickle.loads(pickle.dumps(jobs)) == jobs
    scenes = find_dataset("scenes")
    assert pickle.loads(pickle.dumps(scenes)) == scenes


def test_python_reads_what_the_command_wrote(measured):
    where = {"dataset": f"folder:{measured}/images", "shared": measured / "shared", "device": "cpu"}
    protocol = measured / "few.toml"
    measure = ddbench.redundancy(measured / "runs", part_size=2, protocol=protocol, **where)
    assert str(measure) == redundancy(measured, *OPTIONS).stdout
    assert measure.to_latex() == redundancy(measured, *OPTIONS, "--format", "latex").stdout


@pytest.mark.slow
def test_processes_write_the_records_of_one_process(home, measured):
    for path in records(home):
        path.unlink()
    assert redundancy(home, *OPTIONS, "--jobs", 2).stdout == redundancy(measured, *OPTIONS).stdout
    variations = [[read_measured(path).variation for path in records(folder)] for folder in (home, measured)]
    assert variations[0] == variations[1]
    assert len(variations[0]) == 2
