"""Features of the real training images, for methods that choose among them: a stage of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddbench.context import Context, seed_of
from ddbench.types import ImageSet
from evaluators.recipes import Augment, Protocol, Recipe

SYMMETRIES = Augment(flip_x=0.5, flip_y=0.5, transpose=0.5)


def embedded(train: ImageSet, ctx: Context, student: str, trained: bool) -> Tensor:
    """Penultimate features (n, d) by a student, trained on the training split or with its random initial weights.

    AdamW 2e-3, batches of 32, ten passes but 300 to 1000 steps, the symmetries of a square.
    """
    folder = ctx.stage("embedding", lambda into: _embed(train, ctx, student, trained, into),
                       student=student, trained=trained)  # fmt: skip
    return load_file(folder / "features.safetensors")["features"]


def _embed(train: ImageSet, ctx: Context, student: str, trained: bool, folder: Path) -> None:
    from evaluators.students import features  # torchvision: seconds that a finished run need not wait for

    net = _network(train, ctx, student, trained)
    save_file({"features": features(net, train.images, ctx.device)}, folder / "features.safetensors")


def _network(train: ImageSet, ctx: Context, student: str, trained: bool) -> torch.nn.Module:
    from evaluators.students import build
    from evaluators.train import train_student

    classes, seed = len(train.classes), seed_of(0, "embedding") % 2**31
    if not trained:
        return build(student, train.images.shape[-1], classes, seed)
    return train_student(
        train.images, train.labels, student=student, protocol=_row(student), num_classes=classes,
        seed=seed, device=ctx.device, progress=ctx.progress,
    )  # fmt: skip


def _row(student: str) -> Protocol:
    recipe = Recipe("adamw", lr=2e-3, weight_decay=0.01, batch=32, epochs=10, min_steps=300, max_steps=1000)
    return Protocol("embedding", 1, {student: replace(recipe, augment=SYMMETRIES)}, source="our choice")
