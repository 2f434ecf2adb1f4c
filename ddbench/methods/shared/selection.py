"""Features of the real training images, and sets of images selected from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ddbench.context import Context
from ddbench.methods.shared.teachers import seed_for, stored_network
from ddbench.types import DistilledSet, ImageSet
from ddbench.utils.tensor_file import write_rows
from evaluators.recipes import Augment, Recipe

if TYPE_CHECKING:
    from evaluators.students import Student

# replaces the method in the stage's key, so that all methods share the stage; raise it when its content changes
SHARED = "embedding@2"
SYMMETRIES = Augment(flip_x=0.5, flip_y=0.5, transpose=0.5)
# on EuroSAT, 1000 steps choose no better images: experiments/embedding
RECIPE = Recipe(
    "adamw", lr=2e-3, weight_decay=0.01, batch=32, epochs=1, min_steps=300, max_steps=300, augment=SYMMETRIES
)
IMAGE_WEIGHTS = "store weights of the images, their clusters' shares of the class, for protocols with image_weights"
BLOCK = 256  # rows of features at most that are computed with at once: temporary tensors stay in the cache


def row_blocks(x: Tensor) -> tuple[Tensor, ...]:
    """Return the rows of x (n, d) as about equal views of at most BLOCK rows; the norm of a row is the same in both."""
    return x.tensor_split(max(1, -(-len(x) // BLOCK)))


def select(train: ImageSet, ipc: int, pick: Callable[[Tensor, int], Tensor]) -> DistilledSet:
    """Return the images at the rows that `pick(rows of the class, label)` returns, class by class; record their files.

    Raises ValueError naming every class that has fewer than `ipc` images.
    """
    if few := train.fewer_than(ipc):
        raise ValueError(f"cannot choose {ipc} images per class: {', '.join(few)}")
    rows = torch.cat([pick(train.of_class(label), label) for label in range(len(train.classes))])
    return subset(train, rows, {"files": [train.names[i] for i in rows.tolist()]} if train.names else {})


def subset(train: ImageSet, rows: Tensor, extras: Mapping[str, Any], weights: Tensor | None = None) -> DistilledSet:
    """Return the training images at `rows`, int64 (n,), with `extras` for the manifest and their weights, (n,)."""
    chosen = train.rows(rows)
    return train.distilled(chosen.images, chosen.labels, names=chosen.names, extras=extras, weights=weights)


def cluster_weights(sizes: Sequence[float], ipc: int) -> Tensor:
    """Return weights float32 (n,) of n images that stand for clusters of these sizes, class after class.

    A weight is the cluster's share of its class times `ipc`: their mean in a class is 1 (DDOQ, Tan & Slade, ICLR 2026,
    arXiv:2501.07681). Images that all stand for empty clusters, which repeat another's centre, weigh the same.
    """
    of_class = torch.tensor(sizes, dtype=torch.float32).view(-1, ipc)
    of_class[~of_class.any(1)] = 1.0
    return (of_class / of_class.mean(1, keepdim=True)).flatten()


def drawn_rows(labels: Tensor, count: int, generator: Callable[[int], torch.Generator]) -> Tensor:
    """Return the rows, int64, ascending, of `count` drawn images of each class, or of all where it has fewer.

    generator: label -> what draws the images of this class.
    """
    rows = []
    for label in labels.unique().tolist():
        of_class = torch.nonzero(labels == label).flatten()
        rows.append(of_class[torch.randperm(len(of_class), generator=generator(label))[:count]])
    return torch.cat(rows).sort().values


def real_features(train: ImageSet, ctx: Context, student: str, trained: bool, epochs: int = 0) -> Tensor:
    """Return penultimate features (n, d) of the training images, computed once for all runs.

    trained: the student is `feature_network`, else it has its random initial weights.
    """

    def make(folder: Path) -> None:
        from evaluators.students import build, feature_batches  # imports torchvision: takes seconds

        if trained:
            network = feature_network(train, ctx, student, epochs)
        else:
            network = build(student, train.images.shape[-1], len(train.classes), seed_for("embedding"))
        batches = ({"features": part.numpy()} for part in feature_batches(network, train.images, ctx.device))
        write_rows(folder / "features.safetensors", len(train.images), batches)

    key: dict[str, Any] = {"epochs": epochs} if epochs else {}
    folder = replace(ctx, method=SHARED).stage("embedding", make, student=student, trained=trained, **key)
    return load_file(folder / "features.safetensors")["features"]


def features_like(images: Tensor, train: ImageSet, ctx: Context, student: str) -> Tensor:
    """Return features (n, d) of images (n, 3, h, w), uint8, by the trained network of `real_features`."""
    from evaluators.students import features

    return features(feature_network(train, ctx, student), images, ctx.device)


def feature_network(train: ImageSet, ctx: Context, student: str, epochs: int = 0) -> Student:
    """Return the student trained on the training images by `RECIPE`, a stage; for `epochs` passes, 0: for its steps."""
    recipe = replace(RECIPE, epochs=epochs, min_steps=1, max_steps=0) if epochs else RECIPE
    key = {"student": student, "content": "network"} | ({"epochs": epochs} if epochs else {})
    return stored_network(train, replace(ctx, method=SHARED), recipe, "embedding", key)
