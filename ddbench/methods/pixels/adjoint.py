"""The gradient of a matched trajectory, through all its steps at the memory of one.

A student starts at an expert's weights and takes N steps of plain SGD on distilled images, w <- w - r g(w, x). The
loss is the squared distance of its last weights from the expert's later ones, divided by how far the expert itself went
(Cazenavette et al. 2022, arXiv:2203.11932). Going back from l = dL/dw after the last step, with H the Hessian of the
step's loss,

    dL/dx = -r d<g, l>/dx     dL/dr = -sum of <g, l>     l <- l - r H l

and one Jacobian-vector product of the gradients along l has both d<g, l>/dx and H l. Only the weights of every step are
kept. Without the last of the three, l stays what it is at the end: that is TESLA (Cui et al. 2023, arXiv:2211.10586),
an approximation. A step's loss is a mean over images that do not know of each other (the ConvNet normalises each by
itself), so all of it can be summed over parts of the batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor
from torch.func import grad, jvp

from ddbench.methods.pixels.loop import through
from ddbench.methods.pixels.network import Network, Weights, slope, stepped
from ddbench.methods.shared.device import in_batches

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # torch's own use of torch.jit.script
    import torch._decomp.decompositions_for_jvp  # what the first jvp would import


@dataclass(frozen=True)
class Step:
    """index: which of the distilled images. look: how they are augmented, differentiable. labels: theirs."""

    index: Tensor
    look: Callable[[Tensor], Tensor]
    labels: Tensor


@dataclass(frozen=True)
class Piece:
    """Of an expert's trajectory: where the student begins, and its goal; the rate of its steps."""

    begin: Weights
    goal: Weights
    rate: float


def matched(
    network: Network, piece: Piece, images: Tensor, steps: Sequence[Step], exact: bool = True, at_once: int = 0
) -> tuple[float, Tensor, float]:
    """The loss, its gradient in the images (n, 3, h, w; normalised), its derivative in the rate.

    at_once: images whose gradients are taken together, 0 for all of a step; it changes memory, not the result.
    """
    path = [piece.begin]
    for step in steps:
        forth = _Step(network, path[-1], step.labels, at_once)
        path.append(stepped(path[-1], forth.downhill(step.look(images[step.index])), piece.rate))
    left, scale = _less(path.pop(), piece.goal), _square(_less(piece.begin, piece.goal))
    back = {name: 2 * w / scale for name, w in left.items()}
    gradient, by_rate = torch.zeros_like(images), images.new_zeros(())
    for weights, step in zip(reversed(path), reversed(steps), strict=True):
        again = _Step(network, weights, step.labels, at_once)
        mine, (downhill, bent) = through(step.look, images[step.index], lambda seen, s=again, b=back: s.along(seen, b))
        gradient.index_add_(0, step.index, mine, alpha=-piece.rate)
        by_rate -= sum((downhill[name] * part).sum() for name, part in back.items())
        if exact:
            back = stepped(back, bent, piece.rate)
    return float(_square(left) / scale), gradient, float(by_rate)


@dataclass(frozen=True)
class _Step:
    """One step's loss at `weights`, of images as the network sees them; in parts of `at_once` images, 0 for all."""

    network: Network
    weights: Weights
    labels: Tensor
    at_once: int

    def downhill(self, seen: Tensor) -> Weights:
        """g"""
        run = self.network.run(slope)
        return self._summed(lambda rows: [run(self.weights, seen[rows], self.labels[rows])])[0]

    def along(self, seen: Tensor, back: Weights) -> tuple[Tensor, list[Weights]]:
        """d<g, l>/dx; g and H l."""
        run, by_image = self.network.run(products), torch.empty_like(seen)

        def part(rows: slice) -> list[Weights]:
            *found, mine = run(self.weights, seen[rows], self.labels[rows], back)
            by_image[rows] = mine * (len(mine) / len(seen))
            return found

        found = self._summed(part)
        return by_image, found

    def _summed(self, compute: Callable[[slice], list[Weights]]) -> list[Weights]:
        """What `compute` gives of all images, from its parts: means, so that a part weighs as many images as it has."""
        count = len(self.labels)

        def part(rows: slice) -> list[Weights]:
            return [_times(found, len(self.labels[rows]) / count) for found in compute(rows)]

        return reduce(lambda one, other: list(map(_plus, one, other)), in_batches(part, count, self.at_once or count))


def products(
    network: Network, weights: Weights, images: Tensor, labels: Tensor, back: Weights
) -> tuple[Weights, Weights, Tensor]:
    """g; H l; d<g, l>/dx: the derivative along l of the gradients in weights and images."""
    both = grad(lambda w, x: network.loss(w, x, labels), argnums=(0, 1))
    (downhill, _), (bent, by_image) = jvp(both, (weights, images), (back, torch.zeros_like(images)))
    return downhill, bent, by_image


def _less(one: Weights, other: Weights) -> Weights:
    return {name: part - other[name] for name, part in one.items()}


def _plus(one: Weights, other: Weights) -> Weights:
    return {name: part + other[name] for name, part in one.items()}


def _times(weights: Weights, share: float) -> Weights:
    return {name: part * share for name, part in weights.items()}


def _square(weights: Weights) -> Tensor:
    return sum(part.square().sum() for part in weights.values())
