"""What methods that choose real images share: features of the training images, a set of chosen ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddbench.context import Context
from ddbench.methods.shared.teachers import fitted, seed_for
from ddbench.types import DistilledSet, ImageSet
from evaluators.recipes import Augment, Recipe

SHARED = "embedding@1"  # in the stage's key for a method: all that choose share it; goes up when it may hold another
SYMMETRIES = Augment(flip_x=0.5, flip_y=0.5, transpose=0.5)
RECIPE = Recipe(
    "adamw", lr=2e-3, weight_decay=0.01, batch=32, epochs=10, min_steps=300, max_steps=1000, augment=SYMMETRIES
)


def check_enough(train: ImageSet, ipc: int) -> None:
    """ValueError naming every class that has fewer than `ipc` images."""
    if few := train.fewer_than(ipc):
        raise ValueError(f"cannot choose {ipc} images per class: {', '.join(few)}")


def select(train: ImageSet, ipc: int, pick: Callable[[Tensor, int], Tensor]) -> DistilledSet:
    """Return the images that `pick(rows of the class, label)` chooses, class after class; record their files.

    Raises ValueError naming every class that has fewer than `ipc` images.
    """
    check_enough(train, ipc)
    rows = torch.cat([pick(train.of_class(label), label) for label in range(len(train.classes))])
    return subset(train, rows, {"files": [train.names[i] for i in rows.tolist()]} if train.names else {})


def subset(train: ImageSet, rows: Tensor, extras: Mapping[str, Any]) -> DistilledSet:
    """Return the training images at `rows`, int64 (n,), with what the manifest records about them."""
    names = tuple(train.names[i] for i in rows.tolist()) if train.names else ()
    return DistilledSet(train.images[rows], train.labels[rows], train.classes, train.readable, names, extras=extras)


def embedded(train: ImageSet, ctx: Context, student: str, trained: bool) -> Tensor:
    """Penultimate features (n, d) by a student, trained on the training split or with its random initial weights.

    AdamW 2e-3, batches of 32, ten passes but 300 to 1000 steps, the symmetries of a square.
    """
    make = partial(_embed, train, ctx, student, trained)
    folder = replace(ctx, method=SHARED).stage("embedding", make, student=student, trained=trained)
    return load_file(folder / "features.safetensors")["features"]


def _embed(train: ImageSet, ctx: Context, student: str, trained: bool, folder: Path) -> None:
    from evaluators.students import build, features  # torchvision: seconds that a finished run need not wait for

    if trained:
        net = fitted(train, ctx, student, RECIPE, "embedding")
    else:
        net = build(student, train.images.shape[-1], len(train.classes), seed_for("embedding"))
    save_file({"features": features(net, train.images, ctx.device)}, folder / "features.safetensors")
