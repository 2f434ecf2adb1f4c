"""The rules that choose a cluster's member against brute force, and what k-means must keep."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ddbench.methods.latent_diffusion.prototypes import (
    Prototype,
    distances_to_centres,
    embedding,
    find_prototypes,
    representatives,
)


def prototypes_of(train, z, ipc, *rule):
    """Return the prototypes of latents z (n, c, h, w), by the margin rule unless `rule` is another."""
    return find_prototypes(train, lambda rows: embedding(z[rows]), ipc, 1.0, *rule)


def naive(points, centres, owner, alpha, choice="margin"):
    chosen = []
    for c in range(len(centres)):
        best, best_margin = None, -math.inf
        for i, point in enumerate(points):
            if owner[i] != c:
                continue
            own = math.dist(point, centres[c])
            other = min((math.dist(point, centre) for k, centre in enumerate(centres) if k != c), default=0.0)
            worth = other - alpha * own if choice == "margin" else -own
            if worth > best_margin:
                best, best_margin = i, worth
        chosen.append(best)
    return chosen


@pytest.mark.parametrize(("choice", "alpha"), [("margin", 0.0), ("margin", 1.0), ("margin", 3.0), ("nearest", 1.0)])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_both_rules_against_brute_force(k, choice, alpha):
    rng = np.random.default_rng(k)
    points, centres = rng.normal(size=(40, 3)), rng.normal(size=(k, 3))
    distances = np.linalg.norm(points[:, None] - centres, axis=2)
    owner = distances.argmin(1)
    owner[:k] = range(k)  # no cluster is empty
    chosen = [i for i, _, _ in representatives(distances, owner, alpha, choice)]
    assert chosen == naive(points, centres, owner, alpha, choice)


def test_the_rules_differ_where_an_outer_member_lies_far_from_the_other_centre():
    """On a line, centres at 0 and 4: the member at -1 is 5 from the other centre, that at 0.1 is 3.9."""
    points, centres = np.array([[-1.0], [0.1], [4.0]]), np.array([[0.0], [4.0]])
    distances, owner = np.abs(points - centres.T), np.array([0, 0, 1])
    assert [i for i, _, _ in representatives(distances, owner, 0.5, "margin")] == [0, 2]
    assert [i for i, _, _ in representatives(distances, owner, 0.5, "nearest")] == [1, 2]


def test_of_a_pair_the_first_is_nearest():
    """Both are as far from their mean, whatever rounding says."""
    distances, owner = np.array([[0.5 + 1e-12, 1.0], [0.5, 1.0], [1.0, 0.0]]), np.array([0, 0, 1])
    assert [i for i, _, _ in representatives(distances, owner, 1.0, "nearest")] == [0, 2]


def test_embedding_is_unit_length_and_pooled():
    z = torch.randn(3, 4, 16, 16)
    points = embedding(z)
    assert points.shape == (3, 256)
    assert np.allclose(np.linalg.norm(points, axis=1), 1)
    pooled = z[0].unfold(1, 2, 2).unfold(2, 2, 2).mean((3, 4)).flatten().numpy()
    assert np.allclose(points[0], pooled / np.linalg.norm(pooled), atol=1e-6)


def test_prototypes_are_real_images_of_their_class(few_scenes):
    z = torch.randn(18, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    prototypes, owner = prototypes_of(few_scenes, z, 2)
    assert [p.label for p in prototypes] == [0, 0, 1, 1, 2, 2]
    assert all(few_scenes.labels[p.row] == p.label and few_scenes.names[p.row] == p.name for p in prototypes)
    assert len({p.row for p in prototypes}) == 6
    assert [sum(p.size for p in prototypes if p.label == c) for c in range(3)] == [6, 6, 6]
    assert all(math.isclose(p.margin, p.inter - p.intra) for p in prototypes)
    assert all(owner[p.row] == p.cluster for p in prototypes)
    assert all(p.size == int((owner[few_scenes.of_class(p.label)] == p.cluster).sum()) for p in prototypes)


def test_a_class_with_too_few_images_is_named(few_scenes):
    with pytest.raises(ValueError, match=r"7 prototypes per class need 7 images per class, but: beach 6.*--ipc 6"):
        prototypes_of(few_scenes, torch.randn(18, 4, 8, 8), 7)


def test_copies_of_one_image_are_no_prototypes(few_scenes):
    z = torch.randn(18, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    z[few_scenes.of_class(1)[:4]] = z[few_scenes.of_class(1)[0]].clone()
    with pytest.raises(
        ValueError, match=f"{few_scenes.classes[1]} has 3 distinct images, fewer than 4 prototypes: try --ipc 3"
    ):
        prototypes_of(few_scenes, z, 4)
    z[few_scenes.of_class(1)[1:4]] += 1e-8  # which k-means does not tell apart
    with pytest.raises(ValueError, match="try --ipc 3"):
        prototypes_of(few_scenes, z, 4)
    assert len(prototypes_of(few_scenes, z, 3)[0]) == 9


def test_distances_to_the_centres_against_a_loop():
    """Two classes of which cluster 0 differs, and two drawn images of each prototype."""
    real = np.array([[0.0, 0], [2, 0], [5, 5], [9, 9], [0, 4]])
    labels, owner = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 0, 1, 0, 0])
    prototypes = [Prototype(0, 0, 0, "a", 2, 0, 0, 0), Prototype(1, 0, 3, "b", 2, 0, 0, 0)]
    drawn = np.array([[1.0, 0], [1, 3], [4.5, 6.5], [4.5, 2.5]])
    distances = distances_to_centres(prototypes, owner, labels, lambda rows: real[rows], drawn)
    assert distances.tolist() == [[0, 3], [0, 4]]
