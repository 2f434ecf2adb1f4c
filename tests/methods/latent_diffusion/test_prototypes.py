"""The margin rule against brute force, and what k-means must keep."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ddbench.methods.latent_diffusion.prototypes import embedding, find_prototypes, representatives


def naive(points, centres, owner, alpha):
    chosen = []
    for c in range(len(centres)):
        best, best_margin = None, -math.inf
        for i, point in enumerate(points):
            if owner[i] != c:
                continue
            own = math.dist(point, centres[c])
            other = min((math.dist(point, centre) for k, centre in enumerate(centres) if k != c), default=0.0)
            if other - alpha * own > best_margin:
                best, best_margin = i, other - alpha * own
        chosen.append(best)
    return chosen


@pytest.mark.parametrize("alpha", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_margin_rule_against_brute_force(k, alpha):
    rng = np.random.default_rng(k)
    points, centres = rng.normal(size=(40, 3)), rng.normal(size=(k, 3))
    distances = np.linalg.norm(points[:, None] - centres, axis=2)
    owner = distances.argmin(1)
    owner[:k] = range(k)  # no cluster is empty
    assert [i for i, _, _ in representatives(distances, owner, alpha)] == naive(points, centres, owner, alpha)


def test_embedding_is_unit_length_and_pooled():
    z = torch.randn(3, 4, 16, 16)
    points = embedding(z)
    assert points.shape == (3, 256)
    assert np.allclose(np.linalg.norm(points, axis=1), 1)
    pooled = z[0].unfold(1, 2, 2).unfold(2, 2, 2).mean((3, 4)).flatten().numpy()
    assert np.allclose(points[0], pooled / np.linalg.norm(pooled), atol=1e-6)


def test_prototypes_are_real_images_of_their_class(few_scenes):
    z = torch.randn(18, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    found, owner = find_prototypes(few_scenes, z, 2, 1.0)
    assert [p.label for p in found] == [0, 0, 1, 1, 2, 2]
    assert all(few_scenes.labels[p.row] == p.label and few_scenes.names[p.row] == p.name for p in found)
    assert len({p.row for p in found}) == 6
    assert [sum(p.size for p in found if p.label == c) for c in range(3)] == [6, 6, 6]
    assert all(math.isclose(p.margin, p.inter - p.intra) for p in found)
    assert all(owner[p.row] == p.cluster for p in found)
    assert all(p.size == int((owner[few_scenes.of_class(p.label)] == p.cluster).sum()) for p in found)


def test_a_class_with_too_few_images_is_named(few_scenes):
    with pytest.raises(ValueError, match=r"7 prototypes per class need 7 images per class, but: beach 6.*--ipc 6"):
        find_prototypes(few_scenes, torch.randn(18, 4, 8, 8), 7, 1.0)


def test_copies_of_one_image_are_no_prototypes(few_scenes):
    z = torch.randn(18, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    z[few_scenes.of_class(1)[:4]] = z[few_scenes.of_class(1)[0]].clone()
    with pytest.raises(
        ValueError, match=f"{few_scenes.classes[1]} has 3 distinct images, fewer than 4 prototypes: try --ipc 3"
    ):
        find_prototypes(few_scenes, z, 4, 1.0)
    z[few_scenes.of_class(1)[1:4]] += 1e-8  # which k-means does not tell apart
    with pytest.raises(ValueError, match="try --ipc 3"):
        find_prototypes(few_scenes, z, 4, 1.0)
    assert len(find_prototypes(few_scenes, z, 3, 1.0)[0]) == 9
