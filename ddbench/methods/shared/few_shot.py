"""Features of few-shot networks: convnets trained on few real images each, as a student of a distilled set is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddbench.context import Context, generator_of
from ddbench.methods.shared.selection import SYMMETRIES, drawn_rows
from ddbench.methods.shared.teachers import stored_network
from ddbench.types import ImageSet
from ddbench.utils.images import turn
from evaluators.recipes import Recipe

if TYPE_CHECKING:
    from evaluators.students import Student

# replaces the method in the stage's key, so that all methods share the stage; raise it when its content changes
SHARED = "few-shot@1"
NETWORKS = 4
IMAGES = 10  # of each class that a network learns
SAMPLE = 200  # real images of each class, at most, that have features
SMALLEST = 32  # side in pixels of halved images
RECIPE = Recipe(
    "adamw", lr=2e-3, weight_decay=0.01, batch=32, epochs=1, min_steps=200, max_steps=200, augment=SYMMETRIES
)


@dataclass(frozen=True)
class FewShotFeatures:
    """Features of at most SAMPLE real images of each class.

    x: float32 (n, d): for each network the mean over the eight symmetries of an image, minus `means`, of length 1; the
    networks' parts are joined, and the whole has length 1.
    rows: int64 (n,), ascending, of the images in the training split.
    means: (NETWORKS, d / NETWORKS), over the images.
    """

    x: Tensor
    rows: Tensor
    means: Tensor


def few_shot_features(train: ImageSet, ctx: Context) -> FewShotFeatures:
    """Return the features of real images, computed once for all runs."""

    def make(folder: Path) -> None:
        rows = drawn_rows(train.labels, SAMPLE, partial(generator_of, 0, SHARED))
        raw = _raw_features(train.images[rows], train, ctx)
        means = raw.mean(1)
        save_file({"x": _joined(raw, means), "rows": rows, "means": means}, folder / "features.safetensors")

    folder = replace(ctx, method=SHARED).stage("few-shot", make, content="features")
    return FewShotFeatures(**load_file(folder / "features.safetensors"))


def few_shot_features_like(images: Tensor, real: FewShotFeatures, train: ImageSet, ctx: Context) -> Tensor:
    """Return the features (m, d) of images (m, 3, h, w), uint8, by the networks and means of the real images'."""
    return _joined(_raw_features(images, train, ctx), real.means)


def _raw_features(images: Tensor, train: ImageSet, ctx: Context) -> Tensor:
    """Return the mean features over the eight symmetries, (NETWORKS, n, d), of images (n, 3, h, w), uint8."""
    from evaluators.students import features

    views = [turn(halved(images), view) for view in range(8)]
    of_networks = []
    for network in _networks(train, ctx):
        of_networks.append(torch.stack([features(network, view, ctx.device) for view in views]).mean(0))
    return torch.stack(of_networks)


def _networks(train: ImageSet, ctx: Context) -> Iterator[Student]:
    """Yield the networks, each trained on IMAGES other images of every class; stages."""
    for number in range(NETWORKS):
        few = train.rows(drawn_rows(train.labels, IMAGES, partial(generator_of, 0, f"{SHARED} {number}")))
        few = replace(few, images=halved(few.images))
        key = {"student": "convnet", "content": "network", "network": number}
        yield stored_network(few, replace(ctx, method=SHARED), RECIPE, "few-shot", key)


def halved(images: Tensor) -> Tensor:
    """Return uint8 images (n, 3, h, w) at half the size; as they are where a side would be below SMALLEST."""
    if min(images.shape[2:]) < 2 * SMALLEST:
        return images
    return F.avg_pool2d(images.float(), 2).round().byte()


def _joined(raw: Tensor, means: Tensor) -> Tensor:
    """Return raw features (networks, n, d) as vectors of length 1, (n, networks * d)."""
    centred = F.normalize(raw - means[:, None], dim=2)
    return centred.transpose(0, 1).flatten(1) / len(raw) ** 0.5
