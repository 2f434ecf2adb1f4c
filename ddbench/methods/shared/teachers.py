"""A network trained on the real training images, for methods that ask one: a stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ddbench.context import Context, seed_of
from ddbench.types import ImageSet
from evaluators.recipes import Augment, Protocol, Recipe

SHARED = "teacher@1"  # in the stage's key for a method: all that ask a teacher share it; goes up when it may be another
VIEWS = Augment(crop_area=(0.5, 1.0), crop_ratio=(0.8, 1.25), flip_x=0.5, flip_y=0.5, transpose=0.5)
RECIPE = Recipe("adamw", lr=1e-3, weight_decay=0.05, batch=32, epochs=1, augment=VIEWS)


def taught(train: ImageSet, ctx: Context, student: str, steps: tuple[int, int, int]) -> nn.Module:
    """A student after `epochs` passes over the training split, on the context's device.

    steps: (epochs, least, most): at least `least` and at most `most` steps, 0 for any number.

    AdamW, 1e-3, batches of 32, random crops and the symmetries of a square; frozen, in eval mode.
    """
    from evaluators.students import build  # torchvision: seconds that a finished run need not wait for

    epochs, least, most = steps

    def make(folder: Path) -> None:
        recipe = replace(RECIPE, epochs=epochs, min_steps=least, max_steps=most)
        weights = fitted(train, ctx, student, recipe, "teacher").state_dict()
        save_file({name: part.contiguous() for name, part in weights.items()}, folder / "model.safetensors")

    key = {"student": student, "epochs": epochs, "least": least} | ({"most": most} if most else {})
    folder = replace(ctx, method=SHARED).stage("teacher", make, **key)
    model = build(student, train.images.shape[-1], len(train.classes), seed_for("teacher"))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.to(ctx.device).eval().requires_grad_(False)


def fitted(train: ImageSet, ctx: Context, student: str, recipe: Recipe, purpose: str) -> nn.Module:
    """A student trained by a recipe of ours on the training split; the same for every run's seed."""
    from evaluators.train import train_student

    row = Protocol(purpose, 1, {student: recipe}, source="our choice")
    return train_student(
        train.images, train.labels, student=student, protocol=row, num_classes=len(train.classes),
        seed=seed_for(purpose), device=ctx.device, progress=ctx.progress,
    )  # fmt: skip


def seed_for(purpose: str) -> int:
    """The seed of a network that is trained, or only made, for a purpose."""
    return seed_of(0, purpose) % 2**31


def opinions(model: nn.Module, images: Tensor, ctx: Context) -> Tensor:
    """Probabilities, float32 (n, classes) on the CPU, of uint8 images (n, 3, h, w)."""
    from evaluators.train import probabilities

    return probabilities(model, images, ctx.device).cpu()
