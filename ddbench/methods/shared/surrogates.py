"""Surrogates: students trained on the real images, their weights after each epoch, their gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from ddbench.context import Context, generator_of
from ddbench.methods.shared.dynamics import draw_pool
from ddbench.methods.shared.teachers import seed_for
from ddbench.types import ImageSet
from ddbench.utils.checkpoint import Checkpoint, StudentState
from evaluators.normalisation import Normalisation
from evaluators.recipes import Augment, Protocol, Recipe

# replaces the method in the stages' keys, so that all methods share the stages; raise it when their content changes
SHARED = "surrogate@1"
WEIGHTS = "weights"  # the tensor in a stage's file and in the checkpoint of a training
HALVES = torch.full((3, 1, 1), 0.5)
RANGE = Normalisation("constant", HALVES, HALVES)  # a surrogate sees pixels in [-1, 1], the range of autoencoders
# IDC's (Kim et al. 2022, arXiv:2205.14959) without CutMix
AUGMENT = Augment(
    crop_area=(0.5, 1.0), crop_ratio=(3 / 4, 4 / 3), crop_tries=10, flip_x=0.5, brightness=0.4, contrast=0.4,
    saturation=0.4, lighting=0.1,
)  # fmt: skip
PART = 50  # real images whose gradient is taken at once
TINY = 1e-6  # added to the product of two lengths


@dataclass(frozen=True)
class SurrogateConfig:
    """The training of a surrogate: SGD with momentum 0.9 at a constant rate.

    student: architecture; without batch norm, so that an image's gradient does not depend on other images.
    epochs: passes over the real images.
    rate: learning rate.
    decay: weight decay, of all weights.
    batch: images per step.
    images: images per class, drawn at random; 0 for all.
    """

    student: str
    epochs: int
    rate: float
    decay: float
    batch: int
    images: int = 0


@dataclass(frozen=True)
class TargetConfig:
    """The snapshots and the class gradients that influence guidance follows.

    similarity: a snapshot is taken if its class gradients have less than this mean cosine with the last one's.
    choice_images, target_images: real images per class of the gradients that snapshots are chosen by, and of the
        targets.
    """

    similarity: float
    choice_images: int
    target_images: int


@dataclass(frozen=True)
class Surrogate:
    """A network at chosen snapshots of its training, and the class gradients there.

    network: skeleton without weights of its own, on the device.
    weights: of the chosen snapshots, float32 (e, p) on the device.
    folder: of the stage; it holds a file of each class's gradients.
    """

    network: nn.Module
    weights: Tensor
    folder: Path

    def targets(self, labels: Iterable[int]) -> Tensor:
        """Return the mean gradients of the real images of each label's class, float32 (n, e, p) on the device."""
        parts = [load_file(self.folder / f"{label}.safetensors")["gradient"] for label in labels]
        return torch.stack(parts).to(self.weights.device)


def load_surrogate(train: ImageSet, ctx: Context, config: SurrogateConfig, target: TargetConfig) -> Surrogate:
    """Return a surrogate at its chosen snapshots. Training and gradients are stages, for every seed and budget."""
    shared, classes, network = replace(ctx, method=SHARED), len(train.classes), skeleton(config.student, train, ctx)
    trajectory = train_surrogate(train, shared, config)

    def make(folder: Path) -> dict[str, Any]:
        with safe_open(trajectory, "pt") as file:
            snapshots = file.get_slice(WEIGHTS)
            rows = [_draw(train, label) for label in range(classes)]

            def gradient(epoch: int, label: int, count: int) -> Tensor:
                images = train.images[rows[label][:count]]
                return class_gradient(network, snapshots[epoch].to(ctx.device), images, label).cpu()

            def of_classes(epoch: int) -> Tensor:
                return torch.stack([gradient(epoch, label, target.choice_images) for label in range(classes)])

            chosen = choose_snapshots(
                of_classes, ctx.progress(range(config.epochs + 1), "snapshots"), target.similarity
            )
            for label in ctx.progress(range(classes), "class gradients"):
                parts = torch.stack([gradient(epoch, label, target.target_images) for epoch in chosen])
                save_file({"gradient": parts}, folder / f"{label}.safetensors")
            save_file({WEIGHTS: torch.stack([snapshots[epoch] for epoch in chosen])}, folder / "chosen.safetensors")
        return {"snapshots": chosen}

    folder = shared.stage("class-gradients", make, **vars(config), **vars(target))
    return Surrogate(network, load_file(folder / "chosen.safetensors")[WEIGHTS].to(ctx.device), folder)


def skeleton(student: str, train: ImageSet, ctx: Context) -> nn.Module:
    """Return an untrained surrogate for `train` on the device, in eval mode, for weights of others."""
    from evaluators.students import build  # imports torchvision: takes seconds

    network = build(student, train.images.shape[-1], len(train.classes), 0, normalisation=RANGE)
    return network.to(ctx.device).eval().requires_grad_(False)


def train_surrogate(
    train: ImageSet, ctx: Context, config: SurrogateConfig, snapshots: int | None = None, **key: Any
) -> Path:
    """Return the file of a surrogate's snapshots, float32 (snapshots + 1, p): before training, then evenly.

    A stage; a training that was killed continues from its last checkpoint.

    snapshots: None for one after each epoch. key: more of the stage's key, for images that are not the real ones.
    """
    recipe = Recipe(
        "sgd", lr=config.rate, weight_decay=config.decay, batch=config.batch, epochs=config.epochs, momentum=0.9,
        warmup=0.0, nesterov=False, decay_all=True, whole_epochs=True, milestones=(0.5,), gamma=1.0,  # a constant rate
        tests=snapshots or config.epochs, augment=AUGMENT,
    )  # fmt: skip

    def make(folder: Path) -> dict[str, float]:
        from evaluators.seeds import seed_of
        from evaluators.students import build
        from evaluators.train import train_student

        pool, seed, classes = draw_pool(train, config.images), seed_for("surrogate"), len(train.classes)
        first = build(config.student, train.images.shape[-1], classes, seed_of(seed, "weights"), normalisation=RANGE)
        recorder = SnapshotRecorder(Checkpoint.beside(folder), first)
        protocol = Protocol("surrogate", 1, {config.student: recipe}, source="IGD's public code")
        train_student(
            pool.images, pool.labels, student=config.student, protocol=protocol, num_classes=classes, seed=seed,
            device=ctx.device, progress=ctx.progress, state=recorder, normalisation=RANGE, observe=recorder.observe,
        )  # fmt: skip
        save_file({WEIGHTS: recorder.weights}, folder / "trajectory.safetensors")
        return {"earlier_seconds": recorder.earlier_seconds}

    key |= {"snapshots": snapshots} if snapshots else {}
    return ctx.stage("surrogate", make, **vars(config), **key) / "trajectory.safetensors"


class SnapshotRecorder(StudentState):
    """The state of a training, with the network's weights so far: float32 (1 + epochs, p), part of the checkpoint."""

    def __init__(self, checkpoint: Checkpoint, first: nn.Module) -> None:
        super().__init__(checkpoint)
        tensors = self.load()[1]
        self.weights = tensors[WEIGHTS] if WEIGHTS in tensors else flat_weights(first)[None]

    def observe(self, network: nn.Module) -> None:
        self.weights = torch.cat([self.weights, flat_weights(network)[None]])

    def save(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        super().save(step, {**tensors, WEIGHTS: self.weights})


def flat_weights(network: nn.Module) -> Tensor:
    """Return a copy of a network's weights, one after the other, float32 (p,) on the CPU."""
    return torch.cat([part.detach().cpu().flatten() for part in network.parameters()])


def cross_entropy(network: nn.Module, weights: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropies (n,) of a network with weights (p,), of images in 0..1 or of uint8 ones."""
    parts = dict(network.named_parameters())
    pieces = weights.split([part.numel() for part in parts.values()])
    by_name = {name: piece.view(part.shape) for (name, part), piece in zip(parts.items(), pieces, strict=True)}
    return F.cross_entropy(functional_call(network, by_name, (images,)), labels, reduction="none")


def class_gradient(network: nn.Module, weights: Tensor, images: Tensor, label: int) -> Tensor:
    """Return the gradient (p,) of the mean cross-entropy of uint8 images (n, 3, h, w) of one class."""
    total = torch.zeros_like(weights)
    weights = weights.detach().requires_grad_()
    for part in images.split(PART):
        with torch.enable_grad():
            labels = torch.full((len(part),), label, device=weights.device)
            loss = cross_entropy(network, weights, part.to(weights.device), labels).sum() / len(images)
        total += torch.autograd.grad(loss, weights)[0]
    return total


def image_gradients(network: nn.Module, weights: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient (n, p) of each image's own cross-entropy; images (n, 3, h, w) are float, 0..1.

    It can be differentiated again in the images.
    """
    loss = lambda w, x, c: cross_entropy(network, w, x[None], c[None])[0]  # noqa: E731
    gradients: Tensor = vmap(grad(loss), (None, 0, 0))(weights, images, labels)
    return gradients


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosines (...) of vectors (..., p), with TINY added to the product of their lengths."""
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1) + TINY)


def choose_snapshots(of_classes: Callable[[int], Tensor], epochs: Iterable[int], similarity: float) -> list[int]:
    """Return the first of `epochs`, and each whose class gradients differ enough from the last chosen one's.

    of_classes: epoch -> class gradients (classes, p). similarity: their cosine with the last chosen ones, mean over the
    classes, must be below it.
    """
    chosen: list[int] = []
    last = torch.empty(0)
    for epoch in epochs:
        gradients = of_classes(epoch)
        if not chosen or float(cosine(gradients, last).mean()) < similarity:
            chosen, last = [*chosen, epoch], gradients
    return chosen


def _draw(train: ImageSet, label: int) -> Tensor:
    """Return the images of a class in an order that is always the same, drawn at random."""
    rows, generator = train.of_class(label), generator_of(0, "class gradients", train.classes[label])
    return rows[torch.randperm(len(rows), generator=generator)]
