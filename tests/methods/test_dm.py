"""Test DM's loss, its gradient and an iteration against slow versions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_networks import SIZE, close, in_float64, normalised, randn, student

from ddbench import config
from ddbench.context import seed_of
from ddbench.methods import dm
from ddbench.methods.dm import DM
from ddbench.methods.pixels.loop import MatchingSetup, MomentumSGD, initial_pixels
from evaluators import dsa
from evaluators.students import build


def test_dm_is_the_squared_distance_of_means(network):
    fake, real = randn(4, 3, SIZE, SIZE).double(), randn(9, 3, SIZE, SIZE, seed=1).double()
    weights = in_float64(network.fresh(1))
    gradient, value = dm.dm_loss(network, weights, fake, dm.mean_feature(network, weights, real))
    net, images = student(weights), fake.clone().requires_grad_()
    ours, theirs = net.body(images), net.body(real)
    expected = sum((ours[:, j].mean() - theirs[:, j].mean()) ** 2 for j in range(ours.shape[1]))
    close(value, expected)
    close(gradient, torch.autograd.grad(expected, images)[0])


@pytest.mark.parametrize(("ipc", "rate"), [(1, 1.0), (10, 1.0), (50, 1.0), (100, 10.0)])
def test_presets_are_the_published_settings(ipc, rate):
    assert config.build(DM, f"cifar10-ipc{ipc}") == replace(DM(), rate=rate, bounded=False, store_float=True)
    if ipc < 100:
        same = replace(DM(), rate=rate, bounded=False, store_float=True, normalise="cifar100")
        assert config.build(DM, f"cifar100-ipc{ipc}") == same
    assert (DM().iterations, DM().rate, DM().batch, DM().init) == (20001, 1.0, 256, "real")


RATE, MOMENTUM = 0.3, 0.5


@pytest.fixture(params=["data", "constant"])
def bench(few_scenes, context_of, request):
    return MatchingSetup.of(few_scenes, context_of(3), "convnet", False, request.param)


def fresh(train, seed):
    return build("convnet", train.images.shape[-1], len(train.classes), seed)


def drawn(train, label, count, numbers, kind):
    """As documented: different images of the class, normalised."""
    rows = train.of_class(label)
    return normalised(train.images[rows[torch.randperm(len(rows), generator=numbers)[:count]]], train, kind)


def near(ours, theirs, tolerance=1e-4):
    assert float((ours - theirs).norm()) <= tolerance * float(theirs.norm())


@pytest.mark.parametrize("augment", [True, False])
def test_an_iteration_of_dm(bench, augment):
    train, ctx = bench.real.train, bench.ctx
    pixels = initial_pixels(bench.real, 2, "real", ctx)
    sgd = MomentumSGD(pixels, RATE, MOMENTUM)
    net, slow, loss = fresh(train, seed_of(3, "dm", "network", 5)), pixels.clone().requires_grad_(), 0
    for label, name in enumerate(train.classes):
        numbers = ctx.generator("dm", 5, name)
        real, draw = drawn(train, label, 4, numbers, bench.real.normalisation.kind), dsa.draw(1, numbers)
        seen = [dsa.apply(part, draw) if augment else part for part in (real, slow[label])]
        loss = loss + (net.body(seen[0]).mean(0) - net.body(seen[1]).mean(0)).square().sum()
    gradient = torch.autograd.grad(loss, slow)[0]
    first = pixels.clone()
    found = DM(batch=4, augment=augment)._iteration(bench, sgd, 5)
    assert found == pytest.approx(float(loss.detach()), rel=1e-4)
    near(first - pixels, RATE * gradient)
    near(sgd.velocity, gradient)


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="batch must be at least 1"):
        DM(batch=0)
