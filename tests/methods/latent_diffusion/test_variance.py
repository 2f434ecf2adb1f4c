"""Test the learned variance against slow versions of its formulas, and DiT's spacing of times."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from small_models import write_dit
from small_networks import batch_of, randn
from torch.distributions import Normal, kl_divergence

from ddbench.errors import UserError
from ddbench.methods.latent_diffusion.diffusion import Objective, SamplerConfig, diffusion_loss, sample
from ddbench.methods.latent_diffusion.model import load_model
from ddbench.methods.latent_diffusion.variance import log_variance, posterior_std, variational_bound
from ddbench.methods.mgd3 import MGD3
from ddbench.methods.plain_diffusion import Diffusion

CPU = torch.device("cpu")
ABARS = (1 - torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64)).cumprod(0)
SHORT = {"tune_steps": 3, "tune_batch": 4, "steps": 3, "batch": 4}


def slow_moments(z0, z_t, abar, before):
    """Mean and variance of q(z_s | z_t, z0)."""
    beta = 1 - abar / before
    mean = math.sqrt(before) * beta / (1 - abar) * z0 + math.sqrt(abar / before) * (1 - before) / (1 - abar) * z_t
    return mean, (1 - before) / (1 - abar) * beta


def slow_log_variance(v, abar, before, least):
    share = (v + 1) / 2
    return share * math.log(1 - abar / before) + (1 - share) * math.log(least)


def test_the_bound_is_the_divergence_of_the_posterior_and_at_time_0_a_likelihood_of_8_bits():
    z, z_t, z0_hat, v = (randn(4, 2, 3, 3, seed=i).double().clamp(-1, 1) for i in range(4))
    times = torch.tensor([0, 1, 400, 999])
    ours = variational_bound(z, z_t, z0_hat, v, times, ABARS)
    for i, t in enumerate(times.tolist()):
        abar, before = float(ABARS[t]), float(ABARS[t - 1]) if t else 1.0
        least = slow_moments(z, z, float(ABARS[max(t, 1)]), float(ABARS[max(t, 1) - 1]))[1]
        mean = slow_moments(z0_hat[i], z_t[i], abar, before)[0]
        learned = Normal(mean, (0.5 * slow_log_variance(v[i], abar, before, least)).exp())
        if t:
            true = Normal(slow_moments(z[i], z_t[i], abar, before)[0], math.sqrt(least))
            expected = kl_divergence(true, learned)
        else:
            upper = torch.where(z[i] > 0.999, 1.0, learned.cdf(z[i] + 1 / 255))
            lower = torch.where(z[i] < -0.999, 0.0, learned.cdf(z[i] - 1 / 255))
            expected = -(upper - lower).clamp(min=1e-12).log()
        torch.testing.assert_close(ours[i], expected.mean() / math.log(2), rtol=1e-7, atol=1e-9)


def test_the_bound_teaches_the_variance_alone():
    outputs = randn(3, 4, 4, 4).requires_grad_()
    z = randn(3, 2, 4, 4, seed=1)
    bound = lambda *parts: variational_bound(*parts, ABARS.float())  # noqa: E731
    gradients = []
    for objective in (Objective(ABARS.float(), "epsilon"), Objective(ABARS.float(), "epsilon", bound=bound)):
        loss = diffusion_loss(lambda z_t, t: outputs, z, objective, torch.Generator().manual_seed(0))
        gradients.append(torch.autograd.grad(loss, outputs)[0])
    assert torch.equal(gradients[0][:, :2], gradients[1][:, :2])
    assert not gradients[0][:, 2:].any()
    assert gradients[1][:, 2:].any()


@pytest.fixture
def dit(tmp_path):
    return load_model(str(write_dit(tmp_path / "dit")), CPU)


def test_steps_are_those_of_ddpm_with_the_variance_of_the_network_at_the_times_of_dit(dit):
    """Times: 1000 / 50 as DiT's respacing rounds them; the variance is between beta_tilde and beta of a step."""
    scheduler = dit.make_scheduler("DDPMScheduler", spacing="linspace", variance="learned")
    output = lambda z, t: torch.cat([torch.tanh(z) * 0.1, torch.sin(5 * z)], 1)  # noqa: E731
    ours, _ = sample(output, scheduler, torch.zeros(1, 4, 8, 8), SamplerConfig(50), [torch.Generator().manual_seed(0)])
    draws = torch.Generator().manual_seed(0)
    z = torch.randn(1, 4, 8, 8, generator=draws).double()
    times = [round(i * 999 / 49) for i in range(50)]
    assert scheduler.timesteps.tolist() == times[::-1]
    abars = scheduler.alphas_cumprod.double()
    for i in reversed(range(50)):
        abar, before = float(abars[times[i]]), float(abars[times[i - 1]]) if i else 1.0
        u, v = output(z, None).chunk(2, 1)
        mean, least = slow_moments((z - math.sqrt(1 - abar) * u) / math.sqrt(abar), z, abar, before)
        z = mean
        if i:
            noise = torch.randn(1, 4, 8, 8, generator=draws)
            z = mean + (0.5 * slow_log_variance(v, abar, before, least)).exp() * noise
    torch.testing.assert_close(ours.double(), z, rtol=2e-3, atol=2e-3)


def test_a_scheduler_that_draws_no_such_noise_is_refused(dit):
    with pytest.raises(UserError, match="DDIMScheduler draws no such noise: set scheduler=DDPMScheduler"):
        dit.make_scheduler("base", variance="learned")


def test_log_variance_of_a_whole_step():
    v = randn(1, 2, 3, 3).double().clamp(-1, 1)
    abar, later = ABARS[600], ABARS[580]
    least = float(posterior_std(abar, later)) ** 2
    expected = slow_log_variance(v, float(abar), float(later), least)
    torch.testing.assert_close(log_variance(v, abar, later), expected)


def test_mgd3_shifts_by_the_learned_deviation(dit):
    scheduler = dit.make_scheduler("DDPMScheduler", variance="learned")
    scheduler.set_timesteps(10)
    t, following = scheduler.timesteps[:2]
    modes, z, guided, prompted = (randn(1, c, 8, 8, seed=i) for i, c in enumerate((4, 4, 8, 8)))
    abar, later = scheduler.alphas_cumprod[t], scheduler.alphas_cumprod[following]
    for estimate, output in (("prompt", prompted), ("guided", guided)):
        method = MGD3(steps=10, pull=0.2, variance="learned", estimate=estimate)
        denoise, shift = method._guided_denoiser(lambda z, t: (guided, prompted), batch_of(modes), scheduler)
        assert torch.equal(denoise(z, t), guided)
        x0_hat = (z - (1 - abar).sqrt() * output[:, :4]) / abar.sqrt()
        least = float(posterior_std(abar, later)) ** 2
        deviation = (0.5 * slow_log_variance(output[:, 4:], float(abar), float(later), least)).exp()
        expected = 0.2 * deviation * (modes - x0_hat)
        torch.testing.assert_close(shift(0, t, following), expected, rtol=1e-4, atol=1e-4)


def test_a_dit_is_tuned_and_sampled_with_its_variance(few_scenes, context_of, tmp_path):
    base = str(write_dit(tmp_path / "dit"))
    method = Diffusion(base=base, weights="all", scheduler="DDPMScheduler", **SHORT)
    learned = replace(method, variance="learned", spacing="linspace", guidance_channels=3)
    learned.distill(few_scenes, 1, context_of()).check(1)
    ctx = context_of()
    method.distill(few_scenes, 1, ctx)
    assert not {cost["stage"]: cost["reused"] for cost in ctx.costs}["finetune"]


@pytest.mark.parametrize(
    ("settings", "text"),
    [({"variance": "learned", "scheduler": "DDPMScheduler"}, "did not learn its variance"),
     ({"scheduler": "DPMSolverSinglestepScheduler", "spacing": "linspace"}, "knows no spacing: set spacing=base"),
     ({"weights": "difffit"}, "DiffFit is for a DiT"),
     ({"guidance_channels": 5}, "latents of this base have 4 channels; set 0 to guide all of them")],
)  # fmt: skip
def test_settings_that_do_not_fit_the_base_are_refused_before_any_work(
    settings, text, pipeline, few_scenes, context_of
):
    method, ctx = Diffusion(base=str(pipeline), **SHORT | settings), context_of()
    with pytest.raises(UserError, match=text):
        method.distill(few_scenes, 1, ctx)
    assert not ctx.shared.exists()
