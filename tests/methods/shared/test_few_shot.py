"""Test the features of few-shot networks: their invariance, their stages, and the space that they span."""

from __future__ import annotations

import pytest
import torch

from ddbench.methods.shared import few_shot
from ddbench.methods.shared.few_shot import halved
from ddbench.methods.shared.spaces import check_space, feature_space
from ddbench.utils.images import turn


def test_features_do_not_depend_on_how_an_image_is_turned(short_training, few_scenes, context_of):
    space = feature_space("few-shot", few_scenes, context_of())
    images = few_scenes.images[:4]
    x = space.like(images)
    torch.testing.assert_close(space.like(images.rot90(1, (2, 3)).flip(3)), x)
    torch.testing.assert_close(x.norm(dim=1), torch.ones(4))
    assert not torch.allclose(x[0], x[1], atol=0.01)


def test_real_images_have_the_same_features_as_drawn_ones_and_are_computed_once(short_training, few_scenes, context_of):
    space = feature_space("few-shot", few_scenes, context_of())
    assert few_scenes.labels[space.rows].bincount().tolist() == [5, 5, 5]
    torch.testing.assert_close(space.like(few_scenes.images[space.rows]), space.x)
    torch.testing.assert_close(space.at(space.rows[[3, 7]]), space.x[[3, 7]])
    ctx = context_of()
    assert torch.equal(feature_space("few-shot", few_scenes, ctx).x, space.x)
    assert [(cost["stage"], cost["reused"]) for cost in ctx.costs] == [("few-shot", True)]


def test_networks_learn_other_images(short_training, few_scenes, context_of, monkeypatch):
    monkeypatch.setattr(few_shot, "IMAGES", 2)
    seen = []
    real = few_shot.stored_network
    keep = lambda few, *words: seen.append(few) or real(few, *words)  # noqa: E731
    monkeypatch.setattr(few_shot, "stored_network", keep)
    feature_space("few-shot", few_scenes, context_of())
    first, second = seen
    assert first.counts() == second.counts() == (2, 2, 2)
    assert first.names != second.names


def test_large_images_are_halved():
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    small = halved(images)
    assert small.shape == (2, 3, 32, 32)
    assert abs(float(small[1, 2, 3, 4]) - float(images[1, 2, 6:8, 8:10].float().mean())) <= 0.5
    assert halved(images[..., :63, :63]).shape[-1] == 63


def test_eight_symmetries_are_eight_images():
    image = torch.arange(4).view(1, 1, 2, 2)
    assert len({tuple(view.flatten().tolist()) for view in (turn(image, number) for number in range(8))}) == 8


def test_more_images_than_the_space_has_are_refused():
    check_space("few-shot", 200)
    check_space("network", 1000)
    with pytest.raises(ValueError, match="looks at 200 images of each class, fewer than 201: --ipc 200"):
        check_space("few-shot", 201)
