"""Test the farthest-first order against a slow version and its guarantee."""

from __future__ import annotations

from itertools import combinations

import torch

from ddbench.methods.kcenter import farthest_first


def test_farthest_first_is_the_slow_one():
    points = torch.randn(30, 4, generator=torch.Generator().manual_seed(1))
    chosen = [7]
    while len(chosen) < 12:
        gaps = [min(float((points[i] - points[j]).norm()) for j in chosen) for i in range(30)]
        chosen.append(max(range(30), key=gaps.__getitem__))
    assert farthest_first(points, 12, 7).tolist() == chosen


def test_farthest_first_covers_within_twice_the_best():
    points = torch.rand(9, 2, generator=torch.Generator().manual_seed(2))

    def radius(chosen):
        return float(torch.cdist(points, points[list(chosen)]).amin(1).max())

    best = min(radius(some) for some in combinations(range(9), 3))
    assert best <= radius(farthest_first(points, 3, 0).tolist()) <= 2 * best


def test_farthest_first_takes_no_point_twice():
    assert sorted(farthest_first(torch.zeros(5, 3), 5, 2).tolist()) == [0, 1, 2, 3, 4]
