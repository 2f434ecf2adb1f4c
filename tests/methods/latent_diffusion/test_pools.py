"""Test the choice from pools: by confidence by hand, by groups against a slow objective, on real images."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from small_networks import randn

from ddbench.methods.latent_diffusion.pools import Pool, by_confidence, choose, distinct_groups


def test_right_ones_come_first_in_the_order_of_their_confidence():
    p = torch.tensor([[0.6, 0.4], [0.1, 0.9], [0.9, 0.1], [0.3, 0.7], [0.8, 0.2]])
    assert by_confidence(p, 0, rising=False).tolist() == [2, 4, 0, 1, 3]
    assert by_confidence(p, 0, rising=True).tolist() == [0, 4, 2, 3, 1]
    assert by_confidence(p, 1, rising=False).tolist() == [1, 3, 2, 4, 0]
    assert by_confidence(torch.full((4, 2), 0.5), 0, rising=False).tolist() == [0, 1, 2, 3]  # equals keep their order


def objective(c, r, groups):
    """S3's objective of a group for each class, term by term."""
    unit = lambda x: x / x.norm()  # noqa: E731
    chosen = [unit(c[i, g]) for i, g in enumerate(groups)]
    near = sum(-torch.log(1 - chosen[i] @ unit(r[i]) + 1e-6) for i in range(len(c)))
    pairs = [(i, j) for i in range(len(c)) for j in range(i)]
    return float(0.4 * near + 0.9 * sum(torch.log(1 - chosen[i] @ chosen[j] + 1e-6) for i, j in pairs))


@pytest.mark.parametrize("seed", range(5))
def test_no_other_group_of_one_class_is_better(seed):
    c, r = 1 + 0.5 * randn(4, 5, 3, seed=seed), 1 + 0.5 * randn(4, 3, seed=seed + 10)
    groups = distinct_groups(c, r).tolist()
    best = objective(c, r, groups)
    for i, g in product(range(4), range(5)):
        assert objective(c, r, [*groups[:i], g, *groups[i + 1 :]]) <= best + 1e-4
    nearest = torch.cosine_similarity(c, r[:, None], 2).argmax(1).tolist()
    assert best >= objective(c, r, nearest)
    assert len({*groups}) > 1 or groups == nearest


def test_classes_that_are_alike_take_groups_that_differ():
    """Two classes of one centre start at one and the same group; a worse one further off is then better."""
    c = torch.tensor([[[1.0, 0.1, 0.0], [1.0, 0.0, 0.3]], [[1.0, 0.1, 0.0], [1.0, -0.3, 0.0]]])
    r = torch.tensor([[1.0, 0.0, 0.0]] * 2)
    assert torch.cosine_similarity(c, r[:, None], 2).argmax(1).tolist() == [0, 0]
    assert objective(c, r, distinct_groups(c, r)) > objective(c, r, [0, 0])


def test_a_group_on_its_own_class_centre_is_no_pole():
    c = torch.eye(3)[:, None].expand(3, 2, 3)
    assert distinct_groups(c, torch.eye(3)).tolist() == [0, 0, 0]


def test_images_of_the_class_are_chosen_before_those_of_another(few_scenes, context_of):
    """Two draws of two images per class: images of the next class, then those of the class."""

    def images(y):
        rows = [few_scenes.of_class(label)[:2] for label in ((y + 1) % 3, y)]
        return few_scenes.images[torch.cat(rows)]

    pool = Pool(images, 2, few_scenes, context_of(), "convnet", 12)
    sure, doubtful, groups = (choose(pool, choice) for choice in ("confident", "doubtful", "group"))
    assert groups.tolist() == [[2, 3]] * 3
    assert [sorted(of_class) for of_class in sure.tolist()] == [[2, 3]] * 3
    assert torch.equal(sure.flip(1), doubtful)
