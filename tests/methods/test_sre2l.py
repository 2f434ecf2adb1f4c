"""Test SRe2L's loss, its Adam step, its augmentation and an iteration against slow versions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from small_networks import normalised
from torch import nn

from ddbench import config
from ddbench.methods import sre2l
from ddbench.methods.sre2l import SRe2L
from evaluators.normalisation import MEAN, STD, normalisation_of
from evaluators.students import build


def near(ours, theirs, tolerance=1e-4):
    assert float((ours - theirs).norm()) <= tolerance * float(theirs.norm())


@pytest.mark.parametrize("normalise", ["data", "constant"])
def test_an_iteration_of_sre2l(few_scenes, context_of, normalise):
    """Cross-entropy of one image of each class, distances from the statistics that the norms learned, Adam, a clamp."""
    ctx, iterations = context_of(3), 10
    black, white = (normalised(torch.full((1, 3, 1, 1), grey), few_scenes, normalise)[0] for grey in (0, 255))
    spread, centre = 1 / (white - black), -black / (white - black)
    method = SRe2L(iterations=iterations, rate=0.1, statistics=0.3, first=7.0, smallest=0.5, roll=2)
    model, pixels = build("resnet18", 32, 3, 0).eval().requires_grad_(False), torch.randn(2, 3, 3, 32, 32)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.running_mean.normal_(generator=torch.Generator().manual_seed(1))
        norm.running_var.uniform_(0.5, 2, generator=torch.Generator().manual_seed(2))
    entered, before = [], pixels.clone()
    slow = pixels[1].clone().requires_grad_()
    numbers = ctx.generator("sre2l", 14)
    looked = sre2l.roll_randomly(sre2l.resized_crop(slow, 0.5, True, numbers), 2, numbers)
    handles = [norm.register_forward_pre_hook(lambda _, given: entered.append(given[0])) for norm in norms]
    surprise = F.cross_entropy(model(looked * spread + centre), torch.arange(3))
    [handle.remove() for handle in handles]
    apart = [
        (x.mean((0, 2, 3)) - norm.running_mean).norm() + (x.var((0, 2, 3), unbiased=False) - norm.running_var).norm()
        for x, norm in zip(entered, norms, strict=True)
    ]
    loss = surprise + 0.3 * (7.0 * apart[0] + sum(apart[1:]))
    moments = {"mean": torch.full_like(slow, 0.1), "square": torch.full_like(slow, 0.2)}
    mean = 0.5 * moments["mean"] + 0.5 * (gradient := torch.autograd.grad(loss, slow)[0])
    square = 0.9 * moments["square"] + 0.1 * gradient**2
    rate = 0.1 * 0.5 * (1 + math.cos(math.pi * 4 / iterations))
    moved = before[1] - rate * (mean / (1 - 0.5**5)) / ((square / (1 - 0.9**5)).sqrt() + 1e-8)
    with sre2l.batch_norm_distances(model) as distances:
        recovery = sre2l.Recovery(model, distances, normalisation_of(few_scenes.images, normalise), ctx)
        returned = method._iteration({"pixels": pixels} | moments, recovery, 14)
    assert returned == pytest.approx(float(loss.detach()), rel=1e-4)
    near(pixels[1], moved.clamp(black, white), 1e-3)
    assert torch.equal(pixels[0], before[0])


QUICK = {"epochs": 1, "least": 2}


def numbers(seed=0):
    return torch.Generator().manual_seed(seed)


def test_statistics_are_those_of_what_enters_a_batch_norm():
    net, images = build("resnet18", 32, 3, 0).eval(), torch.rand(4, 3, 32, 32, generator=numbers())
    with sre2l.batch_norm_distances(net) as distances:
        net(images)
    assert len(distances) == 20  # one for each batch norm of a ResNet-18
    entered = net.body[0]((images - MEAN) / STD) if isinstance(net.body, nn.Sequential) else net.body.conv1(
        (images - MEAN) / STD
    )  # fmt: skip
    mean, var = entered.mean((0, 2, 3)), ((entered - entered.mean((0, 2, 3), keepdim=True)) ** 2).mean((0, 2, 3))
    expected = mean.norm() + (var - 1).norm()  # a fresh norm's own: mean 0, variance 1
    torch.testing.assert_close(distances[0], expected)
    net(images)
    assert len(distances) == 20  # nobody listens any more


def test_adam_is_torchs():
    ours, theirs = torch.randn(6, generator=numbers()), nn.Parameter(torch.randn(6, generator=numbers()))
    moments, optimizer = (torch.zeros(6), torch.zeros(6)), torch.optim.Adam([theirs], lr=0.1, betas=sre2l.BETAS)
    for step in range(4):
        gradient = torch.randn(6, generator=numbers(step))
        theirs.grad = gradient.clone()
        optimizer.step()
        sre2l.adam_step_(ours, gradient, moments, 0.1, step)
    torch.testing.assert_close(ours, theirs.detach())


def test_one_crop_and_one_roll_for_the_whole_batch():
    image = torch.rand(1, 3, 16, 16, generator=numbers())
    batch = sre2l.roll_randomly(sre2l.resized_crop(image.expand(3, -1, -1, -1), 0.3, True, numbers(1)), 4, numbers(2))
    assert torch.equal(batch[0], batch[2])
    whole = sre2l.resized_crop(image, 1.0, True, numbers(3))
    assert torch.equal(whole, image) or torch.equal(whole, image.flip(3))
    assert torch.equal(sre2l.roll_randomly(image, 0, numbers()), image)


@pytest.mark.slow
def test_sre2l_lowers_its_loss_batch_by_batch(few_scenes, context_of, monkeypatch):
    losses = []
    original = SRe2L._iteration
    monkeypatch.setattr(SRe2L, "_iteration", lambda *given: losses.append(original(*given)) or losses[-1])
    made = SRe2L(iterations=8, smallest=1.0, roll=0, rate=0.1, **QUICK).distill(few_scenes, 2, context_of())
    made.check(2)
    assert len(losses) == 16
    assert losses[7] < losses[0]
    assert losses[15] < losses[8]
    assert made.soft_labels is not None


def test_batches_of_some_classes_are_classes_in_order(few_scenes, context_of, monkeypatch):
    """Batches of two of three classes: their own teacher's labels, moments and images; each batch starts Adam anew."""
    seen = []

    def step(x, gradient, moments, rate, k):
        seen.append((len(x), len(moments[0]), float(moments[1].abs().max()), k))
        moments[1].add_(1)
        x.add_(1)

    monkeypatch.setattr(sre2l, "adam_step_", step)
    method = SRe2L(iterations=2, classes=2, smallest=1.0, mirror=False, roll=0)
    pixels, model = torch.zeros(2, 3, 3, 32, 32), build("resnet18", 32, 3, 0).eval().requires_grad_(False)
    state = {"pixels": pixels, "mean": torch.zeros(3, 3, 32, 32), "square": torch.zeros(3, 3, 32, 32)}
    with sre2l.batch_norm_distances(model) as distances:
        recovery = sre2l.Recovery(model, distances, normalisation_of(few_scenes.images, "imagenet"), context_of())
        for i in range(6):
            method._iteration(state, recovery, i)
    first = [(2, 2, 0.0, 0), (2, 2, 1.0, 1), (1, 1, 0.0, 0), (1, 1, 1.0, 1)]
    assert seen == [*first, *first[:2]]
    assert [bool((image != 0).all()) for image in pixels.flatten(0, 1)] == [True] * 5 + [False]
    assert [len(range(3)[rows]) for rows in SRe2L()._batches(3)] == [3]


@pytest.mark.parametrize(("preset", "crops", "mirrors"), [("cifar100", False, False), ("tiny-imagenet", True, True)])
def test_presets_change_the_images_as_the_public_scripts_do(preset, crops, mirrors):
    """Of a ramp from left to right: a crop changes its ends, a mirror its direction."""
    method = config.build(SRe2L, preset)
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    seen = [
        sre2l.resized_crop(ramp, method.smallest, method.mirror, torch.Generator().manual_seed(i)) for i in range(40)
    ]
    assert any(float(x.max() - x.min()) < 0.9 for x in seen) == crops
    assert {bool(x[0, 0, 0, 0] < x[0, 0, 0, -1]) for x in seen} == ({True, False} if mirrors else {True})
