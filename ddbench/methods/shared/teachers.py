"""Networks trained on the real training images, and their soft labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ddbench.context import Context, seed_of
from ddbench.types import ImageSet
from ddbench.utils.checkpoint import Checkpoint, StudentState
from evaluators.recipes import Augment, Protocol, Recipe

if TYPE_CHECKING:
    from evaluators.students import Student

# replaces the method in the stage's key, so that all methods share the stage; raise it when its content changes
SHARED = "teacher@1"
VIEWS = Augment(crop_area=(0.5, 1.0), crop_ratio=(0.8, 1.25), flip_x=0.5, flip_y=0.5, transpose=0.5)
RECIPE = Recipe("adamw", lr=1e-3, weight_decay=0.05, batch=32, epochs=1, augment=VIEWS)
# SRe2L's for CIFAR, but that it shifts 4 px of padding into the image where this one crops 28 px of 32 at least
SMALL_CROPS = Augment(crop_area=(28**2 / 32**2, 1.0), flip_x=0.5)
PUBLISHED = Recipe(
    "sgd", lr=0.1, weight_decay=5e-4, batch=128, epochs=1, momentum=0.9, warmup=0.0, nesterov=False, decay_all=True,
    whole_epochs=True, augment=SMALL_CROPS,
)  # fmt: skip
# SRe2L's for CIFAR, shifts too: DSA's crop moves an image by up to an eighth of its side (protocol squeeze@1)
SHIFTS = Augment(flip_x=0.5, dsa=("crop",))
# SRe2L's for Tiny ImageNet (protocol squeeze-tiny@1)
CROPS = Augment(crop_area=(0.08, 1.0), crop_ratio=(3 / 4, 4 / 3), crop_tries=10, flip_x=0.5)
RECIPES = {
    "adamw": RECIPE,
    "sgd": PUBLISHED,
    "squeeze": replace(PUBLISHED, augment=SHIFTS),
    "squeeze-tiny": replace(PUBLISHED, lr=0.2, weight_decay=1e-4, batch=256, warmup=0.1, augment=CROPS),
}
Training = Literal["adamw", "sgd", "squeeze", "squeeze-tiny"]
TRAINING = (  # what the keys mean, for the setting that chooses one of them
    "AdamW in batches of 32, all eight symmetries (adamw); as SRe2L's for CIFAR: SGD at 0.1 in batches of 128, mirrors "
    "and shifts by up to an eighth (squeeze) or crops (sgd); as SRe2L's for Tiny ImageNet: SGD at 0.2 in batches of "
    "256, mirrors and crops of 8 % and more (squeeze-tiny). SGD takes exactly `epochs` passes"
)


@dataclass(frozen=True)
class TeacherConfig:
    """A network trained on the real training images.

    student: its architecture.
    epochs: passes over the training split.
    least, most: steps at least and at most, 0 for any number; without effect but on `adamw`.
    training: a key of RECIPES.
    """

    student: str
    epochs: int
    least: int
    most: int
    training: str = "adamw"


def train_teacher(train: ImageSet, ctx: Context, config: TeacherConfig) -> nn.Module:
    """Return a teacher trained on the training split once for all runs; frozen, in eval mode."""
    recipe = replace(RECIPES[config.training], epochs=config.epochs, min_steps=config.least, max_steps=config.most)
    key: dict[str, Any] = {"student": config.student, "epochs": config.epochs, "least": config.least}
    key |= {"most": config.most} if config.most else {}
    key |= {"training": config.training} if config.training != "adamw" else {}
    return stored_network(train, replace(ctx, method=SHARED), recipe, "teacher", key)


def stored_network(train: ImageSet, ctx: Context, recipe: Recipe, purpose: str, key: dict[str, Any]) -> Student:
    """Return the student key["student"], trained on the training split once for each key; frozen, in eval mode.

    purpose: the name of the stage and of the seed.
    """
    from evaluators.students import build  # imports torchvision: takes seconds

    student = key["student"]

    def make(folder: Path) -> dict[str, float]:
        state = StudentState(Checkpoint.beside(folder))
        network = train_on_real(train, ctx, student, recipe, purpose, state)
        weights = {name: part.contiguous() for name, part in network.state_dict().items()}
        save_file(weights, folder / "model.safetensors")
        return {"earlier_seconds": state.earlier_seconds}

    folder = ctx.stage(purpose, make, **key)
    model = build(student, train.images.shape[-1], len(train.classes), seed_for(purpose))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.to(ctx.device).eval().requires_grad_(False)


def train_on_real(
    train: ImageSet, ctx: Context, student: str, recipe: Recipe, purpose: str, state: StudentState
) -> Student:
    """Train a student on the training split, from its state if a process was killed; `state` observes the training.

    Every run's seed yields the same network.
    """
    from evaluators.train import train_student

    protocol = Protocol(purpose, 1, {student: recipe}, source="our choice")
    return train_student(
        train.images, train.labels, student=student, protocol=protocol, num_classes=len(train.classes),
        seed=seed_for(purpose), device=ctx.device, progress=ctx.progress, state=state, observe=state.observe,
    )  # fmt: skip


def seed_for(purpose: str) -> int:
    """Return the seed of the network for a purpose, trained or not."""
    return seed_of(0, purpose) % 2**31


def soft_labels(model: nn.Module, images: Tensor, ctx: Context) -> Tensor:
    """Return the model's probabilities, float32 (n, classes) on the CPU, of uint8 images (n, 3, h, w)."""
    from evaluators.train import probabilities

    return probabilities(model, images, ctx.device).cpu()
