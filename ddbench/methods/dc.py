"""DC and DSA: distilled images whose gradients are those of real ones, along the training of random networks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.func import grad

from ddbench.context import Context, seed_of
from ddbench.methods.pixels.loop import Bench, by_descent, descend, looked_at, siamese, start, through
from ddbench.methods.pixels.network import Network, Weights, grad_and_value, slope, stepped
from ddbench.methods.shared.validation import at_least
from ddbench.types import DistilledSet, ImageSet

LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}  # the public code's
RATE, BATCH = 0.01, 256  # of the networks, which are trained on the distilled images by plain SGD


@dataclass(frozen=True)
class DC:
    """Gradient matching (Zhao, Mopuri & Bilen, ICLR 2021, arXiv:2006.05929).

    iterations: each begins with a new random network. outer: matching steps with a network. inner: epochs that it is
    trained on the distilled images between them. outer, inner = 0: as the public code has them for the nearest IPC that
    it knows: 1, 10, 20, 30, 40 or 50. rate, momentum: of the pixels' SGD (normalised, deviation 0.25). batch: real
    images of a class per step, all of them where it has fewer. init: what the images are at first. student: the
    network's kind. compiled: through torch.compile. bounded: after every step the pixels are brought back into 0..255,
    what can be stored; else they are clipped at the end.
    """

    name: ClassVar[str] = "dc"
    citation: ClassVar[str] = "Zhao, Mopuri & Bilen, Dataset Condensation with Gradient Matching, ICLR 2021"
    version: ClassVar[int] = 1
    augment: ClassVar[bool] = False
    check_params: ClassVar[dict[str, Any]] = {"iterations": 1, "outer": 2, "inner": 1, "batch": 4}

    iterations: int = 1001
    outer: int = 0
    inner: int = 0
    rate: float = 0.1
    momentum: float = 0.5
    batch: int = 256
    init: Literal["real", "noise"] = "noise"
    student: Literal["convnet"] = "convnet"
    compiled: bool = False
    bounded: bool = True

    def __post_init__(self) -> None:
        at_least(self, iterations=1, outer=0, inner=0, batch=1, rate=0, momentum=0)

    def distill(self, train: ImageSet, ipc: int, ctx: Context) -> DistilledSet:
        """`ipc` images per class, optimised. Raises FloatingPointError for a loss that is not finite."""
        bench = Bench.of(train, ctx, self.student, self.compiled)
        first = start(bench.real, ipc, self.init, ctx)
        return by_descent(bench, first, partial(self._along_a_training, bench), self.iterations)

    def loops(self, ipc: int) -> tuple[int, int]:
        """(outer, inner) for a number of images per class."""
        nearest = min(LOOPS, key=lambda known: (abs(known - ipc), known))
        return self.outer or LOOPS[nearest][0], self.inner or LOOPS[nearest][1]

    def _along_a_training(self, bench: Bench, pixels: Tensor, velocity: Tensor, i: int) -> float:
        """Match, move the pixels, train the network on them, match again. The mean loss."""
        weights, losses = bench.network.fresh(seed_of(bench.ctx.seed, self.name, "network", i)), []
        outer, inner = self.loops(pixels.shape[1])
        for j in range(outer):
            if j:
                weights = self._trained(weights, pixels, inner, bench, bench.ctx.generator(self.name, "train", i, j))
            found = [self._class(own, label, weights, bench, (i, j)) for label, own in enumerate(pixels)]
            gradients, terms = zip(*found, strict=True)
            descend(pixels, torch.stack(gradients), velocity, self.rate, self.momentum, self.bounded)
            losses.append(float(torch.stack(terms).sum()))
        return sum(losses) / outer

    def _class(
        self, own: Tensor, label: int, weights: Weights, bench: Bench, at: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """The gradient of one class's term in its pixels, and the term."""
        numbers = bench.ctx.generator(self.name, *at, bench.real.train.classes[label])
        images, look = bench.real.draw(label, self.batch, numbers), siamese(self.augment, numbers, own.device)
        wanted = bench.network.run(slope)(weights, look(images), _all(label, images))
        labels = _all(label, own)
        return through(look, own, lambda seen: bench.network.run(term)(weights, seen, labels, wanted))

    def _trained(
        self, weights: Weights, pixels: Tensor, epochs: int, bench: Bench, numbers: torch.Generator
    ) -> Weights:
        """The weights after `epochs` of plain SGD on the distilled images."""
        images = pixels.detach().flatten(0, 1)
        labels = torch.arange(len(pixels), device=pixels.device).repeat_interleave(pixels.shape[1])
        for _ in range(epochs):
            for index in torch.randperm(len(images), generator=numbers).split(BATCH):
                batch = looked_at(images[index], self.augment, numbers)
                downhill = bench.network.run(slope)(weights, batch, labels[index])
                weights = stepped(weights, downhill, RATE)
        return weights


@dataclass(frozen=True)
class DSA(DC):
    """Gradient matching with differentiable Siamese augmentation (Zhao & Bilen, ICML 2021, arXiv:2102.08259).

    The fields are those of `dc`; the images start from real ones.
    """

    name: ClassVar[str] = "dsa"
    citation: ClassVar[str] = "Zhao & Bilen, Dataset Condensation with Differentiable Siamese Augmentation, ICML 2021"
    augment: ClassVar[bool] = True

    init: Literal["real", "noise"] = "real"


def term(network: Network, weights: Weights, images: Tensor, labels: Tensor, wanted: Weights) -> tuple[Tensor, Tensor]:
    """`distance` of the images' gradient from the wanted one: its gradient in the images, and itself."""
    return grad_and_value(lambda x: distance(grad(network.loss)(weights, x, labels), wanted))(images)


def distance(one: Weights, other: Weights) -> Tensor:
    """Of two gradients: 1 - cosine of their rows, summed over rows and over tensors of two or more dimensions (eq. 10).

    A row is what leads to one output: tensors are reshaped to (out, rest). Biases and norms count nothing. As the
    public code has it, with 1e-6 added to the product of the norms.
    """
    return sum(_rows(a, other[name]) for name, a in one.items() if a.ndim > 1)


def _all(label: int, images: Tensor) -> Tensor:
    return torch.full((len(images),), label, device=images.device)


def _rows(a: Tensor, b: Tensor) -> Tensor:
    a, b = a.flatten(1), b.flatten(1)
    return (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)).sum()
