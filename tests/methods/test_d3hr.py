"""Test D3HR: inversion against the exact flow of a Gaussian, the choice of groups against a slow one, its runs."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file
from small_models import write_dit, write_stable_diffusion
from small_networks import randn

from ddbench.config import build
from ddbench.methods.d3hr import D3HR, invert, representative_group
from ddbench.methods.latent_diffusion.diffusion import PREDICTIONS, add_noise, noise_estimate, sample, target
from ddbench.methods.latent_diffusion.model import load_model
from ddbench.methods.latent_diffusion.stages import Stages

CPU = torch.device("cpu")
SHORT = {"steps": 4, "batch": 4, "groups": 10}


def ddim(prediction: str):
    from diffusers import DDIMScheduler

    settings = {"clip_sample": False, "set_alpha_to_one": False, "prediction_type": prediction}
    return DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, **settings)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_noise_that_an_output_implies(prediction):
    z, eps, abar = randn(3, 2, 4, 4), randn(3, 2, 4, 4, seed=1), torch.tensor([0.9, 0.5, 0.1])
    u = target(z, eps, abar, prediction)
    torch.testing.assert_close(noise_estimate(add_noise(z, eps, abar), u, abar, prediction), eps, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_gaussian_is_inverted_to_the_gaussian_of_its_noise_level(prediction):
    """Data N(m, s^2) are N(sqrt(abar) m, abar s^2 + 1 - abar) at t; the flow keeps each latent's place in it."""
    m, s, scheduler = 1.5, 0.3, ddim(prediction)
    abars = scheduler.alphas_cumprod

    def denoise(z, t):
        """The best possible output, in closed form."""
        abar = abars[t]
        variance = abar * s**2 + 1 - abar
        z0_hat = m + abar.sqrt() * s**2 / variance * (z - abar.sqrt() * m)
        eps_hat = (1 - abar).sqrt() / variance * (z - abar.sqrt() * m)
        return target(z0_hat, eps_hat, abar, prediction)

    place = randn(4, 2, 3, 3)
    z_t = invert(denoise, scheduler, m + s * place, torch.arange(0, 600, 2))
    abar = abars[598]
    expected = abar.sqrt() * m + (abar * s**2 + 1 - abar).sqrt() * place
    torch.testing.assert_close(z_t, expected, rtol=0.02, atol=0.02)


def test_a_clean_latent_counts_as_one_at_time_0():
    times = []
    invert(lambda z, t: times.append(int(t)) or z, ddim("epsilon"), randn(1, 2, 3, 3), torch.tensor([21, 41]))
    assert times == [0, 21]
    times.clear()
    invert(lambda z, t: times.append(int(t)) or z, ddim("epsilon"), randn(1, 2, 3, 3), torch.tensor([0, 20, 40]))
    assert times == [0, 20]


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_what_was_inverted_is_sampled_again(prediction):
    """DDIM from the inverted latents on leads back to the latents, with any network that is smooth."""
    method, scheduler, z = D3HR(steps=200, strength=0.6), ddim(prediction), randn(2, 4, 3, 3)
    weights = 0.3 * randn(4, 4, seed=1)
    denoise = lambda z, t: torch.einsum("ij,njhw->nihw", weights, z) * float(t) / 1000  # noqa: E731
    config = method._sampler_config()
    scheduler.set_timesteps(200)
    z_t = invert(denoise, scheduler, z, scheduler.timesteps[80:].flip(0))
    found, _ = sample(denoise, scheduler, z_t, config, [torch.Generator()] * 2)
    assert float((found - z).norm() / z.norm()) < 0.05
    assert float((z_t - z).norm() / z.norm()) > 0.1


def test_the_group_is_the_best_of_a_slow_search(monkeypatch):
    monkeypatch.setattr("ddbench.methods.d3hr.DRAWN", 5 * 4 * 12)  # five groups at once
    mu, sigma = randn(3, 2, 2), randn(3, 2, 2, seed=1).abs()
    best = representative_group(mu, sigma, 4, 12, 0.5, torch.Generator().manual_seed(3))
    generator, groups, scores = torch.Generator().manual_seed(3), [], []
    for count in (5, 5, 2):
        for e in torch.randn(count, 4, 3, 2, 2, generator=generator):
            x = mu + sigma * e
            skewness = ((x - x.mean(0)) ** 3).mean(0) / x.std(0) ** 3
            scores.append(float((x.mean(0) - mu).norm() + (x.std(0) - sigma).norm() + 0.5 * skewness.norm()))
            groups.append(x)
    torch.testing.assert_close(best, groups[scores.index(min(scores))])


def test_at_one_image_per_class_the_nearest_to_the_mean_is_kept():
    mu, sigma = randn(3, 2, 2), torch.ones(3, 2, 2)
    one = representative_group(mu, sigma, 1, 500, 0.5, torch.Generator().manual_seed(0))
    any_one = representative_group(mu, sigma, 1, 1, 0.5, torch.Generator().manual_seed(0))
    assert float((one - mu).norm()) < float((any_one - mu).norm())


def test_without_deviation_every_draw_is_the_mean():
    mu = randn(3, 2, 2)
    assert torch.equal(
        representative_group(mu, torch.zeros(3, 2, 2), 2, 5, 0.5, torch.Generator()), mu.expand(2, -1, -1, -1)
    )


@pytest.mark.parametrize("base", ["stable-diffusion", "dit", "tiny"])
def test_the_gaussians_are_those_of_one_image_after_the_other(base, few_scenes, context_of, tmp_path):
    """Small bases of Stable Diffusion's and of DiT's shape, and the embedded one."""
    write = {"stable-diffusion": write_stable_diffusion, "dit": write_dit}
    model = load_model(str(write[base](tmp_path / "base")) if base in write else "tiny", CPU)
    if base == "dit":
        model = model.adapted(0, (2, 0, 1))
    stages = Stages(model, few_scenes, context_of(), 8)
    method, latents = D3HR(steps=5, strength=0.6, guidance=2.0, batch=5), stages.latents()
    starts = method._start_latents(stages, latents, 2)
    mu, sigma = method._gaussians(model, latents, starts.prompts, iter)
    conditions = model.encode_prompts([*starts.prompts.texts, ""], [0, 1, 2, -1])
    scheduler = model.make_scheduler("base")
    scheduler.set_timesteps(5)
    times = sorted({0, *scheduler.timesteps[2:].tolist()})
    inverted = []
    for row in few_scenes.of_class(1):
        z = latents.means(row[None])
        for s, t in pairwise(times):
            u, v = (model.denoise(z, torch.tensor(s), conditions[y : y + 1]) for y in (1, 3))
            u, abar_s, abar_t = v + 2.0 * (u - v), scheduler.alphas_cumprod[s], scheduler.alphas_cumprod[t]
            if model.prediction == "epsilon":
                z0, eps = (z - (1 - abar_s).sqrt() * u) / abar_s.sqrt(), u
            else:
                z0, eps = abar_s.sqrt() * z - (1 - abar_s).sqrt() * u, (1 - abar_s).sqrt() * z + abar_s.sqrt() * u
            z = abar_t.sqrt() * z0 + (1 - abar_t).sqrt() * eps
        inverted.append(z[0])
    torch.testing.assert_close(mu[1], torch.stack(inverted).mean(0), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(sigma[1], torch.stack(inverted).std(0, correction=0), rtol=1e-3, atol=1e-3)


def test_images_depend_on_the_seed_and_on_no_batch(pipeline, few_scenes, context_of):
    method = D3HR(base=str(pipeline), weights="none", **SHORT)
    images = method.distill(few_scenes, 2, context_of()).images
    others = replace(method, batch=1).distill(few_scenes, 2, context_of()).images
    assert (others.int() - images.int()).abs().max() <= 1  # of rounding
    assert not torch.equal(method.distill(few_scenes, 2, context_of(1)).images, images)


def test_the_fine_tuned_base_inverts(pipeline, few_scenes, context_of):
    """Other weights, another stage; all IPCs and seeds share one."""
    ctx = context_of()
    tuned = D3HR(base=str(pipeline), tune_steps=2, tune_batch=4, **SHORT)
    for method, ipc in ((tuned, 2), (tuned, 1), (replace(tuned, weights="none"), 2)):
        method.distill(few_scenes, ipc, ctx)
    reused = [cost["reused"] for cost in ctx.costs if cost["stage"] == "gaussians"]
    assert reused == [False, True, False]


def test_some_images_of_each_class_are_inverted(pipeline, few_scenes, context_of):
    """With one there is no deviation; with as many as a class has the Gaussians are those of all."""
    ctx = context_of()
    for count in (0, 1, len(few_scenes.labels)):
        D3HR(base=str(pipeline), weights="none", images=count, **SHORT).distill(few_scenes, 2, ctx)
    folders = [ctx.shared / cost["folder"] for cost in ctx.costs if cost["stage"] == "gaussians"]
    every, one, as_many = (load_file(folder / "gaussians.safetensors") for folder in folders)
    assert all(torch.equal(as_many[name], every[name]) for name in every)
    assert not one["sigma"].any()
    assert not torch.equal(one["mu"], every["mu"])


def test_settings_that_are_none_are_refused():
    for settings in ({"strength": 0.0}, {"groups": 0}, {"skewness": -1.0}, {"images": -1}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            D3HR(**settings)


def test_the_published_preset_begins_at_the_step_of_the_public_code():
    method = build(D3HR, "imagenet")
    assert (method.steps - int(method.steps * method.strength), method.guidance, method.guidance_channels) == (
        18,
        4.0,
        0,
    )
