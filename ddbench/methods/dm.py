"""DM: distilled images whose features have the class means of real ones, in random networks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ddbench.config import param
from ddbench.context import Context, seed_of
from ddbench.methods.pixels.loop import (
    NORMALISE,
    STORE_FLOAT,
    MatchingSetup,
    MomentumSGD,
    Normalise,
    dsa_shared,
    initial_pixels,
    optimise_pixels,
)
from ddbench.methods.pixels.network import Network, Weights, backprop_through, grad_and_value
from ddbench.methods.shared.validation import at_least
from ddbench.types import DistilledSet, ImageSet


@dataclass(frozen=True)
class DM:
    """Distribution matching (Zhao & Bilen, WACV 2023, arXiv:2110.04181).

    Unbounded pixels are as in the public code. Its students see them unclipped, and so do those of dc-float@1 if
    `store_float` is true.
    """

    name: ClassVar[str] = "dm"
    citation: ClassVar[str] = "Zhao & Bilen, Dataset Condensation with Distribution Matching, WACV 2023"
    version: ClassVar[int] = 3
    check_params: ClassVar[dict[str, Any]] = {"iterations": 3, "batch": 4}

    iterations: int = param(20001, "SGD steps on the pixels, each with a new random network", "1 or more")
    rate: float = param(1.0, "learning rate of the normalised pixels", "0 or more")
    momentum: float = param(0.5, "momentum of the pixels' SGD", "0 or more")
    batch: int = param(256, "real images per class and iteration; all if a class has fewer", "1 or more")
    init: Literal["real", "noise"] = param("real", "initial images: real ones, or noise from N(0, 1)")
    augment: bool = param(True, "differentiable Siamese augmentation of real and distilled images")
    normalise: Normalise = param("data", NORMALISE)
    student: Literal["convnet"] = param("convnet", "architecture of the networks")
    compiled: bool = param(False, "use torch.compile")
    bounded: bool = param(True, "clamp pixels to 0..255 after every step, else clip them once at the end")
    store_float: bool = param(False, STORE_FLOAT)

    def __post_init__(self) -> None:
        at_least(self, iterations=1, batch=1, rate=0, momentum=0)

    def distill(self, train: ImageSet, ipc: int, ctx: Context) -> DistilledSet:
        """Optimise `ipc` images per class (algorithm 1). Raises FloatingPointError for a loss that is not finite."""
        setup = MatchingSetup.of(train, ctx, self.student, self.compiled, self.normalise)
        S = initial_pixels(setup.real, ipc, self.init, ctx)
        sgd = MomentumSGD(S, self.rate, self.momentum, setup.real.normalisation if self.bounded else None)
        step = partial(self._iteration, setup, sgd)
        return optimise_pixels(setup, sgd, step, self.iterations, self.store_float, self.init)

    def _iteration(self, setup: MatchingSetup, sgd: MomentumSGD, k: int) -> float:
        """Take step k of algorithm 1 on the pixels S = `sgd.values`; return the loss, summed over classes."""
        ctx, network, gradients, losses = setup.ctx, setup.network, [], []
        theta = network.fresh(seed_of(ctx.seed, "dm", "network", k))
        for c, name in enumerate(setup.real.train.classes):
            numbers = ctx.generator("dm", k, name)
            T_c, S_c = setup.real.draw(c, self.batch, numbers), sgd.values[c]
            A = dsa_shared(self.augment, numbers, ctx.device)  # A(., omega_c), the same for T_c and S_c
            with torch.no_grad():
                real_mean = network.run(mean_feature)(theta, A(T_c))
            loss = partial(network.run(dm_loss), theta, real_mean=real_mean)
            gradient, value = backprop_through(A, S_c, loss)  # S_c occurs in the term of its class alone
            gradients.append(gradient)
            losses.append(value)
        sgd.step(torch.stack(gradients))
        return float(torch.stack(losses).sum())


def dm_loss(network: Network, theta: Weights, S_c: Tensor, real_mean: Tensor) -> tuple[Tensor, Tensor]:
    """Compute || mean of psi(T_c) - mean of psi(S_c) ||^2, one class's term of the loss of algorithm 1.

    psi: features of the network with weights theta. Returns the gradient with respect to S_c, (n, 3, h, w), and the
    loss.
    """
    return grad_and_value(lambda x: (mean_feature(network, theta, x) - real_mean).square().sum())(S_c)


def mean_feature(network: Network, theta: Weights, images: Tensor) -> Tensor:
    """Return the mean of psi(images), (d,)."""
    return network.features(theta, images).mean(0)
