"""Test latent polishing: its loss by hand, its minimum in closed form, its levels, the embedded base."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_networks import randn

from ddbench.context import generator_of
from ddbench.methods.latent_diffusion.diffusion import PREDICTIONS, SamplerConfig, sampling_times, target
from ddbench.methods.latent_diffusion.model import denoiser_of, load_model
from ddbench.methods.latent_diffusion.polishing import Polishing, low_noise, polish_set

CPU = torch.device("cpu")
ABARS = torch.tensor([0.9, 0.5])


def draws(count):
    return [generator_of(0, "polish", i) for i in range(count)]


def gaussian(prediction, m=1.0, s=0.5):
    """The best possible output for data N(m, s^2), in closed form; the times are numbers of ABARS."""

    def network(z_t, t, condition):
        abar = ABARS[t].view(-1, 1, 1, 1)
        variance = abar * s**2 + 1 - abar
        z0_hat = m + abar.sqrt() * s**2 / variance * (z_t - abar.sqrt() * m)
        eps_hat = (1 - abar).sqrt() / variance * (z_t - abar.sqrt() * m)
        return target(z0_hat, eps_hat, ABARS[t], prediction)

    return network


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_loss_by_hand(prediction):
    polishing = Polishing(gaussian(prediction), torch.tensor([0, 1]), ABARS, prediction, 1, 0.1)
    z, eps, level = randn(3, 2, 4, 4), randn(3, 2, 4, 4, seed=1), torch.tensor([0, 1, 1])
    L = polishing.loss(z, eps, level, torch.zeros(3))
    for i in range(3):
        abar = ABARS[level[i]]
        z_t = abar.sqrt() * z[i] + (1 - abar).sqrt() * eps[i]
        error = eps[i] - (1 - abar).sqrt() / (abar * 0.25 + 1 - abar) * (z_t - abar.sqrt())
        torch.testing.assert_close(L[i], error.square().mean() + 10 * error.abs().max(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_minimum_is_the_latent_whose_noise_the_base_predicts(prediction):
    """For N(m, s^2) and one level, eps_hat = eps at z = m + s^2 sqrt(abar / (1 - abar)) eps."""
    polishing = Polishing(gaussian(prediction), torch.tensor([1]), ABARS[1:], prediction, 500, 0.02)
    z = polishing.polish(randn(2, 1, 2, 2, seed=3), torch.zeros(2), draws(2))
    eps = torch.stack([torch.randn(1, 2, 2, generator=g) for g in draws(2)])
    torch.testing.assert_close(z, 1 + 0.25 * eps, atol=0.03, rtol=0)


def test_no_step_leaves_the_latents_and_few_move_them_little():
    polishing = Polishing(gaussian("epsilon"), torch.tensor([0, 1]), ABARS, "epsilon", 0, 0.01)
    z = randn(2, 1, 4, 4)
    assert torch.equal(polishing.polish(z, torch.zeros(2), draws(2)), z)
    moved = (replace(polishing, steps=20).polish(z, torch.zeros(2), draws(2)) - z).abs()
    assert 0 < float(moved.min()) <= float(moved.max()) < 0.3


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_an_image_depends_on_no_other(batch, context_of):
    """Neither on the batch nor on the number of images of its class."""
    polishing = Polishing(gaussian("v_prediction"), torch.tensor([0, 1]), ABARS, "v_prediction", 10, 0.01)
    z, labels, ctx = randn(5, 1, 4, 4), [0, 0, 1, 1, 1], context_of()
    calls = []
    condition = lambda images: calls.append(images) or torch.zeros(len(images))  # noqa: E731
    all_of_them = polish_set(polishing, z, labels, condition, 5, ctx)
    torch.testing.assert_close(polish_set(polishing, z, labels, condition, batch, ctx), all_of_them)
    fewer = polish_set(polishing, z[[0, 2, 3]], [0, 1, 1], condition, batch, ctx)
    torch.testing.assert_close(fewer, all_of_them[[0, 2, 3]])
    assert max(map(len, calls[1:])) <= batch
    assert not torch.allclose(polish_set(polishing, z, labels, condition, 5, context_of(1)), all_of_them)


@pytest.mark.parametrize(
    ("steps", "share", "expected"),
    [
        (50, 0.25, range(20, 221, 20)), (50, 0.125, range(20, 101, 20)), (4, 0.25, [250]), (1, 0.25, [0]),
        (4, 1.0, [250, 500, 750]),
    ],
)  # fmt: skip
def test_the_levels_are_those_of_the_last_steps_without_the_very_last(steps, share, expected):
    """Of 50 steps the public code draws from numbers 1 to 11, counted from the last, 0."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(clip_sample=False)
    times, abars = low_noise(scheduler, sampling_times(scheduler, SamplerConfig(steps)), share, CPU)
    assert times.tolist() == list(expected)
    assert torch.equal(abars, scheduler.alphas_cumprod[list(expected)])


def test_the_loss_falls_on_the_embedded_base():
    """Of every image, over all levels: for the noise that it was polished with."""
    model = load_model("tiny", CPU)
    scheduler = model.make_scheduler("base")
    scheduler.set_timesteps(12)
    levels = low_noise(scheduler, scheduler.timesteps, 0.5, CPU)
    network = denoiser_of(model, "fp32")
    polishing = Polishing(network, *levels, model.prediction, 5, 8e-3)
    images = torch.randint(0, 256, (2, 3, 32, 32), generator=generator_of(0, "images"), dtype=torch.uint8)
    mean, _ = model.encode(images, iter, 8)
    z = mean.float() * model.vae.config.scaling_factor
    condition = model.encode_prompts(["A satellite image of a forest.", ""], [0, -1])
    polished = polishing.polish(z, condition, draws(2))
    same = torch.stack([torch.randn(z.shape[1:], generator=g) for g in draws(2)])
    with torch.no_grad():
        levels = [torch.full((2,), k) for k in range(len(levels[0]))]
        before, after = (sum(polishing.loss(x, same, level, condition) for level in levels) for x in (z, polished))
    assert (after < before).all(), (before, after)
