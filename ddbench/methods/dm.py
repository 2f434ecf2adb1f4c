"""DM: distilled images whose features have the class means of real ones, in random networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

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
    PixelMethod,
    dsa_groups,
    initial_pixels,
    optimise_pixels,
)
from ddbench.methods.pixels.network import Network, Weights, backprop_through, grad_and_value
from ddbench.methods.pixels.repeated import RepeatedStep
from ddbench.methods.shared.validation import at_least
from ddbench.types import DistilledSet, ImageSet
from evaluators import dsa
from evaluators.recipes import DSA


@dataclass(frozen=True)
class DM(PixelMethod):
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
        step = RepeatedStep(partial(self._step, setup, sgd), (S, sgd.velocity), ctx.device)
        iterate = lambda k: step(self._draw(setup, k))  # noqa: E731
        return optimise_pixels(setup, sgd, iterate, self.iterations, self.store_float, self.init)

    def _draw(self, setup: MatchingSetup, k: int) -> Drawn:
        """Draw the network, the real images and the augmentations of iteration k."""
        rows, draws = [], []
        for c, name in enumerate(setup.real.train.classes):
            numbers = setup.ctx.generator("dm", k, name)
            rows.append(setup.real.draw_rows(c, self.batch, numbers))
            draws.append(dsa.draw(1, numbers))
        theta = setup.network.draw(seed_of(setup.ctx.seed, "dm", "network", k))
        operations = torch.tensor([DSA.index(draw.operation) for draw in draws])
        return Drawn(theta, setup.real.stored(torch.cat(rows)), operations, torch.cat([draw.numbers for draw in draws]))

    def _step(self, setup: MatchingSetup, sgd: MomentumSGD, drawn: Drawn) -> Tensor:
        """Take a step of algorithm 1 on the pixels S = `sgd.values`; return the loss, summed over classes."""
        network, theta, gradients, losses = setup.network, drawn.theta, [], []
        counts = [min(self.batch, len(rows)) for rows in setup.real.rows]
        T = drawn.T.split(counts)
        for C in setup.passes(self.batch):  # classes of a pass: one on a CPU
            T_C, S_C = setup.real.normalise(torch.cat(T[C])), sgd.values[C]
            sizes, ipc = counts[C], [S_C.shape[1]] * len(S_C)
            A = dsa_groups(self.augment, drawn.operations[C], drawn.numbers[C])  # A(., omega_c), the same for T_c, S_c
            with torch.no_grad():
                real_means = network.run(mean_features)(theta, A(T_C, sizes), sizes)
            loss = partial(network.run(dm_loss), theta, real_means=real_means)
            gradient, value = backprop_through(partial(A, sizes=ipc), S_C.flatten(0, 1), loss)
            gradients.append(gradient.view_as(S_C))
            losses.append(value)
        gradient = torch.cat(gradients)
        sgd.move(gradient)
        return torch.where(gradient.isfinite().all(), torch.stack(losses).sum(), torch.nan)  # clamping would hide it


class Drawn(NamedTuple):
    """The random draws of one iteration of DM, class after class.

    theta: weights of its network. T: real images, as they are stored.
    operations, numbers: of A(., omega_c) (`dsa.apply_groups`).
    """

    theta: Weights
    T: Tensor
    operations: Tensor
    numbers: Tensor


def dm_loss(network: Network, theta: Weights, S: Tensor, real_means: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the sum over classes of || mean of psi(T_c) - mean of psi(S_c) ||^2, the loss of algorithm 1.

    psi: features of the network with weights theta. S: (n, 3, h, w), equally many images of each class, class after
    class. real_means: (classes, d). Returns the gradient with respect to S, and the loss. S_c occurs in the term of its
    class alone.
    """
    sizes = [len(S) // len(real_means)] * len(real_means)
    return grad_and_value(lambda x: (mean_features(network, theta, x, sizes) - real_means).square().sum())(S)


def mean_features(network: Network, theta: Weights, images: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return the mean of psi over each class's images, (classes, d). sizes: images of each class, in their order."""
    return torch.stack([psi.mean(0) for psi in network.features(theta, images).split(list(sizes))])
