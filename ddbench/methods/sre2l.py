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

from ddbench.context import Context
from ddbench.methods.pixels.loop import BLACK, WHITE, optimise, stored
from ddbench.methods.shared.teachers import opinions, taught
from ddbench.methods.shared.validation import at_least, shares
from ddbench.types import DistilledSet, ImageSet
from evaluators.augment import MEAN, STD

BETAS, EPSILON = (0.5, 0.9), 1e-8


@dataclass(frozen=True)
class SRe2L:
    """Squeeze, recover and relabel (Yin, Xing & Shen, NeurIPS 2023, arXiv:2306.13092).

    iterations: Adam steps on every batch of one image per class. rate: at first, along half a cosine to 0 (pixels
    normalised, deviation 0.25). statistics: weight of the batch norms' distances; first: of the first of them, in
    multiples of that. smallest: share of the image that a random crop keeps at least, 1 for no crop. roll: images are
    rolled by up to this many pixels each way. soft: keep what the teacher says of each image as its soft label.
    teacher: a network with batch norm. epochs: passes over the training split that it is trained for. least, most:
    steps, of 32 images, that it is trained at least and at most (0: any number).

    Defaults are those published for ImageNet at 224 px; for small images take the preset of the nearest size.
    """

    name: ClassVar[str] = "sre2l"
    citation: ClassVar[str] = "Yin, Xing & Shen, Squeeze, Recover and Relabel, NeurIPS 2023"
    version: ClassVar[int] = 1
    check_params: ClassVar[dict[str, Any]] = {"iterations": 2, "epochs": 1, "least": 2}

    iterations: int = 4000
    rate: float = 0.25
    statistics: float = 0.01
    first: float = 10.0
    smallest: float = 0.08
    roll: int = 32
    soft: bool = True
    teacher: Literal["resnet18"] = "resnet18"
    epochs: int = 10
    least: int = 1000
    most: int = 0

    def __post_init__(self) -> None:
        at_least(self, iterations=1, epochs=1, least=1, most=0, roll=0, rate=0)
        shares(self, "smallest")

    def distill(self, train: ImageSet, ipc: int, ctx: Context) -> DistilledSet:
        """`ipc` images per class, batch after batch. Raises FloatingPointError for a loss that is not finite."""
        model = taught(train, ctx, self.teacher, (self.epochs, self.least, self.most))
        shape = (ipc, len(train.classes), *train.images.shape[1:])
        pixels = torch.randn(shape, generator=ctx.generator("start")).to(ctx.device)
        state = {"pixels": pixels, "mean": torch.zeros_like(pixels[0]), "square": torch.zeros_like(pixels[0])}
        with watched(model) as distances:
            loss = optimise(state, lambda i: self._step(state, model, distances, ctx, i), self.iterations * ipc, ctx)
        made = stored(pixels.transpose(0, 1), train, loss=loss)
        return replace(made, soft_labels=opinions(model, made.images, ctx)) if self.soft else made

    def _step(self, state: dict[str, Tensor], model: nn.Module, distances: list[Tensor], ctx: Context, i: int) -> float:
        """One step of Adam on one batch, which has an image of every class."""
        batch, k = divmod(i, self.iterations)
        pixels = state["pixels"][batch]
        if k == 0:
            state["mean"].zero_()
            state["square"].zero_()
        seen = pixels.detach().requires_grad_()
        loss = self._loss(seen, model, distances, ctx.generator("sre2l", i))
        gradient = torch.autograd.grad(loss, seen)[0]
        rate = self.rate * 0.5 * (1 + math.cos(math.pi * k / self.iterations))
        adam(pixels, gradient, (state["mean"], state["square"]), rate, k)
        pixels.clamp_(BLACK, WHITE)
        return float(loss.detach())

    def _loss(self, seen: Tensor, model: nn.Module, distances: list[Tensor], numbers: torch.Generator) -> Tensor:
        """Cross-entropy and the weighted distances of the batch norms' statistics, of the batch as it is looked at."""
        distances.clear()
        looked = rolled(resized_crop(seen, self.smallest, numbers), self.roll, numbers)
        surprise = F.cross_entropy(model(looked * STD + MEAN), torch.arange(len(seen), device=seen.device))
        return surprise + self.statistics * (self.first * distances[0] + sum(distances[1:]))


@contextmanager
def watched(model: nn.Module) -> Iterator[list[Tensor]]:
    """A list that every forward pass adds to: by batch norm, in order, how far its input's statistics are from its own.

    The norm of the difference of means, and that of the biased variances, as the public code has it.
    """
    found: list[Tensor] = []

    def look(norm: nn.BatchNorm2d, given: tuple[Tensor]) -> None:
        var, mean = torch.var_mean(given[0], dim=(0, 2, 3), correction=0)
        found.append((mean - norm.running_mean).norm() + (var - norm.running_var).norm())

    handles = [m.register_forward_pre_hook(look) for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def resized_crop(images: Tensor, smallest: float, numbers: torch.Generator) -> Tensor:
    """One square crop for the whole batch, at the images' size; half of the time mirrored.

    It is of a share of the area from U[smallest, 1].
    """
    side = images.shape[-1]
    share, across, down, turn = torch.rand(4, generator=numbers).tolist()
    edge = max(1, round(side * math.sqrt(smallest + (1 - smallest) * share)))
    y, x = int(down * (side - edge + 1)), int(across * (side - edge + 1))
    part = images[:, :, y : y + edge, x : x + edge]
    part = F.interpolate(part, (side, side), mode="bilinear", align_corners=False) if edge < side else part
    return part.flip(3) if turn < 0.5 else part


def rolled(images: Tensor, most: int, numbers: torch.Generator) -> Tensor:
    """The whole batch rolled by up to `most` pixels each way."""
    down, across = torch.randint(-most, most + 1, (2,), generator=numbers).tolist()
    return images.roll((down, across), (2, 3))


def adam(parameter: Tensor, gradient: Tensor, moments: tuple[Tensor, Tensor], rate: float, step: int) -> None:
    """Step `step` (from 0) of Adam in place, as torch's, with the release's betas."""
    mean, square = moments
    mean.lerp_(gradient, 1 - BETAS[0])
    square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
    unbiased = (square / (1 - BETAS[1] ** (step + 1))).sqrt()
    parameter.addcdiv_(mean, unbiased + EPSILON, value=-rate / (1 - BETAS[0] ** (step + 1)))
