"""Each statistic against scipy's or statsmodels' words for it, by hand, and its properties."""

import math
from statistics import fmean, stdev

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ddbench.leaderboard import statistics

settings.register_profile("same", derandomize=True, database=None, deadline=None)
settings.load_profile("same")

FRACTION = st.floats(0, 1, allow_nan=False).map(lambda x: round(x, 4))
RUNS = st.lists(st.lists(FRACTION, min_size=1, max_size=4), min_size=1, max_size=6)
SEEDS = st.dictionaries(st.integers(0, 9), FRACTION, min_size=1, max_size=8)
BOARD = st.dictionaries(st.sampled_from("abcdef"), SEEDS, min_size=1, max_size=6)


@given(st.lists(FRACTION, min_size=2, max_size=8))
def test_the_interval_is_scipys(means):
    low, high = stats.t.interval(0.95, len(means) - 1, loc=fmean(means), scale=1)
    spread = np.std(means, ddof=1) / math.sqrt(len(means))
    assert statistics.half_width(means) == pytest.approx((high - low) / 2 * spread, abs=1e-12)


def test_an_interval_by_hand():
    # t(0.975, 2) = 4.302653; means 0.5, 0.6, 0.7: deviation 0.1
    assert statistics.half_width([0.5, 0.6, 0.7]) == pytest.approx(4.302653 * 0.1 / math.sqrt(3), abs=1e-7)
    assert statistics.half_width([0.5]) is None


def test_components_by_hand():
    # runs (0.4, 0.6), (0.6, 0.8): variances 0.02 and 0.02, pooled 0.02; means 0.5, 0.7: variance 0.02; the students'
    # share of that is 0.02 / 2
    runs = [[0.4, 0.6], [0.6, 0.8]]
    assert statistics.within_std(runs) == pytest.approx(math.sqrt(0.02), abs=1e-15)
    assert statistics.between_std(runs) == pytest.approx(math.sqrt(0.01), abs=1e-15)
    assert statistics.between_std([[0.4, 0.6], [0.45, 0.55]]) == 0
    assert statistics.within_std([[0.5], [0.6]]) is statistics.between_std([[0.5], [0.6]]) is None
    assert statistics.between_std([[0.4, 0.6]]) is None


@given(st.integers(2, 5), st.integers(2, 4), st.integers(0, 1000))
def test_components_are_those_of_the_analysis_of_variance(runs, students, seed):
    accuracies = np.random.default_rng(seed).random((runs, students)).tolist()
    grand = np.mean(accuracies)
    inside = np.var(accuracies, axis=1, ddof=1).mean()
    outside = students * sum((np.mean(run) - grand) ** 2 for run in accuracies) / (runs - 1)
    assert stats.f_oneway(*accuracies).statistic == pytest.approx(outside / inside)
    assert statistics.within_std(accuracies) == pytest.approx(math.sqrt(inside))
    assert statistics.between_std(accuracies) == pytest.approx(
        math.sqrt(max(0, (outside - inside) / students)), abs=1e-9
    )


@given(SEEDS, SEEDS)
def test_the_paired_test_is_scipys(one, other):
    shared = sorted(one.keys() & other.keys())
    p_value = statistics.paired_t_test(one, other)
    if len(shared) < 2:
        assert p_value is None
        return
    apart = [one[s] - other[s] for s in shared]
    if stdev(apart) < 1e-12:
        return  # all apart by the same but for rounding: see below
    expected = stats.ttest_rel([one[s] for s in shared], [other[s] for s in shared]).pvalue
    assert p_value == pytest.approx(expected, abs=1e-9)


def test_seeds_that_differ_by_the_same_everywhere():
    assert statistics.paired_t_test({0: 0.5, 1: 0.75}, {0: 0.25, 1: 0.5}) is None
    assert statistics.paired_t_test({0: 0.5, 1: 0.75}, {0: 0.5, 1: 0.75}) == 1.0


def test_holm_by_hand():
    # sorted 0.01, 0.02, 0.04 times 3, 2, 1: 0.03, 0.04, 0.04
    assert statistics.holm_correction({"a": 0.04, "b": 0.01, "c": 0.02}) == pytest.approx(
        {"b": 0.03, "c": 0.04, "a": 0.04}
    )
    assert statistics.holm_correction({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0, 1), min_size=1))
def test_holm_only_raises_and_keeps_the_order(values):
    corrected = statistics.holm_correction(values)
    for name, value in values.items():
        assert value <= corrected[name] <= 1
        assert corrected[name] <= min(1.0, len(values) * value) + 1e-12  # Bonferroni's is never smaller
        for other, more in values.items():
            assert value > more or corrected[name] <= corrected[other]


def test_ties_by_hand():
    board = {
        "best": {0: 0.70, 1: 0.72, 2: 0.71, 3: 0.73},
        "near": {0: 0.71, 1: 0.70, 2: 0.72, 3: 0.70},
        "far": {0: 0.50, 1: 0.53, 2: 0.51, 3: 0.52},
        "alone": {9: 0.71},
    }
    assert statistics.best_and_ties(board) == {"best", "near"}
    assert statistics.best_and_ties({"one": {0: 0.5}, "same": {1: 0.5}, "less": {0: 0.4}}) == {"one", "same"}
    assert statistics.best_and_ties({}) == set()


@given(BOARD)
def test_the_best_is_among_its_ties_and_the_order_does_not_matter(board):
    tied = statistics.best_and_ties(board)
    means = {row: fmean(seeds.values()) for row, seeds in board.items()}
    assert {row for row, mean in means.items() if mean == max(means.values())} <= tied
    assert statistics.best_and_ties(dict(reversed(board.items()))) == tied


@settings(max_examples=50)
@given(st.lists(st.lists(FRACTION, min_size=3, max_size=3), min_size=1, max_size=6))
def test_average_ranks_are_scipys(values):
    board = {f"row{i}": dict(zip("xyz", row, strict=True)) for i, row in enumerate(values)}
    expected = stats.rankdata(-np.array(values), axis=0).mean(1)
    assert list(statistics.average_ranks(board).values()) == pytest.approx(list(expected))


def test_a_row_that_lacks_a_column_has_no_average_rank():
    board = {"a": {"x": 0.5, "y": 0.5}, "b": {"x": 0.9}, "c": {"x": 0.1, "y": 0.9}}
    assert statistics.average_ranks(board) == {"a": 1.5, "c": 1.5}
    assert statistics.average_ranks({"a": {}}) == {}
