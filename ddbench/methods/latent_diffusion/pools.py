"""Pools: a distilled set is drawn several times, and its images are chosen from all draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ddbench.context import Context
from ddbench.methods.latent_diffusion.settings import PoolChoice
from ddbench.methods.shared.selection import feature_network, real_features
from ddbench.methods.shared.teachers import soft_labels
from ddbench.types import ImageSet

NEAR, APART = 0.4, 0.9  # weights of S3's two terms, by its public code
SWEEPS = 5
TINY = 1e-6  # added to 1 - cosine: the logarithm has a pole


@dataclass(frozen=True)
class Pool:
    """The draws of a set of `ipc` images per class.

    images: class -> its uint8 images, (draws * ipc, 3, h, w), draw after draw.
    train: the real images.
    student, epochs: the network that chooses, trained on them (`selection.feature_network`).
    """

    images: Callable[[int], Tensor]
    ipc: int
    train: ImageSet
    ctx: Context
    student: str
    epochs: int


def choose(pool: Pool, choice: PoolChoice) -> Tensor:
    """Return the chosen images of each class, numbers of `Pool.images`, int64 (classes, ipc)."""
    network = feature_network(pool.train, pool.ctx, pool.student, pool.epochs)
    classes = pool.ctx.progress(range(len(pool.train.classes)), "choosing")
    if choice != "group":
        p = (soft_labels(network, pool.images(y), pool.ctx) for y in classes)
        return torch.stack([by_confidence(p_y, y, choice == "doubtful")[: pool.ipc] for y, p_y in enumerate(p)])

    from evaluators.students import features  # imports torchvision: takes seconds

    drawn = [features(network, pool.images(y), pool.ctx.device).unflatten(0, (-1, pool.ipc)).mean(1) for y in classes]
    real = real_features(pool.train, pool.ctx, pool.student, True, pool.epochs)
    r = torch.stack([real[pool.train.of_class(y)].mean(0) for y in range(len(drawn))])
    return pool.ipc * distinct_groups(torch.stack(drawn), r)[:, None] + torch.arange(pool.ipc)


def by_confidence(p: Tensor, y: int, rising: bool) -> Tensor:
    """Return the order of images of class y by CaO2's selection, int64 (n,), of their probabilities p (n, classes).

    Images that are classified right come first. Both parts are in the order of max p, falling or rising.
    """
    confidence, predicted = p.max(1)
    order = confidence.argsort(descending=not rising, stable=True)
    return order[(predicted[order] != y).int().argsort(stable=True)]


def distinct_groups(c: Tensor, r: Tensor) -> Tensor:
    """Return the group of each class that S3 of IMS3 chooses (Westlake AGI Lab, CVPR 2026, arXiv:2603.13960, by code).

    It raises 0.4 sum_i -log(1 - cos(c_i, r_i)) + 0.9 sum_{i<j} log(1 - cos(c_i, c_j)), class after class, from the
    groups nearest to r on: near the own class's real images, far from other classes' groups.

    c: mean features of the groups, (classes, groups, d). r: of the real images, (classes, d).
    """
    c, r = F.normalize(c, dim=2), F.normalize(r, dim=1)
    near = -(1 - (c * r[:, None]).sum(2) + TINY).log()
    groups, classes = near.argmax(1), torch.arange(len(c))
    for _ in range(SWEEPS):
        before = groups.clone()
        for i in classes.tolist():
            others = c[classes != i, groups[classes != i]]
            groups[i] = (NEAR * near[i] + APART * (1 - c[i] @ others.T + TINY).log().sum(1)).argmax()
        if torch.equal(groups, before):
            break
    return groups
