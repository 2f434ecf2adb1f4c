"""Test the gradient of a trajectory against autograd, finite differences and TESLA's closed form."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_networks import CLASSES, CPU, SIZE, in_float64, randn
from torch import nn

from ddbench.methods.pixels import adjoint
from ddbench.methods.pixels.adjoint import StudentStep, TrajectorySegment
from ddbench.methods.pixels.network import Network


def a_piece(network, rate=0.02):
    begin = network.fresh(3)
    goal = {name: w + 0.05 * randn(*w.shape, seed=4) for name, w in begin.items()}
    return TrajectorySegment(begin, goal, rate)


def some_steps(n, batch=4):
    numbers = torch.Generator().manual_seed(5)
    for i in range(n):
        index = torch.randperm(6, generator=numbers)[:batch]
        yield StudentStep(index, nn.Identity() if i % 2 else (lambda x: x.flip(3) * 0.9), index % CLASSES)


def unrolled(network, piece, images, steps):
    """The loss by plain autograd through every step."""
    images, rate = images.clone().requires_grad_(), torch.tensor(piece.alpha, requires_grad=True, dtype=images.dtype)
    weights = {name: w.clone().requires_grad_() for name, w in piece.start.items()}
    for step in steps:
        loss = network.loss(weights, step.augment(images[step.index]), step.labels)
        slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        weights = {name: w - rate * slope for (name, w), slope in zip(weights.items(), slopes, strict=True)}
    off = sum((weights[name] - goal).square().sum() for name, goal in piece.target.items())
    loss = off / sum((piece.start[name] - goal).square().sum() for name, goal in piece.target.items())
    return loss.detach(), *torch.autograd.grad(loss, [images, rate])


def test_mtt_is_autograd_through_every_step(network):
    """In float64, so that it is the formula that is compared."""
    piece, images, steps = a_piece(network, 0.02), randn(6, 3, SIZE, SIZE, seed=6).double(), list(some_steps(5))
    piece = TrajectorySegment(in_float64(piece.start), in_float64(piece.target), piece.alpha)
    loss, gradient, by_rate = adjoint.trajectory_gradient(network, piece, images, steps)
    expected = unrolled(network, piece, images, steps)
    assert loss == pytest.approx(float(expected[0]), rel=1e-5)
    assert float((gradient - expected[1]).norm() / expected[1].norm()) < 1e-5
    assert by_rate == pytest.approx(float(expected[2]), rel=1e-5)


@pytest.mark.parametrize("exact", [True, False])
def test_a_step_in_parts_is_the_step(network, exact):
    piece, images, steps = a_piece(network), randn(6, 3, SIZE, SIZE, seed=6), list(some_steps(3, batch=5))
    whole = adjoint.trajectory_gradient(network, piece, images, steps, exact)
    parts = adjoint.trajectory_gradient(network, piece, images, steps, exact, at_once=2)
    assert parts[0] == pytest.approx(whole[0], rel=1e-5)
    assert float((parts[1] - whole[1]).norm() / whole[1].norm()) < 1e-5
    assert parts[2] == pytest.approx(whole[2], rel=1e-4)


def test_mtt_follows_finite_differences():
    """In float64, and with softplus: the gradients that a student follows jump where a ReLU turns on."""
    network = Network("convnet", SIZE, CLASSES, CPU)
    for module in network._skeleton.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.Softplus())
    piece, steps = a_piece(network), list(some_steps(3))
    begin, goal = ({name: w.double() for name, w in part.items()} for part in (piece.start, piece.target))
    images, way = randn(6, 3, SIZE, SIZE, seed=6).double(), randn(6, 3, SIZE, SIZE)
    piece = TrajectorySegment(begin, goal, 0.02)
    _, gradient, by_rate = adjoint.trajectory_gradient(network, piece, images, steps)

    def loss(moved=0.0, rate=0.0):
        return adjoint.trajectory_gradient(network, replace(piece, alpha=0.02 + rate), images + moved * way, steps)[0]

    h = 1e-5
    assert (loss(h) - loss(-h)) / (2 * h) == pytest.approx(float((gradient * way).sum()), rel=1e-3)
    assert (loss(rate=h) - loss(rate=-h)) / (2 * h) == pytest.approx(by_rate, rel=1e-3)


def test_tesla_is_its_closed_form(network):
    """With the weights of every step held still: L = |w0 - r G - w*|^2 / D, G the sum of the gradients."""
    piece, images, steps = a_piece(network), randn(6, 3, SIZE, SIZE, seed=6), list(some_steps(4))
    loss, gradient, by_rate = adjoint.trajectory_gradient(network, piece, images, steps, exact=False)
    pixels, rate = images.clone().requires_grad_(), torch.tensor(piece.alpha, requires_grad=True)
    held, total = dict(piece.start), dict.fromkeys(piece.start, 0)
    for step in steps:
        weights = {name: w.detach().requires_grad_() for name, w in held.items()}
        student_loss = network.loss(weights, step.augment(pixels[step.index]), step.labels)
        slopes = torch.autograd.grad(student_loss, list(weights.values()), create_graph=True)
        total = {name: t + slope for (name, t), slope in zip(total.items(), slopes, strict=True)}
        held = {name: w - piece.alpha * slope.detach() for (name, w), slope in zip(held.items(), slopes, strict=True)}
    off = sum((piece.start[n] - rate * total[n] - goal).square().sum() for n, goal in piece.target.items())
    expected = off / sum((piece.start[n] - goal).square().sum() for n, goal in piece.target.items())
    wanted = torch.autograd.grad(expected, [pixels, rate])
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    assert float((gradient - wanted[0]).norm() / wanted[0].norm()) < 1e-5
    assert by_rate == pytest.approx(float(wanted[1]), rel=1e-4)
    exact = adjoint.trajectory_gradient(network, piece, images, steps)[1]
    assert float((gradient - exact).norm() / exact.norm()) > 1e-3  # it is another gradient
