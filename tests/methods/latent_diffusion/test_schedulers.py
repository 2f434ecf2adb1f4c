"""Times of sampling that are close together at much and at little noise (spacing "beta")."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler
from scipy.stats import beta

from ddbench.errors import UserError
from ddbench.methods.latent_diffusion.diffusion import SamplerConfig, sample, target
from ddbench.methods.latent_diffusion.schedulers import ANY_TIMES, check_steps, choose_scheduler, set_steps

OWN = DDIMScheduler(
    prediction_type="v_prediction", clip_sample=False, timestep_spacing="trailing", beta_schedule="squaredcos_cap_v2"
)


def choose(name: str, spacing: str = "beta"):
    return choose_scheduler(OWN, name, moving=(), spacing=spacing, variance="fixed")


@pytest.mark.parametrize("name", ANY_TIMES)
def test_times_are_quantiles_of_the_beta_distribution(name):
    scheduler = choose(name)
    set_steps(scheduler, 12)
    quantiles = [float(beta.ppf(i / 12, 0.5, 0.5)) for i in range(12, 0, -1)]
    assert scheduler.timesteps.tolist() == [round(1000 * q - 1) for q in quantiles]


@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # diffusers' own, in DEIS
@pytest.mark.parametrize("name", ANY_TIMES)
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_a_wide_gaussian_keeps_its_deviation(name, strength):
    """Brightness of a whole image, as one number, is wide beside the noise: even steps lose a part of it.

    With data N(0, s^2) the ideal denoiser is linear, and the exact solution multiplies the start by a number.
    """
    s, losses = 16.0, {}
    for spacing in ("base", "beta"):
        scheduler = choose(name, spacing)

        def denoise(z, t, abars=scheduler.alphas_cumprod):
            abar = abars[t]
            z0 = abar.sqrt() * s**2 / (abar * s**2 + 1 - abar) * z
            return target(z0, (z - abar.sqrt() * z0) / (1 - abar).sqrt(), abar.expand(len(z)), "v_prediction")

        starts, config = torch.zeros(1, 1, 1, 1), SamplerConfig(12, strength)
        z, _ = sample(denoise, scheduler, starts, config, [torch.Generator().manual_seed(0)])
        abar = scheduler.alphas_cumprod[scheduler.timesteps[int(12 * (1 - strength))]]
        start = (1 - abar).sqrt() * torch.randn(1, generator=torch.Generator().manual_seed(0))
        exact = float(start) * s / float((abar * s**2 + 1 - abar).sqrt())
        losses[spacing] = abs(float(z) / exact - 1)
    assert losses["beta"] < 0.25
    assert strength < 1 or losses["beta"] < losses["base"] / 2


def test_a_scheduler_with_times_of_its_own_is_refused():
    with pytest.raises(UserError, match="DDIMScheduler has times of its own: spacing=beta needs scheduler=DEIS"):
        choose("base")


def test_two_steps_at_one_time_are_refused():
    scheduler = choose("UniPCMultistepScheduler")
    check_steps(scheduler, 30)
    with pytest.raises(UserError, match="steps=600: two of them have one time"):
        check_steps(scheduler, 600)
