"""Test MGD3's guidance: its direction, its size, its steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_networks import batch_of, randn

from ddbench.config import build
from ddbench.methods import mgd3
from ddbench.methods.latent_diffusion.diffusion import SamplerConfig, clean_estimate, sample
from ddbench.methods.latent_diffusion.model import load_model
from ddbench.methods.latent_diffusion.stages import Stages
from ddbench.methods.mgd3 import MGD3
from ddbench.methods.plain_diffusion import Diffusion

SHORT = {"tune_steps": 3, "tune_batch": 4, "steps": 3, "batch": 4}


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_step_is_shifted_towards_the_mode(stages, prediction):
    """From the clean estimate of the worded half, not of the guided output, by the deviation of DDPM's posterior."""
    scheduler, modes, z = stages.model.make_scheduler("base"), randn(1, 4, 8, 8, seed=3), randn(1, 4, 8, 8)
    scheduler.register_to_config(prediction_type=prediction)
    scheduler.set_timesteps(10)
    guided, worded = randn(1, 4, 8, 8, seed=1), randn(1, 4, 8, 8, seed=2)
    denoise, shift = MGD3(steps=10, pull=0.2)._guided_denoiser(
        lambda z, t: (guided, worded), batch_of(modes), scheduler
    )
    t, following = scheduler.timesteps[:2]
    assert torch.equal(denoise(z, t), guided)
    abar, later = scheduler.alphas_cumprod[t], scheduler.alphas_cumprod[following]
    beta = 1 - abar / later  # of a step from one to the other
    expected = 0.2 * (beta * (1 - later) / (1 - abar)).sqrt() * (modes - clean_estimate(z, worded, abar, prediction))
    torch.testing.assert_close(shift(0, t, following), expected, rtol=1e-5, atol=1e-6)


def test_nothing_blows_up_from_noise_without_a_word(stages):
    """A network that says "as it is": the pull alone moves pure noise, and nothing blows up."""
    scheduler, modes = stages.model.make_scheduler("base"), 3 * torch.ones(1, 4, 8, 8)
    both = lambda z, t: (torch.zeros_like(z), torch.zeros_like(z))  # noqa: E731
    far = []
    for pull in (0.0, 0.5):
        denoise, shift = MGD3(steps=50, pull=pull, free=0.0)._guided_denoiser(both, batch_of(modes), scheduler)
        made = sample(denoise, scheduler, modes, SamplerConfig(50), [torch.Generator().manual_seed(0)], shift)[0]
        far.append(float((made * scheduler.alphas_cumprod[0].sqrt() - modes).norm()))
    assert torch.isfinite(torch.tensor(far)).all()
    assert far[1] != far[0]


def test_the_modes_come_nearer_on_the_embedded_base(few_scenes, context_of):
    """The distance of every clean estimate after the first shift from its mode, against no guidance."""
    stages = Stages(load_model("tiny", torch.device("cpu")), few_scenes, context_of(), 8)
    method = replace(build(MGD3, "tiny"), weights="none", steps=6, free=0.0)
    starts = method._start_latents(stages, stages.latents(), 1)

    def distances(pull):
        """By step and image (6, 3), of the estimates that the guidance compares."""
        seen = []
        with pytest.MonkeyPatch.context() as patch:

            def estimate(x_t, u, abar, prediction):
                z0_hat = clean_estimate(x_t, u, abar, prediction)
                seen.append(torch.stack([(z0_hat[i] - starts.latent(i, None)).norm() for i in range(3)]))
                return z0_hat

            patch.setattr(mgd3, "clean_estimate", estimate)
            replace(method, pull=pull).sample_latents(stages.model, starts, context_of())
        return torch.stack(seen)

    plain, guided = distances(0.0), distances(0.5)
    assert plain.shape == (6, 3)
    torch.testing.assert_close(guided[0], plain[0])
    assert guided[1].mean() < plain[1].mean()
    assert (guided[2:] < plain[2:] - 5).all(), (plain, guided)


def test_modes_act_in_the_first_steps_and_nowhere_without_a_pull(pipeline, few_scenes, context_of):
    plain = Diffusion(base=str(pipeline), weights="none", guidance=4.0, **SHORT).distill(few_scenes, 2, context_of())
    method = MGD3(base=str(pipeline), **SHORT)
    assert torch.equal(replace(method, pull=0.0).distill(few_scenes, 2, context_of()).images, plain.images)
    assert torch.equal(replace(method, free=1.0).distill(few_scenes, 2, context_of()).images, plain.images)
    assert not torch.equal(replace(method, pull=0.5).distill(few_scenes, 2, context_of()).images, plain.images)


@pytest.mark.parametrize(("steps", "free", "pulled"), [(50, 0.5, 24), (10, 0.5, 4), (10, 0.0, 9), (10, 1.0, 0)])
def test_the_last_steps_are_free_of_modes(stages, steps, free, pulled):
    """Counted down from 49, steps above 25 are guided (the paper's t_stop of 25); the last one has no deviation."""
    scheduler = stages.model.make_scheduler("base")
    scheduler.set_timesteps(steps)
    both = lambda z, t: (torch.zeros_like(z), torch.zeros_like(z))  # noqa: E731
    denoise, shift = MGD3(steps=steps, free=free)._guided_denoiser(both, batch_of(torch.ones(1, 4, 8, 8)), scheduler)
    times, found = scheduler.timesteps, []
    for i, t in enumerate(times):
        denoise(torch.zeros(1, 4, 8, 8), t)
        found.append(bool(shift(i, t, times[i + 1] if i + 1 < steps else None).any()))
    assert found == [True] * pulled + [False] * (steps - pulled)


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="pull"):
        MGD3(pull=-1.0)
