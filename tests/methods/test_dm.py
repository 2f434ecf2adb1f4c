"""Test DM's loss, its gradient and an iteration against slow versions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_networks import CPU, MOMENTUM, RATE, SIZE, close, drawn, fresh, in_float64, near, randn, student
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from ddbench import config
from ddbench.context import seed_of
from ddbench.methods import dm
from ddbench.methods.dm import DM
from ddbench.methods.pixels.loop import MatchingSetup, MomentumSGD, initial_pixels
from ddbench.methods.pixels.network import Network
from evaluators import dsa


def test_dm_is_the_squared_distance_of_means(network):
    fake, real = randn(4, 3, SIZE, SIZE).double(), randn(9, 3, SIZE, SIZE, seed=1).double()
    weights = in_float64(network.fresh(1))
    gradient, value = dm.dm_loss(network, weights, fake, dm.mean_features(network, weights, real, [9]))
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
    method = DM(batch=4, augment=augment)
    found = method._step(bench, sgd, method._draw(bench, 5))
    assert float(found) == pytest.approx(float(loss.detach()), rel=1e-4)
    near(first - pixels, RATE * gradient)
    near(sgd.velocity, gradient)


@pytest.fixture
def on_a_gpu(monkeypatch):
    """What a GPU computes: all classes in one pass, all operations for all images."""
    monkeypatch.setattr(MatchingSetup, "passes", lambda self, batch: [slice(0, len(self.real.rows))])
    monkeypatch.setattr(dsa, "apply_groups", dsa.every_operation)


@pytest.mark.parametrize("augment", [True, False])
def test_all_classes_in_one_pass_are_one_after_another(few_scenes, context_of, augment, request):
    """Classes of 6, 6 and 3 images, of which an iteration takes at most 4."""
    setup = MatchingSetup.of(few_scenes.rows(torch.arange(15)), context_of(3), "convnet", False, "data")
    method, moved = DM(batch=4, augment=augment), []
    for way in ("one after another", "one pass"):
        if way == "one pass":
            request.getfixturevalue("on_a_gpu")
        sgd = MomentumSGD(initial_pixels(setup.real, 2, "real", setup.ctx), RATE, MOMENTUM)
        losses = [float(method._step(setup, sgd, method._draw(setup, k))) for k in range(5)]
        moved.append((sgd.velocity, losses))
    near(moved[1][0], moved[0][0], 1e-5)
    assert moved[1][1] == pytest.approx(moved[0][1], rel=1e-5)


def test_a_step_can_be_a_cuda_graph(bench, on_a_gpu):
    """Nothing of it is on the host or read there: all tensors are on a device that has no values."""
    meta, method = torch.device("meta"), DM(batch=4)
    drawn = tree_map(lambda x: x.to(meta), method._draw(bench, 0))
    network = Network("convnet", bench.real.images.shape[-1], 3, meta)
    real = replace(bench.real, normalisation=bench.real.normalisation.to(meta))
    S = initial_pixels(bench.real, 2, "real", bench.ctx).to(meta)
    setup = MatchingSetup(real, network, replace(bench.ctx, device=meta))
    with OnTheHost() as host:
        loss = method._step(setup, MomentumSGD(S, RATE, MOMENTUM, real.normalisation), drawn)
    assert loss.device == meta
    assert not host.calls
    with OnTheHost() as host:
        torch.ones(2).to(meta)
    assert host.calls


class OnTheHost(TorchDispatchMode):
    """Note the operations that take a tensor from the host."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, call, types, args=(), kwargs=None):
        if any(isinstance(x, torch.Tensor) and x.device == CPU for x in tree_leaves((args, kwargs))):
            self.calls.append(str(call))
        return call(*args, **(kwargs or {}))


def test_a_gradient_that_is_not_finite_is_seen_in_the_loss(bench):
    """Clamping pixels would hide it."""
    method = DM(batch=4, augment=False)
    pixels = initial_pixels(bench.real, 2, "real", bench.ctx)
    pixels[1, 0, 0, 0, 0] = torch.inf
    sgd = MomentumSGD(pixels, RATE, MOMENTUM, bench.real.normalisation)
    assert torch.isnan(method._step(bench, sgd, method._draw(bench, 0)))


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="batch must be at least 1"):
        DM(batch=0)
