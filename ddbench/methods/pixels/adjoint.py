"""The gradient of a matched trajectory, through all its steps at the memory of one.

A student starts at an expert's weights theta_t and takes N steps of plain SGD on distilled images,
theta <- theta - alpha g(theta, x), g the gradient of a step's loss. The loss of the trajectory is the squared distance
of its last weights from the expert's later ones, divided by how far the expert itself went (Cazenavette et al. 2022,
arXiv:2203.11932). The adjoint lambda is the loss's gradient with respect to the weights; it starts after the last step.
Going back, with H the Hessian of the step's loss,

    dL/dx = -alpha d<g, lambda>/dx     dL/dalpha = -sum of <g, lambda>     lambda <- lambda - alpha H lambda

One Jacobian-vector product of the gradients along lambda yields both d<g, lambda>/dx and H lambda. Only the weights of
every step are kept. Without the third update lambda stays what it is after the last step: that is TESLA (Cui et al.
2023, arXiv:2211.10586), an approximation. A step's loss is a mean over images that are independent of each other (the
ConvNet normalises each by itself), so it can be summed over parts of the batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce

import torch
from torch import Tensor
from torch.func import grad, jvp

from ddbench.methods.pixels.network import Network, Weights, backprop_through, sgd_step, weight_gradient
from ddbench.methods.shared.device import in_batches

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # torch's own use of torch.jit.script
    import torch._decomp.decompositions_for_jvp  # imported by the first jvp otherwise


@dataclass(frozen=True)
class StudentStep:
    """index: distilled images of the step. augment: differentiable, of those images. labels: theirs, (n,) or (n, c)."""

    index: Tensor
    augment: Callable[[Tensor], Tensor]
    labels: Tensor


@dataclass(frozen=True)
class TrajectorySegment:
    """start: theta*_t, also the student's first weights. target: theta*_(t+M). alpha: learning rate of the student."""

    start: Weights
    target: Weights
    alpha: float


def trajectory_gradient(
    network: Network,
    segment: TrajectorySegment,
    images: Tensor,
    steps: Sequence[StudentStep],
    exact: bool = True,
    at_once: int = 0,
) -> tuple[float, Tensor, float]:
    """Return the loss, dL/dx for all images (n, 3, h, w; normalised), and dL/dalpha.

    exact: else TESLA's approximation. at_once: images whose gradients are taken together, 0 for all of a step; it
    changes memory, not the result.
    """
    alpha, trajectory = segment.alpha, [segment.start]
    for step in steps:
        g = _gradient_by_parts(network, trajectory[-1], step.augment(images[step.index]), step.labels, at_once)
        trajectory.append(sgd_step(trajectory[-1], g, alpha))

    theta_N = trajectory.pop()
    error = {name: w - segment.target[name] for name, w in theta_N.items()}
    distance = _squared_norm({name: w - segment.target[name] for name, w in segment.start.items()})
    adjoint = {name: 2 * w / distance for name, w in error.items()}  # lambda

    by_image, by_alpha = torch.zeros_like(images), images.new_zeros(())
    for step, theta in zip(reversed(steps), reversed(trajectory), strict=True):
        products = partial(_products_by_parts, network, theta, labels=step.labels, adjoint=adjoint, at_once=at_once)
        gradient, (g, H_adjoint) = backprop_through(step.augment, images[step.index], products)
        by_image.index_add_(0, step.index, gradient, alpha=-alpha)
        by_alpha -= sum((g[name] * part).sum() for name, part in adjoint.items())
        if exact:
            adjoint = sgd_step(adjoint, H_adjoint, alpha)
    return float(_squared_norm(error) / distance), by_image, float(by_alpha)


def hessian_products(
    network: Network, theta: Weights, x: Tensor, labels: Tensor, adjoint: Weights
) -> tuple[Weights, Weights, Tensor]:
    """Return g, H lambda and d<g, lambda>/dx: the derivative along lambda of the gradients in weights and images."""
    gradients = grad(lambda w, images: network.loss(w, images, labels), argnums=(0, 1))
    (g, _), (H_adjoint, by_image) = jvp(gradients, (theta, x), (adjoint, torch.zeros_like(x)))[:2]
    return g, H_adjoint, by_image


def _gradient_by_parts(network: Network, theta: Weights, x: Tensor, labels: Tensor, at_once: int) -> Weights:
    """Return g of a batch, from parts of at most `at_once` images."""
    run = network.run(weight_gradient)
    return _mean_over_parts(lambda rows: [run(theta, x[rows], labels[rows])], len(x), at_once)[0]


def _products_by_parts(
    network: Network, theta: Weights, x: Tensor, labels: Tensor, adjoint: Weights, at_once: int
) -> tuple[Tensor, list[Weights]]:
    """Return d<g, lambda>/dx and [g, H lambda] of a batch, from parts of at most `at_once` images."""
    run, by_image = network.run(hessian_products), torch.empty_like(x)

    def compute(rows: slice) -> list[Weights]:
        g, H_adjoint, part = run(theta, x[rows], labels[rows], adjoint)
        by_image[rows] = part * (len(part) / len(x))
        return [g, H_adjoint]

    means = _mean_over_parts(compute, len(x), at_once)  # fills by_image
    return by_image, means


def _mean_over_parts(compute: Callable[[slice], list[Weights]], count: int, at_once: int) -> list[Weights]:
    """Average `compute(rows)` over parts of `count` images, weighted by their sizes; halve the parts out of memory."""

    def weighted(rows: slice) -> list[Weights]:
        share = (rows.stop - rows.start) / count
        return [{name: w * share for name, w in weights.items()} for weights in compute(rows)]

    parts = in_batches(weighted, count, at_once or count)
    total = next(parts)
    for part in parts:
        total = [{name: a[name] + b[name] for name in a} for a, b in zip(total, part, strict=True)]
    return total


def _squared_norm(weights: Weights) -> Tensor:
    return reduce(torch.add, (part.square().sum() for part in weights.values()))
