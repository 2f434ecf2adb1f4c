"""Test students as functions of their weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from small_networks import CLASSES, SIZE, randn

from ddbench.methods.pixels.network import backprop_through
from evaluators.students import build


def test_networks_are_the_students(network):
    x, weights = randn(4, 3, SIZE, SIZE), network.fresh(7)
    net = build("convnet", SIZE, CLASSES, 7)
    assert torch.equal(network.features(weights, x), net.body(x))
    y = torch.tensor([0, 1, 2, 0])
    assert torch.equal(network.loss(weights, x, y), F.cross_entropy(net.head(net.body(x)), y))


def test_gradients_pass_through_what_is_looked_through():
    pixels = randn(2, 3, 4, 4)
    gradient, value = backprop_through(lambda x: 2 * x.flip(3), pixels, lambda seen: (seen, seen.sum()))
    torch.testing.assert_close(gradient, 4 * pixels)  # 2 * flip(2 * flip(x))
    torch.testing.assert_close(value, (2 * pixels).sum())
