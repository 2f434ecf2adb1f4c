"""SRe2L: images from noise that a teacher recognises and whose batch statistics are those it learned."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddbench.config import param
from ddbench.context import Context
from ddbench.methods.pixels.loop import to_distilled_set
from ddbench.methods.shared.checkpoint import optimise_with_checkpoints
from ddbench.methods.shared.teachers import TRAINING, TeacherConfig, Training, soft_labels, train_teacher
from ddbench.methods.shared.validation import at_least, shares
from ddbench.types import DistilledSet, ImageSet
from evaluators.normalisation import Normalisation, normalisation_of

BETAS, EPSILON = (0.5, 0.9), 1e-8


@dataclass(frozen=True)
class Recovery:
    """Inputs of a step on the pixels: the teacher, its batch norms' distances, the pixels' normalisation, the run."""

    teacher: nn.Module
    distances: list[Tensor]
    normalisation: Normalisation
    ctx: Context


@dataclass(frozen=True)
class SRe2L:
    """Squeeze, recover and relabel (Yin, Xing & Shen, NeurIPS 2023, arXiv:2306.13092).

    Defaults are those published for ImageNet at 224 px; for small images take the preset of the nearest size.
    """

    name: ClassVar[str] = "sre2l"
    citation: ClassVar[str] = "Yin, Xing & Shen, Squeeze, Recover and Relabel, NeurIPS 2023"
    version: ClassVar[int] = 2
    check_params: ClassVar[dict[str, Any]] = {"iterations": 2, "epochs": 1, "least": 2}

    iterations: int = param(4000, "Adam steps on every batch", "1 or more")
    rate: float = param(0.25, "initial learning rate of the normalised pixels; half a cosine to 0")
    statistics: float = param(0.01, "weight of the distances of batch-norm statistics")
    first: float = param(10.0, "weight of the first batch norm's distance, relative to the others")
    smallest: float = param(0.08, "smallest area of a random crop, as a share of the image; 1: no crop", "0 to 1")
    mirror: bool = param(True, "mirror the batch with probability 0.5", added_later=True)
    normalise: Literal["data", "constant", "cifar10", "cifar100", "imagenet"] = param(
        "data",
        "of pixels: training images' mean and deviation (data), constants (0.5, 0.25), or the constants that the "
        "literature has for a dataset",
    )
    roll: int = param(32, "largest shift of the images each way, by rolling", "px")
    soft: bool = param(True, "store the teacher's probabilities of each image as its soft label")
    teacher: Literal["resnet18"] = param("resnet18", "architecture of the teacher; it has batch norm")
    epochs: int = param(10, "teacher's passes over the training split", "1 or more")
    least: int = param(1000, "teacher's steps at least, of 32 images", "1 or more")
    most: int = param(0, "teacher's steps at most, of 32 images, 0 for any number")
    training: Training = param("adamw", f"training of the teacher: {TRAINING}", added_later=True)
    classes: int = param(
        0, "classes of a batch, which has one image of each; 0: all (published: 100)", added_later=True
    )

    def __post_init__(self) -> None:
        at_least(self, iterations=1, epochs=1, least=1, most=0, roll=0, rate=0, classes=0)
        shares(self, "smallest")

    def distill(self, train: ImageSet, ipc: int, ctx: Context) -> DistilledSet:
        """Optimise `ipc` images per class, batch by batch. Raises FloatingPointError for a loss that is not finite."""
        config = TeacherConfig(self.teacher, self.epochs, self.least, self.most, self.training)
        teacher = train_teacher(train, ctx, config)  # squeeze
        shape = (ipc, len(train.classes), *train.images.shape[1:])
        x = torch.randn(shape, generator=ctx.generator("start")).to(ctx.device)  # recover: from N(0, 1)
        state = {"pixels": x, "mean": torch.zeros_like(x[0]), "square": torch.zeros_like(x[0])}
        normalisation = normalisation_of(train.images, self.normalise).to(ctx.device)
        with batch_norm_distances(teacher) as distances:
            recovery = Recovery(teacher, distances, normalisation, ctx)
            steps = self.iterations * ipc * len(self._batches(len(train.classes)))
            loss = optimise_with_checkpoints(state, lambda i: self._iteration(state, recovery, i), steps, ctx).loss
        distilled = to_distilled_set(x.transpose(0, 1), train, normalisation, loss=loss)
        if not self.soft:
            return distilled
        return replace(distilled, soft_labels=soft_labels(teacher, distilled.images, ctx))  # relabel

    def _batches(self, classes: int) -> list[slice]:
        """Return the classes of each batch."""
        size = self.classes or classes
        return [slice(first, min(first + size, classes)) for first in range(0, classes, size)]

    def _iteration(self, state: dict[str, Tensor], recovery: Recovery, i: int) -> float:
        """Take one Adam step on one batch, which has an image of each of its classes; return the loss.

        L = CE(teacher(A(x)), y) + statistics * R_BN, with R_BN the sum over batch norms of
        || mean - running mean || + || variance - running variance ||, the first of them weighted by `first`.
        """
        batch, k = divmod(i, self.iterations)
        batches = self._batches(state["pixels"].shape[1])
        image, rows = batch // len(batches), batches[batch % len(batches)]
        distances, normalisation = recovery.distances, recovery.normalisation
        x, moments = state["pixels"][image, rows], (state["mean"][rows], state["square"][rows])
        numbers = recovery.ctx.generator("sre2l", i)
        if k == 0:
            for moment in moments:
                moment.zero_()
        leaf = x.detach().requires_grad_()
        augmented = roll_randomly(resized_crop(leaf, self.smallest, self.mirror, numbers), self.roll, numbers)
        distances.clear()
        logits = recovery.teacher(normalisation.restore(augmented))
        cross_entropy = F.cross_entropy(logits, torch.arange(rows.start, rows.stop, device=x.device))
        loss = cross_entropy + self.statistics * (self.first * distances[0] + sum(distances[1:]))
        gradient = torch.autograd.grad(loss, leaf)[0]
        rate = self.rate * 0.5 * (1 + math.cos(math.pi * k / self.iterations))
        adam_step_(x, gradient, moments, rate, k)
        normalisation.clamp_(x)
        return float(loss.detach())


@contextmanager
def batch_norm_distances(model: nn.Module) -> Iterator[list[Tensor]]:
    """Yield a list; every forward pass appends the distance of each batch norm, in order.

    The distance is the norm of (mean of the batch norm's input - running mean), plus that of the biased variances, as
    in the public code.
    """
    distances: list[Tensor] = []

    def append_distance(norm: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        var, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
        running_mean, running_var = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
        distances.append((mean - running_mean).norm() + (var - running_var).norm())

    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    handles = [norm.register_forward_pre_hook(append_distance) for norm in norms]
    try:
        yield distances
    finally:
        for handle in handles:
            handle.remove()


def resized_crop(images: Tensor, smallest: float, mirror: bool, numbers: torch.Generator) -> Tensor:
    """Crop the batch at one random square, resize it to the images' size; with `mirror` mirror it in half of the calls.

    The square's share of the area is drawn from U[smallest, 1].
    """
    side = images.shape[-1]
    share, across, down, turn = torch.rand(4, generator=numbers).tolist()
    edge = max(1, round(side * math.sqrt(smallest + (1 - smallest) * share)))
    y, x = int(down * (side - edge + 1)), int(across * (side - edge + 1))
    part = images[:, :, y : y + edge, x : x + edge]
    part = F.interpolate(part, (side, side), mode="bilinear", align_corners=False) if edge < side else part
    return part.flip(3) if mirror and turn < 0.5 else part


def roll_randomly(images: Tensor, largest: int, numbers: torch.Generator) -> Tensor:
    """Roll the whole batch by up to `largest` pixels each way."""
    down, across = torch.randint(-largest, largest + 1, (2,), generator=numbers).tolist()
    return images.roll((down, across), (2, 3))


def adam_step_(parameter: Tensor, gradient: Tensor, moments: tuple[Tensor, Tensor], rate: float, step: int) -> None:
    """Take step `step` (from 0) of Adam in place, with the release's betas.

    It equals torch.optim.Adam but for rounding: torch divides the root of the second moment by that of its correction.
    """
    mean, square = moments
    mean.lerp_(gradient, 1 - BETAS[0])
    square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
    unbiased = (square / (1 - BETAS[1] ** (step + 1))).sqrt()
    parameter.addcdiv_(mean, unbiased + EPSILON, value=-rate / (1 - BETAS[0] ** (step + 1)))
