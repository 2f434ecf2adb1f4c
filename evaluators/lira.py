"""The likelihood-ratio attack (LiRA): was an image among those that a student's set was distilled from? No torch.

Carlini et al., "Membership inference attacks from first principles" (S&P 2022), Algorithm 1, on students of distilled
sets as Zhao and Zhang attack them (ICLR 2025). Runs come in pairs: run 2j had a random half of the audited images, run
2j + 1 the other half. A pair is attacked with the Gaussians of all other pairs, so each image is a member and a
non-member against the same two Gaussians. Without a trace of them the expected AUC of n images is 0.5 - O(1 / n).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log, sqrt

import numpy as np
import numpy.typing as npt

from evaluators.audit import FPR, LEVEL, POWER, clopper_pearson, lower_auc

Doubles = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

FEWEST_PAIRS = 3  # a pair is attacked with the others, and a variance needs two runs of a kind
OWN_VARIANCE = 32  # runs of a kind from which an image has a variance of its own (Carlini et al.: 64 models in all)
MANY = 1000  # audited images from which the rate at 0.1 % FPR is given too
LOW_FPR = 0.001
LEAST_STD = 1e-6  # of a Gaussian: runs that agree exactly


@dataclass(frozen=True)
class Rate:
    """True positive rate at a false positive rate, for one threshold of all images and runs.

    fpr: largest share of non-members above the threshold
    tpr: share of members above it
    low, high: 95 % interval of Clopper and Pearson, the threshold being fixed; an image counts once, not once a run
    detectable: least rate whose interval is above `fpr` with probability 0.8; None if no rate is
    """

    fpr: float
    tpr: float
    low: float
    high: float
    detectable: float | None


@dataclass(frozen=True)
class Lira:
    """Success of the attack on some images over all runs.

    images: number
    auc: probability that a member's score is above a non-member's, ties half
    auc_low, auc_high, std: its 95 % interval and standard deviation, in which the scores of one image depend on each
        other
    rates: at 1 % FPR, then at 0.1 % if there are enough images
    used, used_tpr: pairs of image and run whose set names the image as used, and the rate of these members at 1 % FPR
    unused_tpr: rate of the other members
    """

    images: int
    auc: float
    auc_low: float
    auc_high: float
    std: float
    rates: tuple[Rate, ...]
    used: int = 0
    used_tpr: float | None = None
    unused_tpr: float | None = None

    @property
    def detectable(self) -> float:
        """Least AUC that is told from 0.5 with probability 0.8."""
        return min(1.0, 0.5 + (LEVEL + POWER) * self.std)

    @property
    def succeeds(self) -> bool:
        """True if the interval of the AUC is above 0.5, or that of a rate above its false positive rate."""
        return self.auc_low > 0.5 or any(rate.low > rate.fpr for rate in self.rates)


def log_odds(logits: Doubles, labels: npt.NDArray[np.integer]) -> Doubles:
    """Return log p_y - log(sum of the other p) of logits (n, classes) for labels y (n,): float64 (n,).

    Carlini et al. 2022, section IV, in their numerically stable form: nearly Gaussian over runs.
    """
    x = np.asarray(logits, dtype=np.float64)
    rows = np.arange(len(x))
    of_label = x[rows, labels]
    others = x.copy()
    others[rows, labels] = -np.inf
    largest = others.max(1)
    odds: Doubles = of_label - largest - np.log(np.exp(others - largest[:, None]).sum(1))
    return odds


def lira_scores(confidences: Doubles, members: Mask) -> Doubles:
    """Return log N(c; in) - log N(c; out) of every run and image: (runs, images).

    confidences: `log_odds` (runs, images). members: (runs, images), complementary in the runs 2j and 2j + 1.
    Gaussians are of the runs outside of the attacked pair. With few runs one variance serves all images, of members and
    of non-members apart. Raises ValueError for an odd number of runs, too few of them, and for halves that are none.
    """
    runs = len(confidences)
    if runs % 2 or runs < 2 * FEWEST_PAIRS:
        raise ValueError(f"{runs} runs are not an even number of at least {2 * FEWEST_PAIRS}")
    if not (members[::2] ^ members[1::2]).all():
        raise ValueError("an image must be in one run of each pair")
    scores = np.empty_like(confidences, dtype=np.float64)
    for first in range(0, runs, 2):
        pair, others = slice(first, first + 2), np.delete(np.arange(runs), (first, first + 1))
        likelihoods = []
        for among in (members[others], ~members[others]):
            n = among.sum(0)  # runs // 2 - 1 for every image
            values = np.where(among, confidences[others], 0.0)
            mean = values.sum(0) / n
            squares = (np.where(among, confidences[others] - mean, 0.0) ** 2).sum(0)
            own = n.min() >= OWN_VARIANCE
            variance = squares / (n - 1) if own else np.full(len(mean), squares.sum() / (n - 1).sum())
            std = np.maximum(np.sqrt(variance), LEAST_STD)
            likelihoods.append(-np.log(std) - ((confidences[pair] - mean) / std) ** 2 / 2)
        scores[pair] = likelihoods[0] - likelihoods[1]
    return scores


def measure_lira(scores: Doubles, members: Mask, rates: Sequence[float] = (FPR,), used: Mask | None = None) -> Lira:
    """Measure how well scores (runs, images) tell members from non-members, by one threshold for all of them.

    used: (runs, images), images that the set of a run names as used; None for none.
    """
    images, of_members, of_others = scores.shape[1], scores[members], scores[~members]
    auc, std = clustered_auc(scores, members)
    low, high = auc_interval(auc, std, images)
    results = []
    descending = np.sort(of_others)[::-1]
    for fpr in rates:
        tpr = float((of_members > descending[int(fpr * len(descending))]).mean())
        results.append(Rate(fpr, tpr, *clopper_pearson(tpr * images, images), detectable_rate(fpr, images)))
    named = np.zeros_like(members) if used is None else used & members
    hits = scores > descending[int(FPR * len(descending))]
    return Lira(
        images, auc, low, high, std, tuple(results), int(named.sum()),
        *(float(hits[some].mean()) if named.any() and some.any() else None for some in (named, members & ~named)),
    )  # fmt: skip


def clustered_auc(scores: Doubles, members: Mask) -> tuple[float, float]:
    """Return the AUC over all (run, image) and its standard deviation with images as clusters.

    Obuchowski, "Nonparametric analysis of clustered ROC curve data" (Biometrics 53, 1997): the placements of an image's
    scores among those of the other kind are summed before they are squared.
    """
    of_members, of_others = np.sort(scores[members]), np.sort(scores[~members])
    above = _share_below(of_others, scores)  # of non-members below each score
    below = 1 - _share_below(of_members, scores)  # of members above each score
    auc = float(above[members].mean())
    parts = np.where(members, (above - auc) / len(of_members), (below - auc) / len(of_others)).sum(0)
    images = scores.shape[1]
    return auc, sqrt(float((parts**2).sum()) * images / max(1, images - 1))


def _share_below(ordered: Doubles, values: Doubles) -> Doubles:
    """Return the share of `ordered` below each value, ties half."""
    below, up_to = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
    share: Doubles = (below + up_to) / (2 * len(ordered))
    return share


def auc_interval(auc: float, std: float, images: int) -> tuple[float, float]:
    """Return a 95 % interval on the scale of log(auc / (1 - auc)); of an AUC of 0 or 1 that of `lower_auc`."""
    if not 0 < auc < 1:
        counts = {(images, images): 1}
        return lower_auc(auc, counts), 1 - lower_auc(1 - auc, counts)
    half, middle = LEVEL * std / (auc * (1 - auc)), log(auc / (1 - auc))
    low, high = (1 / (1 + exp(min(700.0, -limit))) for limit in (middle - half, middle + half))
    return low, high


def detectable_rate(fpr: float, images: int) -> float | None:
    """Return the least true positive rate whose interval is above `fpr` with probability 0.8; None if none is."""
    from scipy.special import betaincinv

    hits = next((k for k in range(1, images + 1) if clopper_pearson(k, images)[0] > fpr), None)
    return None if hits is None else float(betaincinv(hits, images - hits + 1, 0.8))
