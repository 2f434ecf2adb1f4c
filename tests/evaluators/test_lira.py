"""LiRA against hand-made Gaussians, whose AUC is known in closed form, and against slow versions."""

import numpy as np
import pytest
from scipy.stats import binom, norm

from evaluators.lira import (
    clustered_auc,
    detectable_rate,
    lira_scores,
    log_odds,
    measure_lira,
)

SPREAD = 5  # of the images' means: a threshold on the confidence itself finds nothing


def halves(rng, runs, images):
    members = np.zeros((runs, images), dtype=bool)
    for first in range(0, runs, 2):
        members[first, rng.permutation(images)[: images // 2]] = True
        members[first + 1] = ~members[first]
    return members


def simulate(rng, runs, images, shift, std=1.0):
    """Confidences of images whose mean is higher by `shift` in runs that had them, and these halves."""
    members = halves(rng, runs, images)
    noise = rng.normal(size=members.shape) * np.where(members, std, 1.0)
    return rng.normal(0, SPREAD, images) + noise + shift * members, members


def attack(*setting, **rest):
    confidences, members = simulate(*setting, **rest)
    return measure_lira(lira_scores(confidences, members), members)


@pytest.mark.parametrize("shift", [1.0, 2.0])
def test_equal_variances_have_the_auc_of_two_gaussians(shift):
    """The ratio grows with the confidence: AUC = Phi(shift / sqrt 2), TPR = 1 - Phi(z - shift)."""
    lira = attack(np.random.default_rng(0), 256, 400, shift)
    assert lira.auc == pytest.approx(norm.cdf(shift / np.sqrt(2)), abs=0.004)
    assert lira.rates[0].tpr == pytest.approx(norm.sf(norm.isf(0.01) - shift), abs=0.01)
    assert lira.rates[0].low < lira.rates[0].tpr < lira.rates[0].high


def test_a_variance_alone_tells_members():
    """With N(0, s) for members and N(0, 1) for others the ratio grows with the square: AUC = 1 - 2 atan(1 / s) / pi."""
    lira = attack(np.random.default_rng(1), 256, 400, 0.0, std=3.0)
    assert lira.auc == pytest.approx(1 - 2 * np.arctan(1 / 3) / np.pi, abs=0.01)


def test_no_threshold_on_the_confidence_does_as_well():
    confidences, members = simulate(np.random.default_rng(2), 32, 200, 2.0)
    assert clustered_auc(confidences, members)[0] < 0.65
    assert measure_lira(lira_scores(confidences, members), members).auc > 0.85


def test_intervals_hold_the_truth_where_nothing_leaks():
    """Three hundred seeded trials of few runs and images; the bias is of the order of 1 / images."""
    rng = np.random.default_rng(3)
    results = [attack(rng, 8, 60, 0.0) for _ in range(300)]
    assert np.mean([lira.auc for lira in results]) == pytest.approx(0.5, abs=0.008)
    assert np.mean([lira.auc_low <= 0.5 <= lira.auc_high for lira in results]) == pytest.approx(0.95, abs=0.03)
    assert np.mean([lira.rates[0].low <= 0.01 <= lira.rates[0].high for lira in results]) > 0.95
    assert np.mean([lira.succeeds for lira in results]) < 0.06


def test_intervals_hold_the_truth_where_some_images_leak():
    """A third of the images leak, so the scores of an image depend on each other."""
    rng = np.random.default_rng(4)

    def trial(images):
        confidences, members = simulate(rng, 8, images, 0.0)
        confidences += 4 * members * (rng.random(images) < 0.3)
        return measure_lira(lira_scores(confidences, members), members)

    true = np.mean([trial(6000).auc for _ in range(10)])
    results = [trial(60) for _ in range(300)]
    assert np.mean([lira.auc_low <= true <= lira.auc_high for lira in results]) == pytest.approx(0.95, abs=0.03)


def test_scores_are_the_ratio_of_the_other_pairs_gaussians():
    confidences, members = simulate(np.random.default_rng(5), 6, 8, 1.0)
    scores = lira_scores(confidences, members)
    for run in range(6):
        others = [other for other in range(6) if other // 2 != run // 2]
        parts = []
        for kind in (True, False):
            groups = [[confidences[o, i] for o in others if members[o, i] == kind] for i in range(8)]
            std = np.sqrt(np.mean([np.var(group, ddof=1) for group in groups]))
            parts.append([norm.logpdf(confidences[run, i], np.mean(group), std) for i, group in enumerate(groups)])
        assert scores[run] == pytest.approx(np.subtract(*parts))


def test_many_runs_give_each_image_its_own_variance():
    rng = np.random.default_rng(6)
    members = halves(rng, 80, 2)
    confidences = rng.normal(size=(80, 2)) * (1, 100)
    scores = lira_scores(confidences, members)[0]
    for i in range(2):
        values = [confidences[2:, i][members[2:, i] == kind] for kind in (True, False)]
        parts = [norm.logpdf(confidences[0, i], value.mean(), value.std(ddof=1)) for value in values]
        assert scores[i] == pytest.approx(parts[0] - parts[1])


def test_the_auc_and_its_deviation_are_those_of_a_slow_version():
    rng = np.random.default_rng(7)
    scores, members = rng.integers(0, 9, (6, 20)).astype(float), halves(rng, 6, 20)  # with ties
    x, y = scores[members], scores[~members]
    wins = (x[:, None] > y) + 0.5 * (x[:, None] == y)
    auc, std = clustered_auc(scores, members)
    assert auc == pytest.approx(wins.mean())
    image = np.tile(np.arange(20), (6, 1))
    parts = [
        (wins[image[members] == i].mean(1) - auc).sum() / len(x)
        + (wins[:, image[~members] == i].mean(0) - auc).sum() / len(y)
        for i in range(20)
    ]
    assert std == pytest.approx(np.sqrt(np.square(parts).sum() * 20 / 19))


def test_images_that_are_all_found_leave_an_interval():
    confidences, members = simulate(np.random.default_rng(8), 8, 50, 1000.0)
    lira = measure_lira(lira_scores(confidences, members), members, (0.01, 0.001))
    assert (lira.auc, lira.rates[0].tpr, lira.rates[1].tpr) == (1, 1, 1)
    assert 0.9 < lira.auc_low < lira.auc_high == 1
    assert lira.rates[0].low > 0.9


def test_runs_that_agree_exactly_tell_nothing():
    members = halves(np.random.default_rng(9), 6, 20)
    lira = measure_lira(lira_scores(np.zeros((6, 20)), members), members)
    assert (lira.auc, lira.rates[0].tpr) == (0.5, 0)
    assert not lira.succeeds


def test_used_members_have_a_rate_of_their_own():
    confidences, members = simulate(np.random.default_rng(10), 16, 200, 0.0)
    used = members & (np.random.default_rng(11).random(members.shape) < 0.2)
    lira = measure_lira(lira_scores(confidences + 1000 * used, members), members, used=used)
    assert lira.used == used.sum()
    assert lira.used_tpr > 0.9 > 0.1 > lira.unused_tpr


def test_log_odds_are_exact_far_from_one_half():
    logits = np.array([[800.0, 0.0, 1.0], [0.0, 0.1, -0.2]])
    p = np.exp(logits[1]) / np.exp(logits[1]).sum()
    expected = [800 - np.log(1 + np.e), np.log(p[2] / (p[0] + p[1]))]
    assert log_odds(logits, np.array([0, 2])) == pytest.approx(expected)


def test_the_detectable_rate_is_found_with_that_power():
    rate = detectable_rate(0.01, 250)
    found = [k for k in range(251) if binom.sf(k - 1, 250, 0.01) < 0.025]  # counts whose interval is above 0.01
    assert binom.sf(found[0] - 1, 250, rate) == pytest.approx(0.8)


def test_impossible_runs_are_refused():
    confidences, members = simulate(np.random.default_rng(12), 8, 10, 0.0)
    with pytest.raises(ValueError, match="7 runs are not an even number of at least 6"):
        lira_scores(confidences[:7], members[:7])
    with pytest.raises(ValueError, match="in one run of each pair"):
        lira_scores(confidences, members[[1, *range(1, 8)]])
