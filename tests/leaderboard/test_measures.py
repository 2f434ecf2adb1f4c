"""Tables of measures from records written by hand: pooled as in the leaderboard, gaps left open."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from test_records import SPEC, result

from ddbench.leaderboard.measures import accuracy_table, measured_rows, redundancy_matrix, render_measure
from ddbench.store.measured import MeasuredResult, MeasuredStudent, Variation, read_measured, write_measured


def student(x, overall, seed=0, student_seed=0, method="random", accuracies=(), **place):
    own = result(overall=overall, seed=student_seed, content=f"{method}{seed}")
    spec = replace(SPEC, method=method, seed=seed, ipc=0 if method == "full" else SPEC.ipc)
    return MeasuredStudent(x, spec, MeasuredResult(own, Variation("measure", place, accuracies), Path("x")))


def test_students_of_a_distillation_are_averaged_first():
    students = [student(2, 0.2), student(2, 0.4, student_seed=1), student(2, 0.7, seed=1), student(4, 0.5)]
    (row,) = measured_rows(students)
    assert (row.cells[2].mean, row.cells[2].n, row.cells[2].std) == (pytest.approx(0.5), 2, pytest.approx(0.2 * 2**0.5))
    assert (row.cells[4].mean, row.cells[4].n, row.cells[4].std) == (0.5, 1, None)


def test_a_budget_has_another_hash_and_the_same_row():
    students = [student(1, 0.2, steps=1, full_steps=4), student(4, 0.4, steps=4, full_steps=4)]
    other = replace(students[1].measured.result, protocol_hash="f" * 64)
    students[1] = replace(students[1], measured=replace(students[1].measured, result=other))
    lines = list(csv.DictReader(io.StringIO(render_measure("budget", measured_rows(students), "csv"))))
    values = [(line["steps"], line["share"], line["mean"]) for line in lines]
    assert values == [("1", "0.25", "0.2"), ("4", "1.0", "0.4")]


def test_random_comes_first_and_what_is_missing_is_a_dash():
    rows = measured_rows([student(2, 0.2, method="alpha"), student(4, 0.4)])
    text = accuracy_table(rows, lambda x: f"{x} classes", "orders", "markdown").splitlines()
    assert text[2:4] == ["| random | - | 40.0 |", "| alpha | 20.0 | - |"]
    assert text[-1].startswith("*scenes, 32 px, IPC 2, quick@1, convnet, scratch, fp32, split")
    assert text[-1].endswith("mean ± sample std over n orders, n = 1*")
    two = measured_rows([student(2, 0.2), student(2, 0.4, seed=1), student(4, 0.4)])
    text = accuracy_table(two, lambda x: f"{x} classes", "orders", "markdown").splitlines()
    assert text[2] == "| random | 30.0 ± 14.1 (n=2) | 40.0 (n=1) |"
    three = measured_rows([student(2, 0.2), student(2, 0.4, seed=1), student(2, 0.4, method="alpha")])
    text = accuracy_table(three, lambda x: f"{x} classes", "orders", "markdown").splitlines()
    assert text[2:4] == ["| random | 2 | 30.0 ± 14.1 |", "| alpha | 1 | 40.0 |"]


def test_all_training_images_come_last():
    rows = measured_rows([student(2, 0.9, method="full"), student(2, 0.4), student(2, 0.5, method="alpha")])
    assert [row.label for row in rows] == ["random", "alpha", "full"]
    assert accuracy_table(rows, str, "orders", "markdown").splitlines()[4] == "| all | full | 90.0 |"


def test_the_matrix_is_open_where_no_student_was_trained():
    trained = student(3, 0.4, accuracies=(0.9, 0.3, 0.5), part=0, parts=3, part_size=1)
    twin = student(3, 0.2, seed=1, accuracies=(0.7, 0.1, 0.3), part=0, parts=3, part_size=1)
    (row,) = measured_rows([trained, twin])
    assert redundancy_matrix(row, 3) == (pytest.approx((0.8, 0.2, 0.4)), (None,) * 3, (None,) * 3)
    assert "| 2 | - | - | - |" in render_measure("redundancy", [row], "markdown").splitlines()
    (record,) = json.loads(render_measure("redundancy", [row], "json"))
    assert record["matrix"][1] == [None] * 3


@pytest.mark.parametrize("measure", ["redundancy", "budget", "continual"])
def test_without_records_there_is_no_table(measure):
    assert render_measure(measure, []) == "no results yet\n"
    assert json.loads(render_measure(measure, [], "json")) == []


def test_a_record_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "student.json"
    variation = Variation("budget", {"steps": 3}, (0.5, 1.0), ("barn",))
    write_measured(MeasuredResult(result(), variation, path))
    assert read_measured(path) == MeasuredResult(result(), variation, path)
    path.write_text(path.read_text().replace('"steps": 3', '"steps": -3'))
    with pytest.raises(ValueError, match="student"):
        read_measured(path)
    path.write_text("{}")
    with pytest.raises(ValueError, match="no record of a measure's student"):
        read_measured(path)
