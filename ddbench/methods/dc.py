"""DC and DSA: distilled images whose gradients are those of real ones, along the training of random networks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.func import grad

from ddbench.config import param
from ddbench.context import Context, seed_of
from ddbench.methods.pixels.loop import (
    NORMALISE,
    STORE_FLOAT,
    MatchingSetup,
    MomentumSGD,
    Normalise,
    PixelMethod,
    dsa_per_image,
    dsa_shared,
    initial_pixels,
    optimise_pixels,
)
from ddbench.methods.pixels.network import (
    Network,
    Weights,
    backprop_through,
    grad_and_value,
    sgd_step,
    weight_gradient,
)
from ddbench.methods.shared.validation import at_least
from ddbench.types import DistilledSet, ImageSet

LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}  # of the public code, by IPC
ETA, BATCH = 0.01, 256  # of the networks, which are trained on the distilled images by plain SGD


@dataclass(frozen=True)
class DC(PixelMethod):
    """Gradient matching (Zhao, Mopuri & Bilen, ICLR 2021, arXiv:2006.05929)."""

    name: ClassVar[str] = "dc"
    citation: ClassVar[str] = "Zhao, Mopuri & Bilen, Dataset Condensation with Gradient Matching, ICLR 2021"
    version: ClassVar[int] = 2
    augment: ClassVar[bool] = False
    check_params: ClassVar[dict[str, Any]] = {"iterations": 1, "outer": 2, "inner": 1, "batch": 4}

    iterations: int = param(1001, "random networks, one after another", "1 or more")
    outer: int = param(0, "matching steps per network; 0: published for the nearest of IPC 1, 10, 20, 30, 40, 50")
    inner: int = param(0, "epochs of the network on the distilled images between two steps; 0: published, as for outer")
    rate: float = param(0.1, "learning rate of the normalised pixels", "0 or more")
    momentum: float = param(0.5, "momentum of the pixels' SGD", "0 or more")
    batch: int = param(256, "real images per class and step; all if a class has fewer", "1 or more")
    init: Literal["real", "noise"] = param("noise", "initial images: real ones, or noise from N(0, 1)")
    normalise: Normalise = param("data", NORMALISE)
    student: Literal["convnet"] = param("convnet", "architecture of the networks")
    compiled: bool = param(False, "use torch.compile")
    bounded: bool = param(True, "clamp pixels to 0..255 after every step, else clip them once at the end")
    store_float: bool = param(False, STORE_FLOAT)

    def __post_init__(self) -> None:
        at_least(self, iterations=1, outer=0, inner=0, batch=1, rate=0, momentum=0)

    def distill(self, train: ImageSet, ipc: int, ctx: Context) -> DistilledSet:
        """Optimise `ipc` images per class (algorithm 1). Raises FloatingPointError for a loss that is not finite."""
        setup = MatchingSetup.of(train, ctx, self.student, self.compiled, self.normalise)
        S = initial_pixels(setup.real, ipc, self.init, ctx)
        sgd = MomentumSGD(S, self.rate, self.momentum, setup.real.normalisation if self.bounded else None)
        step = partial(self._iteration, setup, sgd)
        return optimise_pixels(setup, sgd, step, self.iterations, self.store_float, self.init)

    def loops(self, ipc: int) -> tuple[int, int]:
        """Return T and the network's epochs (outer, inner) for a number of images per class."""
        nearest = min(LOOPS, key=lambda published: (abs(published - ipc), published))
        return self.outer or LOOPS[nearest][0], self.inner or LOOPS[nearest][1]

    def _iteration(self, setup: MatchingSetup, sgd: MomentumSGD, k: int) -> float:
        """Do the outer loop of algorithm 1 with network k on the pixels S = `sgd.values`; return the mean loss."""
        ctx, network, S = setup.ctx, setup.network, sgd.values
        (T, epochs), losses = self.loops(S.shape[1]), []
        theta = network.fresh(seed_of(ctx.seed, self.name, "network", k))
        for t in range(T):
            gradients, values = [], []
            for c, name in enumerate(setup.real.train.classes):
                numbers = ctx.generator(self.name, k, t, name)
                T_c, S_c = setup.real.draw(c, self.batch, numbers), S[c]
                A = dsa_shared(self.augment, numbers, ctx.device)  # DSA's A(., omega), the same for T_c and S_c
                real_labels, labels = (torch.full((len(x),), c, device=ctx.device) for x in (T_c, S_c))
                real_gradient = network.run(weight_gradient)(theta, A(T_c), real_labels)
                loss = partial(network.run(dc_loss), theta, labels=labels, real_gradient=real_gradient)
                gradient, value = backprop_through(A, S_c, loss)  # S_c occurs in the term of its class alone
                gradients.append(gradient)
                values.append(value)
            sgd.step(torch.stack(gradients))
            losses.append(float(torch.stack(values).sum()))
            if t + 1 < T:  # train the network on S
                numbers = ctx.generator(self.name, "train", k, t + 1)
                images, labels = S.flatten(0, 1), torch.arange(len(S), device=S.device).repeat_interleave(S.shape[1])
                for _ in range(epochs):
                    for rows in torch.randperm(len(images), generator=numbers).split(BATCH):
                        batch = dsa_per_image(images[rows], self.augment, numbers)
                        theta = sgd_step(theta, network.run(weight_gradient)(theta, batch, labels[rows]), ETA)
        return sum(losses) / T


def dc_loss(
    network: Network, theta: Weights, S_c: Tensor, labels: Tensor, real_gradient: Weights
) -> tuple[Tensor, Tensor]:
    """Compute D(gradient on S_c, gradient on T_c) of the cross-entropy, one class's term of the loss of algorithm 1.

    Returns the gradient with respect to S_c, (n, 3, h, w), and the value.
    """
    return grad_and_value(lambda x: gradient_distance(grad(network.loss)(theta, x, labels), real_gradient))(S_c)


def gradient_distance(one: Weights, other: Weights) -> Tensor:
    """Sum 1 - cosine over the rows of all tensors of two or more dimensions, reshaped to (out, rest) (eq. 10).

    Biases and norms do not count. 1e-6 is added to the product of the norms, as in the public code.
    """
    total: Any = 0
    for name, a in one.items():
        if a.ndim > 1:
            a, b = a.flatten(1), other[name].flatten(1)
            total = total + (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)).sum()
    return total


@dataclass(frozen=True)
class DSA(DC):
    """Gradient matching with differentiable Siamese augmentation (Zhao & Bilen, ICML 2021, arXiv:2102.08259).

    The fields are those of `dc`; the images start from real ones.
    """

    name: ClassVar[str] = "dsa"
    citation: ClassVar[str] = "Zhao & Bilen, Dataset Condensation with Differentiable Siamese Augmentation, ICML 2021"
    version: ClassVar[int] = 3
    augment: ClassVar[bool] = True

    init: Literal["real", "noise"] = "real"
