"""Arithmetic of audits: how well similarity to a distilled set tells real images apart. NumPy alone, no torch.

Features are float32 (n, d) of length 1, so products are cosines. Images are compared within their class only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Rows = npt.NDArray[np.integer]
Mask = npt.NDArray[np.bool_]

FPR = 0.01  # false positive rate at which the true positive rate is reported
LEVEL, POWER = 1.959964, 0.841621  # quantiles of the normal: two-sided 95 % intervals, 80 % power
BLOCK = 2048  # rows of a matrix of cosines that are computed at once
MOST_COMPARED = 50_000  # training images that are compared with all others: more are drawn
DRAWS = 10  # of training images, as many as test images, for the ratio of distances


@dataclass(frozen=True)
class Attack:
    """Success of a score at telling members from other images.

    auc: probability that a member scores above another image of its class, ties half; mean over members
    auc_low, auc_high: its 95 % interval
    tpr: share of members above the threshold that at most 1 % of the others exceed, all classes together
    tpr_low, tpr_high: its 95 % interval by Clopper and Pearson, the threshold being fixed
    fpr: share of the others above that threshold
    members, others: number of images
    detectable: least AUC that succeeds with probability 0.8: its interval is above 0.5, and above what test images in
        place of the set give; None if no AUC does
    per_class: AUC by label; of classes with images of both kinds
    """

    auc: float
    auc_low: float
    auc_high: float
    tpr: float
    tpr_low: float
    tpr_high: float
    fpr: float
    members: int
    others: int
    detectable: float | None
    per_class: Mapping[str, float]

    def finds_some(self, baseline: float = 0.0) -> bool:
        """Return True if the interval of the TPR is above any FPR that its threshold may have, and above `baseline`.

        The threshold is one of the others' scores, so its FPR has an interval of its own.
        """
        highest_fpr = clopper_pearson(round(self.fpr * self.others), self.others)[1]
        return self.tpr_low > max(highest_fpr, baseline)


def attack(
    scores: Floats, is_member: Mask, labels: Rows, classes: Sequence[str], baseline: float = 0.5
) -> Attack | None:
    """Measure an attack that calls images of high score members; None unless a class has both kinds.

    scores, is_member, labels: (n,), of real images. Classes that lack one kind are left out.
    baseline: AUC that an AUC must be told from to be `detectable`.
    """
    per_class: dict[str, float] = {}
    sizes: list[tuple[int, int]] = []
    used = np.zeros(len(labels), dtype=bool)
    for label, name in enumerate(classes):
        rows = labels == label
        members, others = scores[rows & is_member], scores[rows & ~is_member]
        if len(members) and len(others):
            per_class[name] = class_auc(members, others)
            sizes.append((len(members), len(others)))
            used |= rows
    if not sizes:
        return None
    counts = Counter(sizes)
    members, others = scores[used & is_member], np.sort(scores[used & ~is_member])[::-1]
    auc = float(np.average(list(per_class.values()), weights=[m for m, _ in sizes]))
    threshold = others[int(FPR * len(others))]
    hits = int((members > threshold).sum())
    return Attack(
        auc,
        lower_auc(auc, counts),
        1 - lower_auc(1 - auc, counts),
        hits / len(members),
        *clopper_pearson(hits, len(members)),
        float((others > threshold).mean()),
        len(members),
        len(others),
        detectable_auc(counts, baseline),
        per_class,
    )


def class_auc(members: Floats, others: Floats) -> float:
    """Return the probability that a member's score is above another image's, ties half (Mann-Whitney)."""
    ordered = np.sort(others)
    below, up_to = (np.searchsorted(ordered, members, side) for side in ("left", "right"))
    return float((below + up_to).mean() / (2 * len(ordered)))


def auc_std(auc: float, counts: Mapping[tuple[int, int], int]) -> float:
    """Return the standard deviation of the mean of class AUCs, weighted by members.

    counts: (members, others) of a class -> number of such classes.

    The variance of a class is that of Hanley and McNeil (Radiology 143, 1982) with (m + n) / 2 - 1 in place of m - 1
    and n - 1 (Newcombe, Statist. Med. 25, 2006, method 5). At 0.5 it is exact: (m + n + 1) / 12mn.
    """
    total = sum(m * classes for (m, _), classes in counts.items())
    variance = 0.0
    for (m, n), classes in counts.items():
        pairs = 1 + ((m + n) / 2 - 1) * ((1 - auc) / (2 - auc) + auc / (1 + auc))
        variance += classes * (m / total) ** 2 * auc * (1 - auc) * pairs / (m * n)
    return sqrt(max(0.0, variance))


def lower_auc(auc: float, counts: Mapping[tuple[int, int], int]) -> float:
    """Return the least AUC a that `auc` does not reject: auc - a = LEVEL * auc_std(a). Below 1 also where auc is 1."""
    low, high = 0.0, auc
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if auc - middle > LEVEL * auc_std(middle, counts) else (low, middle)
    return high


def detectable_auc(counts: Mapping[tuple[int, int], int], baseline: float = 0.5) -> float | None:
    """Return the least AUC whose interval is above 0.5 and `baseline` with probability 0.8; None if there is none."""
    baseline = max(0.5, baseline)
    least = baseline + LEVEL * auc_std(baseline, counts)
    if least >= 1:
        return None
    low, high = least, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if middle - least < POWER * auc_std(middle, counts) else (low, middle)
    return high


def clopper_pearson(hits: float, n: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a share of `hits` in n (Clopper and Pearson, Biometrika 26, 1934)."""
    from scipy.special import betaincinv  # importing it takes a third of a second

    low = float(betaincinv(hits, n - hits + 1, 0.025)) if hits else 0.0
    return low, float(betaincinv(hits + 1, n - hits, 0.975)) if hits < n else 1.0


def unit_length(features: Floats) -> Floats:
    """Return float32 features (n, d) divided by their length. Raises ValueError for one that is not finite."""
    x = np.asarray(features, dtype=np.float32)
    if not np.isfinite(x).all():
        raise ValueError("features are not finite")
    unit: Floats = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return unit


@dataclass(frozen=True)
class Side:
    """Images with their labels: features float32 (n, d) of length 1, labels (n,)."""

    features: Floats
    labels: Rows

    def rows(self, rows: Rows | Mask) -> Side:
        """Return some of the images."""
        return Side(self.features[rows], self.labels[rows])


def highest_cosines(images: Side, others: Side | None = None, rows: Rows | None = None) -> tuple[Floats, Rows]:
    """Return each image's highest cosine to the others of its class, (n,), and the row of that one.

    others: None for the other ones among `images`. rows: of the images that are compared; None for all.
    -1 and row -1 where the class has no others.
    """
    itself, others = others is None, others or images
    rows = np.arange(len(images.labels)) if rows is None else rows
    highest, nearest = np.full(len(rows), -1.0, dtype=np.float32), np.full(len(rows), -1)
    for label in np.unique(images.labels[rows]):
        of_class, columns = np.flatnonzero(images.labels[rows] == label), np.flatnonzero(others.labels == label)
        if len(columns) <= itself:
            continue
        of_others = others.features[columns].T
        blocks = max(-(-len(of_class) // BLOCK), -(-len(of_class) * len(columns) // (BLOCK * MOST_COMPARED)))
        for places in np.array_split(of_class, blocks):
            cosines = images.features[rows[places]] @ of_others
            if itself:
                cosines[rows[places, None] == columns] = -np.inf
            best = cosines.argmax(1)
            highest[places], nearest[places] = cosines[np.arange(len(places)), best], columns[best]
    return highest, nearest


def background_cosines(train: Side, rng: np.random.Generator) -> Floats:
    """Return the highest cosine of training images to the other ones of their class: of all, or MOST_COMPARED drawn."""
    n = len(train.labels)
    rows = np.sort(rng.permutation(n)[:MOST_COMPARED]) if n > MOST_COMPARED else None
    return highest_cosines(train, rows=rows)[0]


@dataclass(frozen=True)
class Distances:
    """Distances of a set's images to real images of their class.

    similarity, similarity_std: mean and deviation of the cosine to the nearest training image
    percentiles: 75th, 90th and 95th of that cosine
    background, background_std, background_percentiles: the same, of training images to other ones
    above: share of the set above the background's 95th percentile
    authentic: share of the set that is no nearer to its nearest training image than that one's nearest neighbour is
        (Alaa et al., ICML 2022)
    ratio: median distance (1 - cosine) to the nearest training image over that to the nearest test image, for equally
        many of both, mean over draws; 1 if the set favours neither; None if a test image is in the set
    """

    similarity: float
    similarity_std: float
    percentiles: tuple[float, ...]
    background: float
    background_std: float
    background_percentiles: tuple[float, ...]
    above: float
    authentic: float
    ratio: float | None = None


def distances(distilled: Side, train: Side, background: Floats, ratio: float | None) -> Distances:
    """Return the distances of a set to training images.

    background: of `background_cosines`. ratio: of `distance_ratio`.
    """
    highest, nearest = highest_cosines(distilled, train)
    is_whole = len(background) == len(train.labels)
    of_nearest = background[nearest] if is_whole else highest_cosines(train, rows=nearest)[0]
    percentiles, of_background = (
        tuple(np.percentile(part, (75, 90, 95)).astype(float)) for part in (highest, background)
    )
    return Distances(
        float(highest.mean()), float(highest.std()), percentiles,
        float(background.mean()), float(background.std()), of_background,
        float((highest > of_background[-1]).mean()), float((highest <= of_nearest).mean()), ratio,
    )  # fmt: skip


def distance_ratio(distilled: Side, train: Side, test: Side, rng: np.random.Generator) -> float | None:
    """Return `Distances.ratio` over DRAWS draws of equally many training and test images of each class."""
    ratios = []
    classes = int(max(side.labels.max() for side in (distilled, train, test))) + 1
    counts = np.minimum(*(np.bincount(side.labels, minlength=classes) for side in (train, test)))
    for _ in range(DRAWS):
        medians = []
        for side in (train, test):
            highest, row = highest_cosines(distilled, side.rows(draw_rows(side.labels, counts, rng)))
            medians.append(float(np.median(1 - highest[row >= 0])) if (row >= 0).any() else 0.0)
        if medians[1] < 1e-6:  # rounding of float32 cosines
            return None
        ratios.append(max(0.0, medians[0]) / medians[1])
    return float(np.mean(ratios))


def draw_rows(labels: Rows, counts: Sequence[int] | Rows, rng: np.random.Generator) -> Rows:
    """Return rows of `counts[label]` images of each class, drawn without replacement; fewer where a class has fewer."""
    drawn = [rng.permutation(np.flatnonzero(labels == label))[:count] for label, count in enumerate(counts)]
    return np.concatenate(drawn)
