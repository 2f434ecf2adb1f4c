"""DM: distilled images whose features have the class means of real ones, in random networks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ddbench.context import Context, seed_of
from ddbench.methods.pixels.loop import Bench, by_descent, descend, siamese, start, through
from ddbench.methods.pixels.network import Network, Weights, grad_and_value
from ddbench.methods.shared.validation import at_least
from ddbench.types import DistilledSet, ImageSet


@dataclass(frozen=True)
class DM:
    """Distribution matching (Zhao & Bilen, WACV 2023, arXiv:2110.04181).

    iterations: each draws a new random network. rate: learning rate of the pixels (normalised, deviation 0.25).
    momentum: of their SGD. batch: real images of a class per iteration, all of them where it has fewer. init: what the
    images are at first. augment: real and distilled images alike (differentiable Siamese augmentation). student: the
    network's kind. compiled: through torch.compile. bounded: after every step the pixels are brought back into 0..255,
    what can be stored; else they are clipped at the end, as in the public code, whose students see them as they are.
    """

    name: ClassVar[str] = "dm"
    citation: ClassVar[str] = "Zhao & Bilen, Dataset Condensation with Distribution Matching, WACV 2023"
    version: ClassVar[int] = 1
    check_params: ClassVar[dict[str, Any]] = {"iterations": 3, "batch": 4}

    iterations: int = 20001
    rate: float = 1.0
    momentum: float = 0.5
    batch: int = 256
    init: Literal["real", "noise"] = "real"
    augment: bool = True
    student: Literal["convnet"] = "convnet"
    compiled: bool = False
    bounded: bool = True

    def __post_init__(self) -> None:
        at_least(self, iterations=1, batch=1, rate=0, momentum=0)

    def distill(self, train: ImageSet, ipc: int, ctx: Context) -> DistilledSet:
        """`ipc` images per class, optimised. Raises FloatingPointError for a loss that is not finite."""
        bench = Bench.of(train, ctx, self.student, self.compiled)
        first = start(bench.real, ipc, self.init, ctx)
        return by_descent(bench, first, partial(self._move, bench), self.iterations)

    def _move(self, bench: Bench, pixels: Tensor, velocity: Tensor, i: int) -> float:
        """A step down the sum over classes. A class's pixels are in its own term alone, so the terms take turns."""
        weights = bench.network.fresh(seed_of(bench.ctx.seed, "dm", "network", i))
        found = [self._class(own, label, weights, bench, i) for label, own in enumerate(pixels)]
        gradients, losses = zip(*found, strict=True)
        descend(pixels, torch.stack(gradients), velocity, self.rate, self.momentum, self.bounded)
        return float(torch.stack(losses).sum())

    def _class(self, own: Tensor, label: int, weights: Weights, bench: Bench, i: int) -> tuple[Tensor, Tensor]:
        """The gradient of one class's term in its pixels, and the term."""
        numbers, network = bench.ctx.generator("dm", i, bench.real.train.classes[label]), bench.network
        images, look = bench.real.draw(label, self.batch, numbers), siamese(self.augment, numbers, own.device)
        with torch.no_grad():
            wanted = network.run(mean_feature)(weights, look(images))
        return through(look, own, lambda seen: network.run(term)(weights, seen, wanted))


def mean_feature(network: Network, weights: Weights, images: Tensor) -> Tensor:
    """(d,)"""
    return network.features(weights, images).mean(0)


def term(network: Network, weights: Weights, images: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """One class's squared distance of mean features, summed over features: its gradient in the images, and itself."""
    return grad_and_value(lambda x: (mean_feature(network, weights, x) - wanted).square().sum())(images)
