"""Test the loop that optimises pixels: SGD, real images, resuming, bounds, losses that are not finite."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_networks import CPU, SIZE, randn
from torch import nn

from ddbench.methods.dc import DC, DSA
from ddbench.methods.dm import DM
from ddbench.methods.mtt import MTT
from ddbench.methods.pixels import loop
from ddbench.methods.pixels.loop import RealImages
from ddbench.utils.checkpoint import Checkpoint
from evaluators.normalisation import CONSTANT, Whitening


def test_descent_is_torchs_sgd():
    ours, theirs = randn(5), nn.Parameter(randn(5))
    sgd = loop.MomentumSGD(ours, 0.3, 0.5)
    optimizer = torch.optim.SGD([theirs], lr=0.3, momentum=0.5)
    for seed in range(3):
        gradient = randn(5, seed=seed + 1)
        theirs.grad = gradient.clone()
        optimizer.step()
        sgd.step(gradient)
    assert torch.equal(ours, theirs.detach())
    assert torch.equal(sgd.velocity, optimizer.state[theirs]["momentum_buffer"])


def test_real_images_are_drawn_of_their_class_without_repetition(few_scenes, context_of):
    real = RealImages.of(few_scenes, context_of(), "data")
    drawn = real.draw(1, 100, torch.Generator().manual_seed(0))
    own = real.normalisation.apply(few_scenes.images[few_scenes.labels == 1])
    assert len(drawn) == len(own)  # a class smaller than the batch
    assert {tuple(image.flatten().tolist()) for image in drawn} == {tuple(image.flatten().tolist()) for image in own}


@pytest.mark.parametrize("normalise", ["data", "constant"])
def test_real_images_survive_being_stored(few_scenes, context_of, normalise):
    real = RealImages.of(few_scenes, context_of(), normalise)
    pixels = loop.initial_pixels(real, 2, "real", context_of())
    distilled = loop.to_distilled_set(pixels, few_scenes, real.normalisation)
    distilled.check(2)
    for image, label in zip(distilled.images, distilled.labels, strict=True):
        assert any(torch.equal(image, other) for other in few_scenes.images[few_scenes.labels == label])
    assert distilled.extras["clipped"] == 0
    assert distilled.extras["normalise"]["kind"] == normalise
    assert loop.to_distilled_set(pixels * 100, few_scenes, real.normalisation).extras["clipped"] > 0.5
    with pytest.raises(FloatingPointError, match="not finite"):
        loop.to_distilled_set(pixels / 0, few_scenes, real.normalisation)


def test_the_images_that_pixels_start_from_are_named(few_scenes, context_of, tmp_path):
    """With a rate of 0 the distilled images are the starts."""
    small = {"iterations": 1, "rate": 0.0}
    methods = [DM(batch=4, **small), DSA(outer=1, inner=1, batch=4, **small), MTT(**(SMALL | small))]
    for method in methods:
        context = replace(context_of(), workdir=tmp_path / method.name)
        distilled = method.distill(few_scenes, 2, context)
        rows = [few_scenes.names.index(name) for name in distilled.extras["starts"]]
        assert torch.equal(distilled.images, few_scenes.images[rows])
    from_noise = DC(outer=1, inner=1, batch=4, **small)
    assert "starts" not in from_noise.distill(few_scenes, 1, context_of()).extras


def test_too_few_real_images_to_start_from_are_named(few_scenes, context_of):
    with pytest.raises(ValueError, match="cannot start from 7 real images per class: beach 6"):
        DM(iterations=1).distill(few_scenes, 7, context_of())


SMALL = {"steps": 3, "expert_epochs": 1, "latest": 2, "experts": 2, "epochs": 2, "expert_batch": 4}
SMALL |= {"rate": 100, "rate_rate": 1e-8}
SMALL_ZCA = SMALL | {"normalise": "zca", "store_float": True, "bounded": False}
METHODS = [
    DM(iterations=4, batch=4),
    DC(iterations=2, outer=2, inner=2, batch=4),
    DSA(iterations=2, outer=2, inner=2, batch=4),
    MTT(iterations=4, **SMALL),
    MTT(iterations=2, batch=4, gradient="tesla", augment=False, **SMALL),
]


@pytest.fixture
def small_scenes(few_scenes):
    """At 16 px, which are whitened in a second."""
    return replace(few_scenes, images=few_scenes.images[:, :, ::2, ::2].contiguous())


@pytest.mark.parametrize("normalise", ["data", "zca"])
def test_float_images_are_the_pixels_before_rounding(small_scenes, context_of, normalise):
    real = RealImages.of(small_scenes, context_of(), normalise)
    pixels = loop.initial_pixels(real, 2, "real", context_of()) * 3
    distilled = loop.to_distilled_set(pixels, small_scenes, real.normalisation, floats=True)
    distilled.check(2)
    torch.testing.assert_close(
        real.normalisation.apply(distilled.float_images), pixels.flatten(0, 1), atol=1e-4, rtol=1e-3
    )
    assert distilled.float_images.min() < 0 or distilled.float_images.max() > 1
    assert (distilled.whitening is None) == (normalise == "data")


def test_whitened_pixels_are_optimised(small_scenes, context_of, tmp_path):
    """Experts and students of MTT see whitened images; the stored set carries the matrix, fitted once."""
    contexts = [replace(context_of(), workdir=tmp_path / name) for name in ("one", "two", "three")]
    zca = MTT(iterations=1, **SMALL_ZCA)
    distilled, again, plain = (
        method.distill(small_scenes, 2, context)
        for method, context in zip((zca, zca, replace(zca, normalise="data")), contexts, strict=True)
    )
    distilled.check(2)
    assert torch.equal(distilled.float_images, again.float_images)
    assert not torch.equal(distilled.float_images, plain.float_images)
    assert torch.equal(distilled.whitening.matrix, Whitening.fit(small_scenes.images).matrix)
    assert len(list(contexts[0].shared.glob("whitening-*"))) == 1


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_stopped_and_resumed_is_the_same(method, few_scenes, context_of, tmp_path, monkeypatch):
    whole = method.distill(few_scenes, 2, context_of())
    save = Checkpoint.save

    def save_and_stop(self, tensors, progress):
        save(self, tensors, progress)
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "save", save_and_stop)
    monkeypatch.setattr(Checkpoint.__init__, "__defaults__", (0.0, True))
    context = replace(context_of(), workdir=tmp_path / "halves")
    with pytest.raises(KeyboardInterrupt):
        method.distill(few_scenes, 2, context)
    monkeypatch.setattr(Checkpoint, "save", save)
    resumed = method.distill(few_scenes, 2, context)
    assert torch.equal(whole.images, resumed.images)
    assert whole.extras["loss"] == pytest.approx(resumed.extras["loss"], rel=1e-6)


@pytest.mark.parametrize("method", [*METHODS[:2], METHODS[3]], ids=lambda method: method.name)
def test_bounded_pixels_are_what_is_stored(method, few_scenes, context_of, tmp_path):
    found = {}
    for bounded in (True, False):
        context = replace(context_of(), workdir=tmp_path / str(bounded))
        extras = replace(method, iterations=2, rate=1e5, bounded=bounded).distill(few_scenes, 2, context).extras
        found[bounded] = extras["clipped"], extras["saturated"]
    assert found[True][0] == 0 < found[False][0]
    assert found[True][1] > 0.1


def test_a_loss_that_is_not_finite_stops_it(few_scenes, context_of):
    with pytest.raises(FloatingPointError, match=r"the loss became|not finite"):
        DM(iterations=9, batch=4, rate=1e30, bounded=False).distill(few_scenes, 1, context_of())


@pytest.mark.parametrize("bounded", [True, False])
def test_a_rate_that_is_far_too_high_stops_it(few_scenes, context_of, bounded):
    """Where pixels are brought back into 0..255 nothing is seen of it but a gradient that is not finite, at last."""
    method = DM(iterations=30, batch=4, rate=1e30, init="noise", bounded=bounded)
    if bounded:
        assert method.distill(few_scenes, 1, context_of()).extras["saturated"] > 0.9
    else:
        with pytest.raises(FloatingPointError):
            method.distill(few_scenes, 1, context_of())
    with pytest.raises(FloatingPointError, match="gradient of the images is not finite"):
        loop.MomentumSGD(randn(3, 1, 1), 1.0, 0.5, CONSTANT if bounded else None).step(randn(3, 1, 1) / 0)


def test_siamese_numbers_are_one_draw_for_both():
    look = loop.dsa_shared(True, torch.Generator().manual_seed(3), CPU)
    images = randn(3, 3, SIZE, SIZE)
    assert torch.equal(look(images)[1:2], look(images[1:2]))
