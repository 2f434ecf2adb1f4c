"""Known answers for the diffusion algebra, the loss weights and the sampler."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler, StableDiffusionImg2ImgPipeline

from ddbench.methods.latent_diffusion.diffusion import (
    PREDICTIONS,
    Objective,
    SamplerConfig,
    add_noise,
    clean_estimate,
    diffusion_loss,
    guided_and_conditional,
    guided_denoiser,
    match_statistics,
    min_snr_weight,
    prototype_guidance,
    sample,
    target,
)

SHAPE = (2, 2, 2)


def scheduler(prediction: str = "sample") -> DDIMScheduler:
    return DDIMScheduler(
        prediction_type=prediction, clip_sample=False, timestep_spacing="trailing", beta_schedule="squaredcos_cap_v2"
    )


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(100 + i) for i in range(count)]


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_perfect_network_gives_the_clean_latent(prediction):
    z, eps = torch.randn(5, *SHAPE), torch.randn(5, *SHAPE)
    abar = torch.tensor([0.99, 0.7, 0.5, 0.1, 0.01])
    z_t = add_noise(z, eps, abar)
    assert torch.allclose(clean_estimate(z_t, target(z, eps, abar, prediction), abar, prediction), z, atol=1e-4)


def test_an_unknown_prediction_is_named():
    with pytest.raises(ValueError, match="'flow' is not one of epsilon, v_prediction, sample"):
        min_snr_weight(torch.tensor([0.5]), "flow")


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_min_snr_weights_are_finite_where_nothing_is_left_of_the_image(prediction):
    assert torch.isfinite(min_snr_weight(torch.tensor([0.0, 0.5]), prediction)).all()


def test_min_snr_weights_against_a_table():
    abar = torch.tensor([0.5, 0.9, 0.99])  # snr 1, 9, 99
    assert torch.allclose(min_snr_weight(abar, "epsilon"), torch.tensor([1.0, 5 / 9, 5 / 99]), rtol=1e-4)
    assert torch.allclose(min_snr_weight(abar, "v_prediction"), torch.tensor([1 / 2, 5 / 10, 5 / 100]), rtol=1e-4)
    assert torch.allclose(min_snr_weight(abar, "sample"), torch.tensor([1.0, 5.0, 5.0]), rtol=1e-4)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_sampler_lands_on_the_exact_solution_for_a_gaussian(prediction):
    """With data N(mu, s^2) the ideal denoiser is linear and the probability flow has a closed form."""
    mu, s, plan = 0.7, 0.5, scheduler(prediction)

    def denoise(z, t):
        abar = plan.alphas_cumprod[t]
        z0 = mu + abar.sqrt() * s**2 / (abar * s**2 + 1 - abar) * (z - abar.sqrt() * mu)
        eps = (z - abar.sqrt() * z0) / (1 - abar).sqrt()
        return target(z0, eps, abar.expand(len(z)), prediction)

    made, fallen = sample(denoise, plan, torch.zeros(3, *SHAPE), SamplerConfig(1000), generators(3))
    start = torch.stack([torch.randn(SHAPE, generator=g) for g in generators(3)])
    first = plan.alphas_cumprod[-1]
    exact = mu + s * (start - first.sqrt() * mu) / (first * s**2 + 1 - first).sqrt()
    assert fallen.tolist() == [0, 0, 0]
    assert torch.allclose(made, exact, atol=0.02)


def test_start_from_the_prototype_keeps_it_where_little_is_sampled():
    prototypes = torch.full((1, *SHAPE), 3.0)
    plan = scheduler()
    made, _ = sample(lambda z, t: prototypes, plan, prototypes, SamplerConfig(20, strength=0.2), generators(1))
    assert torch.allclose(made, prototypes, atol=1e-4)
    near, _ = sample(lambda z, t: z, plan, prototypes, SamplerConfig(20, strength=0.05), generators(1))
    far, _ = sample(lambda z, t: z, plan, prototypes, SamplerConfig(20), generators(1))
    assert (near - prototypes).norm() < (far - prototypes).norm()


@pytest.mark.parametrize(("strength", "steps_left"), [(0.5, 10), (0.775, 15), (0.01, 1)])
def test_start_from_the_prototype_has_the_noise_of_its_first_step(strength, steps_left):
    plan, seen = scheduler(), []
    prototypes = torch.full((1, *SHAPE), 3.0)

    def denoise(z, t):
        seen.append((z, t))
        return z

    sample(denoise, plan, prototypes, SamplerConfig(20, strength=strength), generators(1))
    z, first = seen[0]
    assert len(seen) == steps_left
    assert first == plan.timesteps[-steps_left]
    eps = torch.randn(SHAPE, generator=generators(1)[0])
    assert torch.allclose(z, add_noise(prototypes, eps[None], plan.alphas_cumprod[first].view(1)))


@pytest.mark.parametrize("until", [0.0, 0.8, 1.0])
def test_the_pull_moves_the_latent_before_each_early_step(until):
    """The scheduler of a recorder: it is given the pulled latent with the output of the latent before the pull."""
    plan, before, given = scheduler(), [], []
    prototypes = torch.full((2, *SHAPE), 2.0)

    def denoise(z, t):
        before.append(z)
        return z / 2

    def step(u, t, z, real=plan.step):
        assert torch.equal(u, before[-1] / 2)
        given.append(prototype_guidance(before[-1], u, prototypes, plan.alphas_cumprod[t], 0.7, "sample")[0] - z)
        return real(u, t, z)

    plan.step = step
    sample(denoise, plan, prototypes, SamplerConfig(11, pull=0.7, pull_until=until), generators(2))
    pulled = [bool((off == 0).all()) for off in given]
    assert pulled == [i <= 10 * until for i in range(11)]


def test_the_pull_moves_the_clean_estimate_by_the_stated_amount():
    """Where the network keeps its noise estimate, z0_hat moves by g sqrt(1 - abar) / sqrt(abar) along the way."""
    z, eps, goal = (torch.randn(1, *SHAPE, generator=g) for g in generators(3))
    abar = torch.tensor(0.64)
    before = clean_estimate(z, eps, abar, "epsilon")
    moved, _ = prototype_guidance(z, eps, goal, abar, 0.1, "epsilon")
    after = clean_estimate(moved, eps, abar, "epsilon")
    assert float((goal - before).norm() - (goal - after).norm()) == pytest.approx(0.1 * 0.6 / 0.8, rel=1e-4)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_loss_weighs_by_min_snr(prediction):
    z = torch.randn(3, *SHAPE, generator=generators(1)[0])
    plan, seen = scheduler(prediction), []

    def network(z_t, times):
        seen.append((z_t, times))
        return torch.zeros_like(z_t)

    loss = diffusion_loss(network, z, Objective(plan.alphas_cumprod, prediction), generators(1)[0])
    z_t, times = seen[0]
    abar = plan.alphas_cumprod[times]
    eps = (z_t - abar.sqrt().view(-1, 1, 1, 1) * z) / (1 - abar).sqrt().view(-1, 1, 1, 1)
    errors = target(z, eps, abar, prediction).square().mean((1, 2, 3))
    assert float(loss) == pytest.approx(float((errors * min_snr_weight(abar, prediction)).mean()), rel=1e-3)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_pull_has_the_stated_length_and_direction(prediction):
    z, u, goal = (torch.randn(4, *SHAPE, generator=g) for g in generators(3))
    abar = torch.tensor(0.36)
    moved, fallen = prototype_guidance(z, u, goal, abar, 0.5, prediction)
    away = goal - clean_estimate(z, u, abar, prediction)
    step = moved - z
    assert not fallen.any()
    assert torch.allclose(step.flatten(1).norm(dim=1), torch.full((4,), 0.5 * 0.8), atol=1e-5)
    assert torch.allclose(torch.cosine_similarity(step.flatten(1), away.flatten(1)), torch.ones(4), atol=1e-5)


def test_a_pull_that_is_not_finite_falls_back_and_is_counted():
    z, goal = torch.zeros(2, *SHAPE), torch.ones(2, *SHAPE)
    u = torch.stack([torch.ones(SHAPE), torch.zeros(SHAPE)])  # the first is at its goal: 0 / 0
    moved, fallen = prototype_guidance(z, u, goal, torch.tensor(0.5), 1.0, "sample")
    assert fallen.tolist() == [True, False]
    assert torch.equal(moved[0], z[0])
    assert not torch.equal(moved[1], z[1])


def test_an_image_does_not_depend_on_its_batch():
    def denoise(z, t):
        return torch.tanh(z)

    prototypes = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0))
    how = SamplerConfig(5, pull=1.0)
    together, _ = sample(denoise, scheduler(), prototypes, how, generators(4))
    alone, _ = sample(denoise, scheduler(), prototypes[2:3], how, generators(4)[2:3])
    assert torch.equal(together[2], alone[0])


def test_guidance_extrapolates_from_the_empty_prompt():
    def network(z, t, words):
        return z * 0 + words.view(-1, 1, 1, 1)

    z = torch.zeros(2, *SHAPE)
    words, empty = torch.tensor([2.0, 3.0]), torch.tensor([1.0, 1.0])
    u = guided_denoiser(network, words, empty, lambda t: 4.0)(z, torch.tensor(1))
    assert u[:, 0, 0, 0].tolist() == [5.0, 9.0]
    assert guided_denoiser(network, words, empty, lambda t: 1.0)(z, torch.tensor(1))[:, 0, 0, 0].tolist() == [2.0, 3.0]


def test_guidance_may_depend_on_time():
    def network(z, t, words):
        return z * 0 + words.view(-1, 1, 1, 1)

    z, words, empty = torch.zeros(1, *SHAPE), torch.tensor([2.0]), torch.tensor([1.0])
    outputs = guided_and_conditional(network, words, empty, lambda t: 4.0 if t > 5 else 1.0)
    assert [float(outputs(z, torch.tensor(t))[0][0, 0, 0, 0]) for t in (9, 3)] == [5.0, 2.0]


def test_the_public_code_of_dit_guides_three_channels():
    """Its halves: condition, no class; guided are the first three of the channels, the rest is the condition's."""
    outputs = torch.randn(4, 8, 2, 2, generator=generators(1)[0])
    condition, empty = outputs[:2], outputs[2:]
    network = lambda z, t, rows: torch.cat([empty, condition])  # noqa: E731
    z, rows = torch.zeros(2, 4, 2, 2), torch.zeros(2)
    u, u_c = guided_and_conditional(network, rows, rows, lambda t: 4.0, 3)(z, torch.tensor(1))
    expected = condition.clone()
    expected[:, :3] = empty[:, :3] + 4 * (condition[:, :3] - empty[:, :3])
    assert torch.equal(u, expected)
    assert torch.equal(u_c, condition)
    expected[:, 3] = empty[:, 3] + 4 * (condition[:, 3] - empty[:, 3])
    u, _ = guided_and_conditional(network, rows, rows, lambda t: 4.0)(z, torch.tensor(1))
    assert torch.equal(u, expected)


def test_matched_statistics_are_those_of_the_prototype():
    z, prototypes = (torch.randn(3, 4, 8, 8, generator=g) for g in generators(2))
    matched = match_statistics(0.1 * z + 3, prototypes)
    assert torch.allclose(matched.mean((2, 3)), prototypes.mean((2, 3)), atol=1e-5)
    assert torch.allclose(matched.std((2, 3)), prototypes.std((2, 3)), atol=1e-5)
    assert torch.allclose(match_statistics(prototypes, prototypes), prototypes, atol=1e-5)


@pytest.mark.parametrize("strength", [0.5, 0.6, 0.7, 0.75, 0.8, 0.9])
@pytest.mark.parametrize("cls", [PNDMScheduler, DDIMScheduler])
def test_the_times_are_those_of_image_to_image_in_diffusers(cls, strength):
    times = []

    def denoise(z, t):
        times.append(int(t))
        return torch.zeros_like(z)

    options = {"skip_prk_steps": True} if cls is PNDMScheduler else {"clip_sample": False}
    sample(denoise, cls(**options), torch.zeros(1, *SHAPE), SamplerConfig(50, strength), generators(1))
    theirs = SimpleNamespace(scheduler=cls(**options))
    theirs.scheduler.set_timesteps(50)
    expected, _ = StableDiffusionImg2ImgPipeline.get_timesteps(theirs, 50, strength, "cpu")
    assert times == expected.tolist()
