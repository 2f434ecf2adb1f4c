"""Accuracy over images per class: equal-accuracy ratio to `random`, gain per added image. Pure. No torch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from ddbench.leaderboard.statistics import t_quantile


class Accuracy(Protocol):
    """A cell of a table.

    mean: over distillations, fraction
    by_seed: seed of a distillation -> mean of its students
    """

    @property
    def mean(self) -> float: ...

    @property
    def by_seed(self) -> Mapping[int, float]: ...


Curve = Mapping[int, Accuracy]  # images per class -> accuracy


@dataclass(frozen=True)
class Limit:
    """A number of random images of a class, or the end of the measured curve beyond which it lies.

    images: not rounded
    relation: "=", or "<" and ">" for less and for more than `images`
    """

    images: float
    relation: str = "="


def images_for_accuracy(curve: Curve, accuracy: float) -> Limit:
    """Return the least number of random images whose accuracy reaches `accuracy`.

    The curve is linear in log(IPC) between measured points and unknown outside them. Where it is not monotone, its
    first crossing counts.
    """
    ipcs = sorted(curve)
    if accuracy <= curve[ipcs[0]].mean:
        return Limit(ipcs[0], "=" if accuracy == curve[ipcs[0]].mean else "<")
    for few, many in pairwise(ipcs):
        low, high = curve[few].mean, curve[many].mean  # `low` is below `accuracy`, like every point before it
        if accuracy <= high:
            return Limit(_between(few, many, (accuracy - low) / (high - low)))
    return Limit(ipcs[-1], ">")


def interval_of_images(curve: Curve, cell: Accuracy) -> tuple[Limit, Limit] | None:
    """Return the 95 % interval of `images_for_accuracy`: the least and the greatest number that a test keeps.

    The test is the two-sided paired t-test over shared distillation seeds, of the interpolated accuracy of `random`
    against that of `cell` (Fieller 1954). An end that the measured curve does not reach is a limit. None where a part
    of the curve shares fewer than two seeds with the cell, or differs from it by the same amount at every seed.
    """
    point, ipcs = images_for_accuracy(curve, cell.mean), sorted(curve)
    bounds = [point.images] if point.relation == "=" else []
    for few, many in pairwise(ipcs) if len(ipcs) > 1 else [(ipcs[0], ipcs[0])]:
        shares = _kept_shares(curve[few].by_seed, curve[many].by_seed, cell.by_seed)
        if shares is None:
            return None
        bounds += [_between(few, many, share) for share in shares]
    below, above = Limit(ipcs[0], "<"), Limit(ipcs[-1], ">")
    if not bounds:
        return (below, below) if point.relation == "<" else (above, above)
    low = below if point.relation == "<" or min(bounds) == ipcs[0] else Limit(min(bounds))
    high = above if point.relation == ">" or max(bounds) == ipcs[-1] else Limit(max(bounds))
    return low, high


def _between(few: int, many: int, share: float) -> float:
    """Return the IPC at a share of the way from log(few) to log(many); exact at both ends."""
    return float(few ** (1 - share) * many**share)


def _kept_shares(few: Mapping[int, float], many: Mapping[int, float], own: Mapping[int, float]) -> list[float] | None:
    """Return shares of the way from `few` to `many`, of which the outermost bound those that the test keeps.

    few, many, own: seed of a distillation -> accuracy; of `random` at both ends, of the method

    The difference d(w) at a share w is linear for each seed, so mean(d)^2 = t^2 var(d) / n is quadratic in w.
    """
    seeds = sorted(few.keys() & many.keys() & own.keys())
    if len(seeds) < 2:
        return None
    start, change = [few[s] - own[s] for s in seeds], [many[s] - few[s] for s in seeds]
    end = [a + b for a, b in zip(start, change, strict=True)]
    if not statistics.pvariance(start) or not statistics.pvariance(end):
        return None
    factor = t_quantile(len(seeds)) ** 2 / len(seeds)
    a, b = statistics.fmean(start), statistics.fmean(change)
    constant = a * a - factor * statistics.variance(start)
    linear = 2 * (a * b - factor * statistics.covariance(start, change))
    square = b * b - factor * statistics.variance(change)
    ends = [share for share in (0.0, 1.0) if constant + share * (linear + share * square) <= 0]
    return ends + [root for root in _roots(square, linear, constant) if 0 < root < 1]


def _roots(square: float, linear: float, constant: float) -> list[float]:
    """Return the real roots of a quadratic, which may be linear or constant."""
    discriminant = linear * linear - 4 * square * constant
    if discriminant < 0:
        return []
    q = -(linear + math.copysign(math.sqrt(discriminant), linear)) / 2  # without cancellation
    return ([q / square] if square else []) + ([constant / q] if q else [])


def gain_per_image(curve: Curve, ipc: int) -> tuple[float, int] | None:
    """Return the gain in accuracy for each added image of a class, and the next smaller IPC; None at the smallest."""
    smaller = [other for other in curve if other < ipc]
    if not smaller:
        return None
    before = max(smaller)
    return (curve[ipc].mean - curve[before].mean) / (ipc - before), before
