"""The arithmetic, against numbers worked out by hand; what is never pooled."""

import dataclasses
import math
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddbench.leaderboard.table import (
    best_rows,
    make_cell,
    make_table,
    row_identity,
    shared_fields,
    split_name,
    with_full_everywhere,
)
from ddbench.store.records import Result, RunSpec, StoredResult

SPEC = RunSpec("mine", 1, None, {"a": 1}, "scenes", "by index", "f" * 64, 32, 2, 0)
RESULT = Result(
    SPEC.digest, "c", "convnet", "scratch", 0, "quick", 1, "h", 0.5, 0.25, {}, [], 8, 1.0, 1, "cpu", {}, None, None
)


def entry(accuracy, *, seed=0, student_seed=0, spec=None, **changes):
    """One result of the run `spec` (fields to change) with distillation seed `seed`."""
    run_spec = dataclasses.replace(SPEC, seed=seed, **(spec or {}))
    changes = {"content": f"images of {seed}"} | changes
    result = dataclasses.replace(RESULT, overall=accuracy, seed=student_seed, run=run_spec.digest, **changes)
    return StoredResult(run_spec, result, Path(f"{run_spec.digest}/results/quick-v1/{student_seed}.json"))


def only_cell(entries):
    board = make_table(entries)
    assert (len(board.rows), len(board.columns)) == (1, 1)
    return board.rows[0].cells[board.columns[0]]


def test_students_first_then_distillations():
    # by hand: distillation means 0.5, 0.6, 0.7; their mean 0.6; squared deviations 0.01, 0, 0.01; variance 0.02 / 2
    entries = [
        entry(0.4, seed=0, student_seed=0),
        entry(0.6, seed=0, student_seed=1),
        entry(0.6, seed=1, student_seed=0),
        entry(0.7, seed=2, student_seed=0),
        entry(0.6, seed=2, student_seed=1),
        entry(0.8, seed=2, student_seed=2),
    ]
    pooled = only_cell(entries)
    assert pooled.mean == pytest.approx(0.6, abs=1e-15)
    assert pooled.std == pytest.approx(0.1, abs=1e-15)
    assert (pooled.n, pooled.students) == (3, 6)


def test_one_distillation_has_no_deviation_however_many_students():
    pooled = only_cell([entry(0.4), entry(0.5, student_seed=1)])
    assert (pooled.mean, pooled.std, pooled.n, pooled.students) == (0.45, None, 1, 2)


def test_the_deviation_is_the_samples():
    assert make_cell([([0], [0.0]), ([1], [1.0])]).std == pytest.approx(math.sqrt(0.5), abs=1e-15)


def test_seeds_that_led_to_the_same_images_are_one_distillation():
    same = [entry(0.5, seed=s, content="same") for s in range(3)]
    pooled = only_cell(same)
    assert (pooled.mean, pooled.std, pooled.n, pooled.students, pooled.half_width) == (0.5, None, 1, 1, None)
    assert pooled.by_seed == {0: 0.5, 1: 0.5, 2: 0.5}
    # a student more is the distillation's, whichever of its seeds it was trained for
    pooled = only_cell([*same, entry(0.7, seed=1, student_seed=1, content="same"), entry(0.8, seed=3)])
    assert (pooled.n, pooled.students, pooled.mean) == (2, 3, pytest.approx(0.7))
    assert pooled.by_seed[2] == pytest.approx(0.6)


def test_the_order_of_results_does_not_matter():
    numbers = random.Random(0)
    keys = [(s, j, i) for s in range(5) for j in range(3) for i in (1, 2)]
    entries = [entry(numbers.random(), seed=s, student_seed=j, spec={"ipc": i}) for s, j, i in keys]
    first = make_table(entries)
    for _ in range(5):
        numbers.shuffle(entries)
        assert make_table(entries) == first


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        ("50/50 of each class by SHA-256 of class and file name", "50/50"),
        ("50/50 of each class by SHA-256 of class and file name, resized by bilinear", "50/50 bilinear"),
        ("1-600/rest of each class by the number in the file's name", "1-600/rest"),
        ("torchgeo lists of files (arXiv:1911.06721), those to validate left out", "torchgeo"),
        ("mine.csv of the user's", "mine.csv"),
        ("sides.csv of the hub's, revision 0123456789abcdef", "sides.csv 01234567"),
        ("40 train, 20 test of each class by index", "40/20"),
    ],
)
def test_a_split_has_a_name(rule, name):
    assert split_name(rule) == name


def test_one_split_in_two_peoples_words_is_one_column():
    words = ("b.csv of the user's", "a.csv of the user's")
    both = [entry(0.5 + 0.2 * i, seed=i, spec={"split": rule}) for i, rule in enumerate(words)]
    first, second = make_table(both), make_table(both[::-1])
    assert [column.split for column in first.columns] == [column.split for column in second.columns] == ["a.csv"]
    assert only_cell(both).n == 2


def test_one_distillation_in_two_peoples_words_counts_once():
    """Its seed, its images and its students are the same: what a second file says adds no evidence."""
    words = ("b.csv of the user's", "a.csv of the user's")
    twice = [entry(0.5 + s / 10, seed=s, student_seed=0, spec={"split": rule}) for rule in words for s in range(3)]
    once = only_cell(twice[:3])
    assert only_cell(twice) == once
    assert (once.n, once.students) == (3, 3)
    more = entry(0.9, seed=0, student_seed=1, spec={"split": words[1]})
    pooled = only_cell([*twice, more])
    assert (pooled.n, pooled.students) == (3, 4)
    assert pooled.by_seed[0] == pytest.approx((0.5 + 0.9) / 2)


@pytest.mark.parametrize(
    ("spec", "changes"),
    [
        ({"dataset": "ucm"}, {}),
        ({"fingerprint": "e" * 64}, {}),
        ({"size": 64}, {}),
        ({"ipc": 3}, {}),
        ({}, {"protocol": "long"}),
        ({}, {"protocol_version": 2}),
        ({}, {"protocol_hash": "other"}),
        ({}, {"student": "resnet18"}),
        ({}, {"init": "imagenet"}),
        ({}, {"versions": {"evaluators": "2"}}),
        ({}, {"precision": "bf16"}),
        ({}, {"device": "cuda (a GPU)"}),
    ],
)
def test_columns_are_never_pooled(spec, changes):
    board = make_table([entry(0.2), entry(0.8, spec=spec, **changes)])
    assert len(board.columns) == 2
    assert sorted(c.mean for c in board.rows[0].cells.values()) == [0.2, 0.8]


@pytest.mark.parametrize(
    "spec", [{"method": "other"}, {"method_version": 2}, {"params": {"a": 2}}, {"source": "s"}, {"identity": "i"}]
)
def test_rows_are_never_pooled(spec):
    board = make_table([entry(0.2), entry(0.8, spec=spec)])
    assert [row.cells[board.columns[0]].mean for row in board.rows] in ([0.2, 0.8], [0.8, 0.2])
    assert len({row.label for row in board.rows}) == 2


def test_the_presets_name_does_not_split_a_row():
    board = make_table([entry(0.2), entry(0.4, seed=1, spec={"preset": "tiny"})])
    assert [row.label for row in board.rows] == ["mine (tiny)"]
    assert only_cell([entry(0.2), entry(0.4, seed=1, spec={"preset": "tiny"})]).n == 2


def labels_of(*specs):
    return [row.label for row in make_table([entry(0.5, spec=spec) for spec in specs]).rows]


def test_rows_of_one_preset_are_told_apart_by_their_settings():
    by_rate = [{"params": {"rate": rate, "steps": 1}} for rate in (10.0, 0.5, 9)]
    assert labels_of(*by_rate, {"method": "other"}) == ["mine rate=0.5", "mine rate=9", "mine rate=10", "other"]
    named = [{**spec, "preset": "tiny"} for spec in by_rate[:2]]
    assert labels_of(*named, {"params": {"rate": None}}) == ["mine", "mine (tiny) rate=0.5", "mine (tiny) rate=10"]
    assert labels_of({"params": {}}, {"params": {"rate": 1}}) == ["mine", "mine rate=1"]
    assert labels_of({"params": {"a": 0}}, {"params": {"a": 1}, "identity": "i"}) == ["mine a=0", "mine a=1"]
    assert labels_of({}, {"method_version": 2}) == ["mine version=1", "mine version=2"]


@pytest.mark.parametrize(
    "change",
    [
        {"source": "s"},
        {"source": "s", "params": {"a": 2}},
        {"identity": "i"},
        {"params": {"a": "x" * 30}},
        {"params": dict.fromkeys("abcd", 2)},
    ],
)
def test_rows_that_settings_cannot_tell_apart_have_their_identity(change):
    entries = [entry(0.2), entry(0.8, spec=change)]
    labels = {row.label for row in make_table(entries).rows}
    assert labels == {f"mine #{row_identity(e)[:6]}" for e in entries}


def test_the_metric_can_be_average_accuracy():
    board = make_table([entry(0.9)], metric="average")
    assert board.rows[0].cells[board.columns[0]].mean == 0.25


def test_best_and_missing():
    board = make_table(
        [entry(0.2), entry(0.8, spec={"method": "other"}), entry(0.1, spec={"method": "other", "ipc": 9})]
    )
    two, nine = board.columns
    assert (two.ipc, nine.ipc) == (2, 9)
    (other,) = (row.identity for row in board.rows if row.method == "other")
    assert best_rows(board, two) == best_rows(board, nine) == {other}
    assert [nine in row.cells for row in board.rows] == [False, True]


def test_the_best_and_those_that_a_test_does_not_tell_from_it():
    near = {"best": (0.70, 0.72, 0.71, 0.73), "near": (0.71, 0.70, 0.72, 0.70), "far": (0.50, 0.53, 0.51, 0.52)}
    entries = [entry(a, seed=i, spec={"method": m}) for m, accuracies in near.items() for i, a in enumerate(accuracies)]
    board = make_table([*entries, entry(0.99, spec={"method": "full"})])
    assert {row.method for row in board.rows if row.identity in best_rows(board, board.columns[0])} == {"best", "near"}


def test_anchors_stand_at_the_ends():
    entries = [entry(0.5, spec={"method": name}) for name in ("zoom", "full", "random", "dm")]
    assert [row.method for row in make_table(entries).rows] == ["random", "dm", "zoom", "full"]


def test_all_training_images_are_compared_with_every_ipc():
    entries = [entry(0.5), entry(0.6, spec={"ipc": 9}), entry(0.9, spec={"method": "full", "ipc": 0})]
    elsewhere = entry(0.95, student="resnet18", spec={"method": "full", "ipc": 0})
    board = with_full_everywhere(make_table([*entries, elsewhere]))
    assert [(column.ipc, column.student) for column in board.columns] == [
        (0, "resnet18"),
        (2, "convnet"),
        (9, "convnet"),
    ]
    assert [board.rows[1].cells[column].mean for column in board.columns] == [0.95, 0.9, 0.9]
    assert sorted(cell.mean for cell in board.rows[0].cells.values()) == [0.5, 0.6]


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(1, 2), st.sampled_from(["quick", "long"]),
                          st.sampled_from(["scratch", "imagenet"]), st.sampled_from("ef")), unique=True, max_size=12),
       st.randoms(use_true_random=False))  # fmt: skip
def test_only_what_is_comparable_is_pooled_and_the_order_does_not_matter(keys, numbers):
    by_key = {}
    for seed, student, ipc, protocol, init, split in keys:
        spec = {"ipc": ipc, "fingerprint": split * 64}
        by_key[seed, student, ipc, protocol, init, split] = entry(
            numbers.random(), seed=seed, student_seed=student, spec=spec, protocol=protocol, init=init
        )
    board = make_table(by_key.values())
    shuffled = list(by_key.values())
    numbers.shuffle(shuffled)
    assert make_table(shuffled) == board
    for column, one in (pair for row in board.rows for pair in row.cells.items()):
        numbers_of_cell = [(key, e.result.overall) for key, e in by_key.items()
                if key[2:] == (column.ipc, column.protocol[:-2], column.init, column.fingerprint[0])]  # fmt: skip
        by_seed = {s: [a for key, a in numbers_of_cell if key[0] == s] for s in {key[0] for key, _ in numbers_of_cell}}
        assert one.students == len(numbers_of_cell)
        assert one.by_seed == pytest.approx({s: sum(accuracies) / len(accuracies) for s, accuracies in by_seed.items()})
        assert one.mean == pytest.approx(sum(one.by_seed.values()) / len(by_seed))


def test_what_all_columns_share():
    board = make_table([entry(0.2), entry(0.8, spec={"ipc": 9})])
    assert set(shared_fields(board)) == set(type(board.columns[0]).__dataclass_fields__) - {"ipc"}
    assert shared_fields(make_table([])) == {}
