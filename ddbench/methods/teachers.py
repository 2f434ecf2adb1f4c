"""A network trained on the real training images, for methods that ask one: a stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ddbench.context import Context, seed_of
from ddbench.types import ImageSet
from evaluators.recipes import Augment, Protocol, Recipe

VIEWS = Augment(crop_area=(0.5, 1.0), crop_ratio=(0.8, 1.25), flip_x=0.5, flip_y=0.5, transpose=0.5)
RECIPE = Recipe("adamw", lr=1e-3, weight_decay=0.05, batch=32, epochs=1, augment=VIEWS)


def taught(train: ImageSet, ctx: Context, student: str, epochs: int, least: int) -> nn.Module:
    """A student after `epochs` passes over the training split, but at least `least` steps, on the context's device.

    AdamW, 1e-3, batches of 32, random crops and the symmetries of a square; frozen, in eval mode.
    """
    from evaluators.students import build  # torchvision: seconds that a finished run need not wait for

    seed = seed_of(0, "teacher") % 2**31
    recipe = replace(RECIPE, epochs=epochs, min_steps=least)
    key = {"student": student, "epochs": epochs, "least": least}
    folder = ctx.stage("teacher", lambda into: _teach(train, ctx, student, recipe, into), **key)
    model = build(student, train.images.shape[-1], len(train.classes), seed)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.to(ctx.device).eval().requires_grad_(False)


def _teach(train: ImageSet, ctx: Context, student: str, recipe: Recipe, folder: Path) -> None:
    from evaluators.train import train_student

    row = Protocol("teacher", 1, {student: recipe}, source="our choice")
    model = train_student(
        train.images, train.labels, student=student, protocol=row, num_classes=len(train.classes),
        seed=seed_of(0, "teacher") % 2**31, device=ctx.device, progress=ctx.progress,
    )  # fmt: skip
    save_file({name: part.contiguous() for name, part in model.state_dict().items()}, folder / "model.safetensors")


@torch.no_grad()
def opinions(model: nn.Module, images: torch.Tensor, batch: int = 256) -> torch.Tensor:
    """Probabilities, float32 (n, classes) on the CPU, of uint8 images (n, 3, h, w)."""
    where = next(model.parameters()).device
    return torch.cat([model(part.to(where)).float().softmax(1).cpu() for part in images.split(batch)])
