"""Attacks and distances against slow versions, known answers, and the coverage of the intervals."""

import math

import numpy as np
import pytest
from scipy.stats import beta, binomtest, mannwhitneyu, norm

from evaluators import audit
from evaluators.audit import Side

CLASSES = ("barn", "pond", "wood")
TRIALS = 1000


def side(count, dimensions=6, seed=0):
    """Random directions, `count` of each class."""
    numbers = np.random.default_rng(seed)
    features = audit.unit_length(numbers.normal(size=(3 * count, dimensions)))
    return Side(features, np.repeat(np.arange(3), count))


def attack_of(members, others, seed, auc=0.5):
    """An attack by normal scores in three classes; members score above other images with probability `auc`."""
    numbers, labels = np.random.default_rng(seed), np.repeat(np.arange(3), members + others)
    is_member = np.tile(np.arange(members + others) < members, 3)
    scores = numbers.normal(size=len(labels)) + math.sqrt(2) * norm.ppf(auc) * is_member
    return audit.attack(scores, is_member, labels, CLASSES)


@pytest.mark.parametrize(("members", "others", "auc"), [(20, 30, 0.5), (1, 40, 0.5), (15, 25, 0.8)])
def test_the_interval_holds_the_auc_in_95_of_100_trials(members, others, auc):
    """0.5: a set from an independent generator."""
    attacks = [attack_of(members, others, seed, auc) for seed in range(TRIALS)]
    covered = sum(one.auc_low <= auc <= one.auc_high for one in attacks)
    assert binomtest(covered, TRIALS, 0.95).pvalue > 0.01


def test_the_detectable_auc_is_detected_in_four_of_five_trials():
    least = attack_of(15, 25, 0).detectable
    detected = sum(attack_of(15, 25, seed, least).auc_low > 0.5 for seed in range(400))
    assert binomtest(detected, 400, 0.8).pvalue > 0.01
    assert audit.detectable_auc({(1, 1): 1}) is None


def test_a_success_above_a_baseline_needs_as_much_more():
    """The power is that of an interval above the baseline, not above a half."""
    least = audit.detectable_auc({(15, 25): 3}, 0.6)
    assert least > 0.6 + audit.detectable_auc({(15, 25): 3}) - 0.5 - 0.02
    detected = sum(attack_of(15, 25, seed, least).auc_low > 0.6 for seed in range(400))
    assert binomtest(detected, 400, 0.8).pvalue > 0.01
    assert audit.detectable_auc({(15, 25): 3}, 0.4) == audit.detectable_auc({(15, 25): 3})
    assert attack_of(15, 25, 0).detectable == audit.detectable_auc({(15, 25): 3}, 0.5)


@pytest.mark.parametrize(("members", "others"), [(40, 60), (1000, 250)])
def test_nothing_is_found_for_sure_where_there_is_nothing(members, others):
    """The interval of the TPR alone would be above 1 % far more often: its threshold is drawn too."""
    successes = sum(attack_of(members, others, seed).finds_some() for seed in range(TRIALS))
    assert successes < 0.025 * TRIALS


def test_few_copies_among_many_members_are_found():
    """Sixty of a thousand members stand out: an AUC of 0.53, and a TPR of 7 %."""
    numbers, is_member = np.random.default_rng(0), np.arange(2000) < 1000
    scores = numbers.normal(size=2000)
    scores[:60] += 9
    result = audit.attack(scores, is_member, np.zeros(2000, dtype=int), CLASSES)
    assert result.finds_some()
    assert result.finds_some(baseline=0.03)
    assert not result.finds_some(baseline=result.tpr_low)


def test_auc_and_rates_are_those_of_scipy():
    numbers = np.random.default_rng(0)
    scores = numbers.integers(0, 9, 400).astype(float)  # many ties
    is_member, labels = numbers.random(400) < 0.3, numbers.integers(0, 3, 400)
    scores[np.flatnonzero(is_member)[:7]] = 9
    result = audit.attack(scores, is_member, labels, CLASSES)
    aucs, members = [], []
    for label, name in enumerate(CLASSES):
        a, b = (scores[(labels == label) & side] for side in (is_member, ~is_member))
        aucs.append(mannwhitneyu(a, b).statistic / (len(a) * len(b)))
        members.append(len(a))
        assert result.per_class[name] == pytest.approx(aucs[-1])
    assert result.auc == pytest.approx(np.average(aucs, weights=members))
    assert result.auc_low < result.auc < result.auc_high
    threshold = min(t for t in range(10) if (scores[~is_member] > t).mean() <= 0.01)
    assert result.tpr == (scores[is_member] > threshold).mean() > 0
    assert result.fpr == (scores[~is_member] > threshold).mean() <= 0.01
    hits, n = round(result.tpr * result.members), result.members
    limits = beta.ppf(0.025, hits, n - hits + 1), beta.ppf(0.975, hits + 1, n - hits)
    assert (result.tpr_low, result.tpr_high) == pytest.approx(limits)
    assert audit.clopper_pearson(0, 5)[0] == 0
    assert audit.clopper_pearson(5, 5)[1] == 1


def test_the_deviation_at_a_half_is_that_of_mann_and_whitneys_statistic():
    variance = sum((m / 13) ** 2 * (m + n + 1) / (12 * m * n) for m, n in ((4, 7), (5, 2), (4, 7)))
    assert audit.auc_std(0.5, {(4, 7): 2, (5, 2): 1}) == pytest.approx(math.sqrt(variance))


def test_classes_of_one_kind_of_image_are_left_out():
    labels, scores = np.array([0, 0, 1]), np.arange(3.0)
    assert audit.attack(scores, np.array([True, True, False]), labels, CLASSES) is None
    some = audit.attack(scores, np.array([True, False, False]), labels, CLASSES)
    assert (some.members, some.others, list(some.per_class)) == (1, 1, ["barn"])


def test_nearest_images_are_other_images_of_the_class(monkeypatch):
    monkeypatch.setattr(audit, "BLOCK", 2)
    images, others = side(5), side(4, seed=1)
    highest, rows = audit.highest_cosines(images, others)
    among, neighbours = audit.highest_cosines(images)
    for i, label in enumerate(images.labels):
        cosines = {j: float(images.features[i] @ others.features[j]) for j in np.flatnonzero(others.labels == label)}
        assert rows[i] == max(cosines, key=cosines.get)
        assert highest[i] == pytest.approx(max(cosines.values()), abs=1e-6)
        of_class = {j: float(images.features[i] @ images.features[j]) for j in np.flatnonzero(images.labels == label)}
        del of_class[i]
        assert neighbours[i] == max(of_class, key=of_class.get)
        assert among[i] == pytest.approx(max(of_class.values()), abs=1e-6)
    first_class = Side(others.features[:4], others.labels[:4])
    assert audit.highest_cosines(images, first_class)[1].tolist()[5:] == [-1] * 10


def test_distances_of_copies_and_of_independent_images():
    train, test, numbers = side(40), side(40, seed=1), np.random.default_rng(0)
    background, _ = audit.highest_cosines(train)
    copies = train.rows(np.arange(0, 120, 10))
    of_copies = audit.distances(copies, train, background, audit.distance_ratio(copies, train, test, numbers))
    assert (of_copies.similarity, of_copies.authentic, of_copies.above) == (pytest.approx(1), 0, 1)
    assert of_copies.ratio < 1e-3

    fresh = side(200, seed=2)
    measured = audit.distances(fresh, train, background, audit.distance_ratio(fresh, train, test, numbers))
    assert measured.ratio == pytest.approx(1, abs=0.15)
    assert measured.above == pytest.approx(0.05, abs=0.05)
    authentic = [highest <= background[row] for highest, row in zip(*audit.highest_cosines(fresh, train), strict=True)]
    assert measured.authentic == np.mean(authentic)
    assert audit.distance_ratio(test, train, test, numbers) is None  # test images are in the set


def test_many_training_images_are_compared_by_a_part_of_them(monkeypatch):
    """The background is of as many images as may be; which images are authentic does not depend on it."""
    train, fresh = side(40), side(200, seed=2)
    every, _ = audit.highest_cosines(train)
    assert np.array_equal(audit.background_cosines(train, np.random.default_rng(0)), every)
    monkeypatch.setattr(audit, "MOST_COMPARED", 30)
    part = audit.background_cosines(train, np.random.default_rng(0))
    assert len(part) == 30
    assert np.isin(part.round(5), every.round(5)).all()
    whole, drawn = (audit.distances(fresh, train, background, None) for background in (every, part))
    assert drawn.authentic == whole.authentic
    assert drawn.background != whole.background


def test_features_must_be_finite():
    with pytest.raises(ValueError, match="not finite"):
        audit.unit_length(np.array([[1.0, np.nan]]))
    assert audit.unit_length(np.zeros((1, 3))).tolist() == [[0, 0, 0]]  # of an image of one colour
