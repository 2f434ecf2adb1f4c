"""Equal-accuracy ratio and gain per added image: by hand, against a slow search, and on stored results."""

import csv
import io
import math
import random
from itertools import pairwise
from pathlib import Path

import pytest
from test_table import entry

from ddbench.leaderboard.extra_values import CellCosts, extra_values
from ddbench.leaderboard.filters import Filters
from ddbench.leaderboard.render import TableOptions, render
from ddbench.leaderboard.scaling import Limit, images_for_accuracy, interval_of_images
from ddbench.leaderboard.statistics import LEVEL, paired_t_test
from ddbench.leaderboard.table import make_cell, make_table
from ddbench.store.results_file import read_results

WORKED = Path(__file__).parents[2] / "experiments" / "worked" / "results.jsonl.gz"


def cell(*accuracies):
    return make_cell([([seed], [accuracy]) for seed, accuracy in enumerate(accuracies)])


def constant(accuracy, seeds=3):
    """A method without seeds: one distillation, recorded under every seed."""
    return make_cell([(list(range(seeds)), [accuracy])])


def results(method, by_ipc, **changes):
    """Results of a method: IPC -> accuracies by seed."""
    spec = {"method": method} | changes.pop("spec", {})
    return [
        entry(accuracy, seed=seed, spec={**spec, "ipc": ipc}, content=f"{method} {ipc} {seed}", **changes)
        for ipc, accuracies in by_ipc.items()
        for seed, accuracy in enumerate(accuracies)
    ]


def values_of(entries, method, *names):
    """IPC -> extra values of a method."""
    board = make_table(entries)
    identities = {row.identity for row in board.rows if row.method == method}
    values = extra_values(board, names, CellCosts())
    return {column.ipc: of for (identity, column), of in values.items() if identity in identities}


CURVE = {1: cell(0.2), 10: cell(0.4), 100: cell(0.6)}


@pytest.mark.parametrize(
    ("accuracy", "images", "relation"),
    [
        (0.3, math.sqrt(10), "="),  # half of the way from log 1 to log 10
        (0.5, math.sqrt(1000), "="),
        (0.2, 1, "="),
        (0.4, 10, "="),
        (0.6, 100, "="),
        (0.19, 1, "<"),
        (0.61, 100, ">"),
    ],
)
def test_images_are_interpolated_in_log_ipc_and_never_extrapolated(accuracy, images, relation):
    assert images_for_accuracy(CURVE, accuracy) == Limit(pytest.approx(images, rel=1e-12), relation)


@pytest.mark.parametrize("ipc", [3, 7, 10, 33, 50])
def test_an_accuracy_of_the_curve_has_its_own_ipc_to_the_bit(ipc):
    assert images_for_accuracy({1: cell(0.1), ipc: cell(0.5), 99: cell(0.7)}, 0.5) == Limit(ipc)


def test_of_a_curve_that_is_not_monotone_the_first_crossing_counts():
    curve = {1: cell(0.2), 10: cell(0.5), 20: cell(0.4), 50: cell(0.6)}
    assert images_for_accuracy(curve, 0.35).images == pytest.approx(math.sqrt(10))
    assert images_for_accuracy(curve, 0.45).images == pytest.approx(10 ** (0.25 / 0.3))  # not one between 20 and 50
    assert images_for_accuracy(curve, 0.55).images == pytest.approx(20 * 2.5**0.75)
    assert images_for_accuracy({1: cell(0.3), 10: cell(0.2)}, 0.25) == Limit(1, "<")  # one image has more already
    assert images_for_accuracy({1: cell(0.3), 10: cell(0.5), 20: cell(0.4)}, 0.6) == Limit(20, ">")


def test_one_ipc_of_random_says_more_or_less():
    one = {10: cell(0.4)}
    assert [images_for_accuracy(one, a) for a in (0.3, 0.4, 0.5)] == [Limit(10, "<"), Limit(10), Limit(10, ">")]


def test_the_interval_of_a_constant_by_hand():
    # random rises by 1 at every seed: its deviation is 0.2 everywhere, so its mean may differ by t * 0.2 / sqrt(3)
    curve = {1: cell(0.2, 0.4, 0.6), 100: cell(1.2, 1.4, 1.6)}
    half = 4.302652729911275 * 0.2 / math.sqrt(3)
    low, high = interval_of_images(curve, constant(0.9))
    assert (low.relation, high.relation) == ("=", "=")
    assert math.log(low.images, 100) == pytest.approx(0.5 - half, abs=1e-9)
    assert math.log(high.images, 100) == pytest.approx(0.5 + half, abs=1e-9)


def naive_interval(curve, own, steps=300):
    """Every number on a fine grid that the paired test keeps."""
    kept, ipcs = [], sorted(curve)
    for few, many in pairwise(ipcs):
        for step in range(steps + 1):
            share = step / steps
            at = {s: (1 - share) * curve[few].by_seed[s] + share * curve[many].by_seed[s] for s in own.by_seed}
            p = paired_t_test(at, own.by_seed)
            if p is not None and p >= LEVEL:
                kept.append(few ** (1 - share) * many**share)
    point = images_for_accuracy(curve, own.mean)
    kept += [point.images] if point.relation == "=" else []
    return (min(kept), max(kept)) if kept else None


@pytest.mark.parametrize("number", range(12))
def test_the_interval_is_what_the_paired_test_keeps(number):
    draw = random.Random(number)
    noisy = lambda mean: cell(*(mean + draw.gauss(0, 0.03) for _ in range(3 + number % 3)))  # noqa: E731
    # every third is not monotone
    curve = {1: noisy(0.2), 5: noisy(0.4), 10: noisy(0.35 if number % 3 == 0 else 0.5), 50: noisy(0.6)}
    own = noisy(draw.uniform(0.1, 0.7))
    slow = naive_interval(curve, own)
    (low, high), point = interval_of_images(curve, own), images_for_accuracy(curve, own.mean)
    if slow is None:
        assert low == high == point
        return
    assert (low.relation == "<") == (slow[0] == 1 or point.relation == "<")
    assert (high.relation == ">") == (slow[1] == 50 or point.relation == ">")
    assert low.images == pytest.approx(slow[0], rel=0.015)
    assert high.relation == ">" or high.images == pytest.approx(slow[1], rel=0.015)
    assert low.images <= point.images <= high.images


def test_an_interval_covers_as_often_as_it_says():
    """95 %, of curves drawn with three seeds; a bootstrap over three seeds covers about 80 %."""
    draw, covered, times = random.Random(1), 0, 1000
    for _ in range(times):
        curve = {ipc: cell(*(mean + draw.gauss(0, 0.02) for _ in range(3))) for ipc, mean in ((1, 0.3), (10, 0.6))}
        own = cell(*(0.45 + draw.gauss(0, 0.02) for _ in range(3)))
        low, high = interval_of_images(curve, own)
        above = low.relation == "<" or (low.relation == "=" and low.images <= math.sqrt(10))
        below = high.relation == ">" or (high.relation == "=" and high.images >= math.sqrt(10))
        covered += above and below
    assert abs(covered / times - 0.95) < 0.02  # three deviations of the share


def test_an_interval_needs_two_shared_seeds_and_differences_that_vary():
    three = {1: cell(0.2, 0.25, 0.22), 10: cell(0.4, 0.45, 0.5)}
    assert interval_of_images(three, cell(0.3)) is None
    assert interval_of_images({**three, 50: cell(0.6)}, cell(0.3, 0.31, 0.33)) is None
    assert interval_of_images({1: constant(0.2), 10: constant(0.4)}, constant(0.3)) is None
    assert interval_of_images(three, constant(0.3)) is not None


RANDOM = {1: (0.18, 0.2, 0.22), 10: (0.42, 0.4, 0.38), 100: (0.58, 0.6, 0.62)}
MINE = {1: (0.3, 0.31, 0.29), 10: (0.55, 0.5, 0.45), 50: (0.7, 0.71, 0.72)}


def test_ratios_of_a_table_are_images_divided_by_the_ipc():
    ratios = values_of([*results("random", RANDOM), *results("mine", MINE)], "mine", "ratio")
    assert {ipc: of["ratio"] for ipc, of in ratios.items()} == pytest.approx(
        {1: math.sqrt(10), 10: math.sqrt(1000) / 10, 50: 2.0}
    )
    assert [of["ratio_relation"] for of in ratios.values()] == ["=", "=", ">"]
    assert ratios[50]["ratio_high"] == 2.0
    assert ratios[50]["ratio_high_relation"] == ">"


def test_random_has_the_ratio_1_and_full_has_none():
    entries = [*results("random", RANDOM), *results("full", {0: (0.9,)})]
    assert values_of(entries, "random", "ratio") == {ipc: {"ratio": 1.0, "ratio_relation": "="} for ipc in RANDOM}
    assert values_of(entries, "full", "ratio", "slope") == {0: {}}


@pytest.mark.parametrize(
    "changes",
    [
        {"student": "resnet18"},
        {"protocol": "long"},
        {"init": "imagenet"},
        {"protocol_hash": "g"},
        {"versions": {"evaluators": "9"}},
        {"spec": {"size": 64}},
        {"spec": {"dataset": "ucm"}},
        {"spec": {"fingerprint": "e" * 64}},
    ],
)
def test_a_curve_of_random_is_of_one_group_of_columns(changes):
    own = results("mine", MINE)
    elsewhere = results("random", RANDOM, **changes)
    assert all("ratio" not in of for of in values_of([*own, *elsewhere], "mine", "ratio").values())
    assert values_of([*own, *elsewhere, *results("random", RANDOM)], "mine", "ratio") == values_of(
        [*own, *results("random", RANDOM)], "mine", "ratio"
    )


def test_two_versions_of_random_give_no_ratio():
    entries = [*results("random", RANDOM), *results("mine", MINE)]
    newer = results("random", {10: (0.5,)}, spec={"method_version": 2})
    assert all("ratio" not in of for of in values_of([*entries, *newer], "mine", "ratio").values())


def test_slopes_are_between_neighbours_of_the_method():
    slopes = values_of([*results("random", RANDOM), *results("mine", MINE)], "mine", "slope")
    assert slopes[1] == {}
    assert slopes[10] == {"slope": pytest.approx(0.2 / 9), "slope_from": 1}
    assert slopes[50] == {"slope": pytest.approx(0.21 / 40), "slope_from": 10}
    assert values_of(results("mine", {10: (0.5, 0.4)}), "mine", "slope") == {10: {}}
    falling = values_of(results("mine", {1: (0.5,), 3: (0.4,)}), "mine", "slope")
    assert falling[3]["slope"] == pytest.approx(-0.05)


def test_texts_name_limits_and_smaller_ipcs():
    odd = {1: (0.1, 0.12, 0.11), 50: (0.5, 0.6, 0.4), 100: (0.9, 0.91, 0.92)}
    entries = [*results("random", RANDOM), *results("mine", MINE), *results("odd", odd), *results("one", {10: (0.3,)})]
    text = render(entries, "markdown", TableOptions(("ratio", "slope"))).splitlines()
    table = {line.split("|")[1].strip(): [part.strip() for part in line.split("|")[2:-1]] for line in text[:-2]}
    heads = dict(zip(table["method"], range(99), strict=False))
    assert {head for head in heads if "slope" in head} == {
        "IPC 1 convnet slope", "IPC 10 convnet slope from 1", "IPC 50 convnet slope", "IPC 100 convnet slope",
    }  # fmt: skip
    assert table["odd"][heads["IPC 50 convnet slope"]] == "+0.80 from 1"
    assert table["mine"][heads["IPC 50 convnet slope"]] == "+0.52 from 10"
    assert table["mine"][heads["IPC 50 convnet ratio"]] == "> 2.00 [> 2.00]"
    assert table["odd"][heads["IPC 1 convnet ratio"]] == "< 1.00 [< 1.00]"
    assert table["one"][heads["IPC 10 convnet ratio"]] == "0.32"
    assert table["random"][heads["IPC 10 convnet ratio"]] == "1.00"
    assert table["mine"][heads["IPC 100 convnet ratio"]] == ""


def test_a_filter_of_an_ipc_leaves_the_curve_whole():
    entries = [*results("random", RANDOM), *results("mine", MINE)]
    chosen = list(filter(Filters(ipc=10).matches, entries))
    options = TableOptions(("ratio", "slope"), measured=entries)
    whole, part = (
        {(line["method"], line["ipc"]): (line["ratio"], line["slope"]) for line in csv.DictReader(io.StringIO(text))}
        for text in (render(entries, "csv", options), render(chosen, "csv", options))
    )
    assert part == {key: numbers for key, numbers in whole.items() if key[1] == "10"}
    assert len(part) == 2


def test_an_empty_column_is_named_with_what_it_needs(caplog):
    render(results("mine", {10: (0.3, 0.4)}), "csv", TableOptions(("ratio", "slope", "cross")))
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "the column 'ratio' is empty", "the column 'slope' is empty", "the column 'cross' is empty",
    ]  # fmt: skip
    assert "one row of `random`" in caplog.text


def test_stored_results_of_the_worked_example():
    """The table that docs/tables.md explains, against the search over a grid."""
    entries = read_results(WORKED).results
    board = make_table(entries)
    values = extra_values(board, ("ratio", "slope"), CellCosts())
    (random_row,) = (row for row in board.rows if row.method == "random")
    seen = 0
    for row in (row for row in board.rows if row.method in ("dpd", "herding")):
        for column, own in row.cells.items():
            curve = {c.ipc: cell for c, cell in random_row.cells.items() if c.any_ipc == column.any_ipc}
            assert sorted(curve) == [1, 10]
            of, slow = values[row.identity, column], naive_interval(curve, own)
            assert of["ratio"] == images_for_accuracy(curve, own.mean).images / column.ipc
            if slow and (of["ratio_low_relation"], of["ratio_high_relation"]) == ("=", "="):
                assert [of["ratio_low"], of["ratio_high"]] == pytest.approx([k / column.ipc for k in slow], rel=0.015)
                seen += 1
            if column.ipc == 10:
                (before,) = (cell for c, cell in row.cells.items() if c.any_ipc == column.any_ipc and c.ipc == 1)
                assert of["slope"] == (own.mean - before.mean) / 9
    assert seen >= 3
