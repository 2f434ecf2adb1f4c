"""The latents that sampled images start from, and k-means' centres of a class's latents."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddbench.methods.latent_diffusion.latents import Latents
from ddbench.methods.latent_diffusion.prompts import Prompts
from ddbench.methods.shared.validation import check_enough
from ddbench.types import ImageSet

log = logging.getLogger("ddbench")


@dataclass(frozen=True)
class StartLatents:
    """The starts of n images, class after class.

    latent: (i, generator of image i) -> scaled latent (c, h, w), from which image i starts below strength 1.
    prompts: of each image.
    names: of each image, the name of its generator.
    targets: what the method's guidance needs of the training images, for its `_guided_denoiser`.
    weights: of the images in a student's loss, float32 (n,), or None (`DistilledSet.weights`).
    """

    latent: Callable[[int, torch.Generator], Tensor]
    prompts: Prompts
    names: Sequence[tuple[int, ...]]
    targets: Any = None
    weights: Tensor | None = None

    @property
    def labels(self) -> list[int]:
        """The class of each image."""
        return [self.prompts.labels[row] for row in self.prompts.index.tolist()]


def fixed_starts(z: Tensor, prompts: Prompts, weights: Tensor | None = None) -> StartLatents:
    """Return the starts of images at latents z (n, c, h, w), each image's generator named by its number."""
    return StartLatents(lambda i, generator: z[i], prompts, [(i,) for i in range(len(z))], weights=weights)


def cluster_centres(train: ImageSet, latents: Latents, ipc: int, progress: Callable = iter) -> tuple[Tensor, list[int]]:
    """Return k-means' centres of each class's scaled, flattened latents, and the sizes of their clusters.

    The centres are (n, c, h, w), n = classes * ipc, class after class. Raises ValueError for a class with fewer than
    `ipc` images.
    """
    check_enough(train, ipc, "clusters")
    centres: list[Tensor] = []
    sizes: list[int] = []
    for label in progress(range(len(train.classes))):
        of_class, owner = k_means(latents.means(train.of_class(label)).flatten(1).numpy(), ipc)
        centres.append(of_class)
        sizes += np.bincount(owner, minlength=ipc).tolist()
    return torch.cat(centres).view(-1, *latents.mean.shape[1:]), sizes


def k_means(points: np.ndarray, count: int) -> tuple[Tensor, np.ndarray]:
    """Return the centres (count, d), float32, of points (n, d), and the cluster of each point.

    Fewer distinct points than clusters repeat their centres, with a warning of ours in place of scikit-learn's.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        clustering = KMeans(count, n_init=10, random_state=0).fit(points)
    if any(issubclass(warning.category, ConvergenceWarning) for warning in caught):
        distinct = len(np.unique(clustering.labels_))
        log.warning("a class has %d distinct latents for %d clusters: images repeat", distinct, count)
    return torch.from_numpy(clustering.cluster_centers_).float(), clustering.labels_
