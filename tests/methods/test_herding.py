"""Test herding's greedy order against a slow version."""

from __future__ import annotations

import torch

from ddbench.methods.herding import greedy_order


def naive_order(points, count):
    points = torch.nn.functional.normalize(points.double(), dim=1)
    mean, taken = points.mean(0), []
    for _ in range(count):
        gaps = {
            i: float((mean - torch.stack([points[j] for j in [*taken, i]]).mean(0)).norm())
            for i in range(len(points)) if i not in taken
        }  # fmt: skip
        taken.append(min(gaps, key=gaps.get))
    return taken


def test_greedy_order_is_the_slow_one():
    points = torch.randn(25, 6, generator=torch.Generator().manual_seed(3)) + 1
    assert greedy_order(points, 10).tolist() == naive_order(points, 10)


def test_greedy_order_takes_the_nearest_first():
    """DeepCore's herding takes the farthest point."""
    angles = torch.tensor([0.0, 0.5, 0.52, 1.0, 3.0])
    points = torch.stack([angles.cos(), angles.sin()], 1)
    unit_mean = points.mean(0)
    first = int(greedy_order(points, 1))
    assert first == int((points - unit_mean).norm(dim=1).argmin())
    assert first != int((points - unit_mean).norm(dim=1).argmax())
