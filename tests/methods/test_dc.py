"""Test the loss of DC and DSA, its gradient and an iteration against slow versions; the published loops."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from small_networks import MOMENTUM, RATE, SIZE, close, drawn, fresh, in_float64, near, randn, student
from torch import nn

from ddbench import config
from ddbench.context import seed_of
from ddbench.methods import dc
from ddbench.methods.dc import DC, DSA
from ddbench.methods.pixels import loop
from ddbench.methods.pixels.loop import MatchingSetup, MomentumSGD, initial_pixels
from ddbench.methods.pixels.network import weight_gradient
from evaluators import dsa


def naive_distance(ours, theirs):
    total = 0
    for a, b in zip(ours, theirs, strict=True):
        if a.ndim > 1:
            for row, other in zip(a, b, strict=True):
                row, other = row.reshape(-1), other.reshape(-1)
                total = total + 1 - torch.dot(row, other) / (row.norm() * other.norm() + 1e-6)
    return total


def test_dc_is_the_rowwise_cosine_of_gradients(network):
    fake, real = randn(2, 3, SIZE, SIZE).double(), randn(5, 3, SIZE, SIZE, seed=1).double()
    weights = in_float64(network.fresh(2))
    wanted = weight_gradient(network, weights, real, torch.full((5,), 1))
    gradient, value = dc.dc_loss(network, weights, fake, torch.full((2,), 1), wanted)
    net, images = student(weights), fake.clone().requires_grad_()
    parts = list(net.parameters())
    of_real = torch.autograd.grad(F.cross_entropy(net.head(net.body(real)), torch.full((5,), 1)), parts)
    of_fake = torch.autograd.grad(
        F.cross_entropy(net.head(net.body(images)), torch.full((2,), 1)), parts, create_graph=True
    )
    expected = naive_distance(of_fake, of_real)
    close(value, expected)
    close(gradient, torch.autograd.grad(expected, images)[0])


@pytest.mark.parametrize(("ipc", "loops"), [(1, (1, 1)), (5, (1, 1)), (7, (10, 50)), (50, (50, 10)), (100, (50, 10))])
def test_dcs_loops_are_those_of_the_nearest_published_ipc(ipc, loops):
    assert DC().loops(ipc) == loops
    assert DC(outer=3, inner=4).loops(ipc) == (3, 4)


@pytest.mark.parametrize("ipc", [1, 10, 50])
def test_presets_are_the_published_settings(ipc):
    for cls, init in ((DC, "noise"), (DSA, "real")):
        method = config.build(cls, f"cifar10-ipc{ipc}")
        assert (method.outer, method.inner) == cls().loops(ipc)
        assert method == replace(cls(), outer=method.outer, inner=method.inner, bounded=False, store_float=True)
        assert (method.rate, method.momentum, method.batch, method.init) == (0.1, 0.5, 256, init)
        if (cls, ipc) != (DC, 50):  # DC's table has no IPC 50 of CIFAR-100
            assert config.build(cls, f"cifar100-ipc{ipc}") == replace(method, normalise="cifar100")


def test_dc_starts_from_noise_and_dsa_from_real_images(few_scenes, context_of):
    bench = MatchingSetup.of(few_scenes, context_of(), "convnet", False, "data")
    noise, real = (loop.initial_pixels(bench.real, 2, method().init, context_of()) for method in (DC, DSA))
    assert abs(float(noise.mean())) < 0.05
    assert abs(float(noise.std()) - 1) < 0.05
    own = bench.real.normalisation.apply(few_scenes.images)
    assert all(bool((own == image).flatten(1).all(1).any()) for image in real.flatten(0, 1))


def matched_rows(net, real, fake, label):
    """The documented distance of the gradients of one class, row by row."""
    parts = list(net.parameters())
    loss = [F.cross_entropy(net(x), torch.full((len(x),), label)) for x in (real, fake)]
    wanted = torch.autograd.grad(loss[0], parts)
    found = torch.autograd.grad(loss[1], parts, create_graph=True)
    total = 0
    for a, b in zip(found, wanted, strict=True):
        if a.ndim > 1:
            norms = a.flatten(1).norm(dim=1) * b.flatten(1).norm(dim=1) + 1e-6
            total = total + (1 - (a * b).flatten(1).sum(1) / norms).sum()
    return total


def body_and_head(net):
    """The network on images that are normalised already."""
    return type("Normalised", (nn.Module,), {
        "__init__": lambda self: (nn.Module.__init__(self), setattr(self, "net", net))[0],
        "forward": lambda self, x: self.net.head(self.net.body(x)),
    })()  # fmt: skip


@pytest.mark.parametrize("cls", [DC, DSA])
def test_an_iteration_of_dc(bench, cls):
    """Matched, moved, the network trained on what came of it for two epochs, matched and moved again."""
    train, ctx, name = bench.real.train, bench.ctx, cls.name
    pixels = initial_pixels(bench.real, 2, "real", ctx)
    slow, velocity, total = pixels.clone(), torch.zeros_like(pixels), 0.0
    net = body_and_head(fresh(train, seed_of(3, name, "network", 1)))
    for j in range(2):
        if j:
            train_on(net, slow, ctx.generator(name, "train", 1, j), cls.augment)
        leaf, terms = slow.clone().requires_grad_(), []
        for label, word in enumerate(train.classes):
            numbers = ctx.generator(name, 1, j, word)
            real, draw = drawn(train, label, 4, numbers, bench.real.normalisation.kind), dsa.draw(1, numbers)
            seen = [dsa.apply(part, draw) if cls.augment else part for part in (real, leaf[label])]
            terms.append(matched_rows(net, *seen, label))
        velocity = MOMENTUM * velocity + torch.autograd.grad(sum(terms), leaf)[0]
        slow = slow - RATE * velocity
        total += float(sum(terms).detach()) / 2
    first = pixels.clone()
    sgd = MomentumSGD(pixels, RATE, MOMENTUM)
    found = cls(outer=2, inner=2, batch=4)._iteration(bench, sgd, 1)
    # noise of 1e-6 in the first pixels moves the reference itself: its loss by 4e-4, its step by 5 % (an EPYC, float32)
    assert found == pytest.approx(total, rel=5e-3)
    near(pixels - first, slow - first, 0.15)  # through cosines of small gradients


def train_on(net, pixels, numbers, augment):
    """Two epochs of plain SGD, 0.01, on all distilled images at once; augmented image by image."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    images, labels = pixels.flatten(0, 1), torch.arange(3).repeat_interleave(2)
    for _ in range(2):
        order = torch.randperm(6, generator=numbers)
        batch = dsa.apply(images[order], dsa.draw(6, numbers)) if augment else images[order]
        optimizer.zero_grad()
        F.cross_entropy(net(batch), labels[order]).backward()
        optimizer.step()


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="iterations must be at least 1"):
        DC(iterations=0)
