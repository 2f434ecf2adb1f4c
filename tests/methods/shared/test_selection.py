"""Random and herding: budgets, seeds, and the greedy rule against a slow one."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
import torch

from ddbench.methods.herding import Herding, greedy_order
from ddbench.methods.kcenter import KCenter, farthest_first
from ddbench.methods.random import Random


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


@pytest.mark.parametrize(
    "method", [Random(), Herding(trained=False), KCenter(trained=False), KCenter(trained=False, first="random")]
)
def test_selection_returns_real_images_once_each(method, few_scenes, context_of):
    made = method.distill(few_scenes, 4, context_of())
    made.check(4)
    assert len(set(made.names)) == 12
    for image, label, name in zip(made.images, made.labels, made.names, strict=True):
        row = few_scenes.names.index(name)
        assert torch.equal(image, few_scenes.images[row])
        assert label == few_scenes.labels[row]


def test_random_follows_the_seed(few_scenes, context_of):
    first, same, other = (Random().distill(few_scenes, 2, context_of(s)).names for s in (5, 5, 6))
    assert first == same != other


def test_a_class_too_small_is_named(few_scenes, context_of):
    with pytest.raises(ValueError, match="cannot choose 7 images per class: beach 6"):
        Random().distill(few_scenes, 7, context_of())


def test_methods_that_choose_share_one_network(few_scenes, context_of):
    for method in (Herding(trained=False), KCenter(trained=False)):
        ctx = replace(context_of(), method=method.name)
        method.distill(few_scenes, 2, ctx)
    assert [cost["reused"] for cost in ctx.costs if cost["stage"] == "embedding"] == [True]
