"""The methods that sample a latent diffusion model: what each adds to plain sampling."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ddbench.methods import vlcp
from ddbench.methods.d4m import D4M
from ddbench.methods.latent_diffusion import training
from ddbench.methods.latent_diffusion.base_method import cluster_centres
from ddbench.methods.latent_diffusion.diffusion import SamplerConfig, clean_estimate, sample
from ddbench.methods.latent_diffusion.model import load_model
from ddbench.methods.latent_diffusion.stages import Stages
from ddbench.methods.mgd3 import MGD3
from ddbench.methods.minimax import ClassMemory, Minimax, minimax_loss
from ddbench.methods.plain_diffusion import Diffusion
from ddbench.methods.vlcp import VLCP
from ddbench.utils.checkpoint import Checkpoint

SHORT = {"tune_steps": 3, "tune_batch": 4, "steps": 3, "batch": 4}


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def stages(pipeline, few_scenes, context_of):
    return Stages(load_model(str(pipeline), torch.device("cpu")), few_scenes, context_of(), 8)


@pytest.mark.parametrize("cls", [Diffusion, D4M, MGD3, Minimax])
def test_same_seed_same_images_whatever_the_batch(cls, pipeline, few_scenes, context_of):
    method = cls(base=str(pipeline), **SHORT)
    made = method.distill(few_scenes, 2, context_of(1))
    made.check(2)
    other = replace(method, batch=6).distill(few_scenes, 2, context_of(1))
    assert (made.images.int() - other.images.int()).abs().max() <= 1
    assert not torch.equal(made.images, method.distill(few_scenes, 2, context_of(2)).images)


def test_their_stages_are_shared(pipeline, few_scenes, context_of):
    Diffusion(base=str(pipeline), **SHORT).distill(few_scenes, 1, context_of())
    ctx = replace(context_of(), method="mgd3@1", costs=[])
    MGD3(base=str(pipeline), weights="lora", **SHORT).distill(few_scenes, 1, ctx)
    assert {cost["stage"]: cost["reused"] for cost in ctx.costs} == {
        "latents": True, "finetune": True, "sampling": False,
    }  # fmt: skip


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_step_is_shifted_towards_the_mode(stages, prediction):
    """From the clean estimate of the worded half, not of the guided output, by the deviation of DDPM's posterior."""
    scheduler, modes, z = stages.model.make_scheduler("base"), randn(1, 4, 8, 8, seed=3), randn(1, 4, 8, 8)
    scheduler.register_to_config(prediction_type=prediction)
    scheduler.set_timesteps(10)
    guided, worded = randn(1, 4, 8, 8, seed=1), randn(1, 4, 8, 8, seed=2)
    denoise, shift = MGD3(steps=10, pull=0.2)._guided_denoiser(lambda z, t: (guided, worded), modes, scheduler)
    t, following = scheduler.timesteps[:2]
    assert torch.equal(denoise(z, t), guided)
    abar, later = scheduler.alphas_cumprod[t], scheduler.alphas_cumprod[following]
    beta = 1 - abar / later  # of a step from one to the other
    expected = 0.2 * (beta * (1 - later) / (1 - abar)).sqrt() * (modes - clean_estimate(z, worded, abar, prediction))
    torch.testing.assert_close(shift(0, t, following), expected, rtol=1e-5, atol=1e-6)


def test_the_mode_is_approached_from_noise_without_a_word(stages):
    """A network that says "as it is": of pure noise the pull alone makes the mode, and nothing blows up."""
    scheduler, modes = stages.model.make_scheduler("base"), 3 * torch.ones(1, 4, 8, 8)
    both = lambda z, t: (torch.zeros_like(z), torch.zeros_like(z))  # noqa: E731
    far = []
    for pull in (0.0, 0.5):
        denoise, shift = MGD3(steps=50, pull=pull, free=0.0)._guided_denoiser(both, modes, scheduler)
        made = sample(denoise, scheduler, modes, SamplerConfig(50), [torch.Generator().manual_seed(0)], shift)[0]
        far.append(float((made * scheduler.alphas_cumprod[0].sqrt() - modes).norm()))
    assert torch.isfinite(torch.tensor(far)).all()
    assert far[1] != far[0]


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
    denoise, shift = MGD3(steps=steps, free=free)._guided_denoiser(both, torch.ones(1, 4, 8, 8), scheduler)
    times, found = scheduler.timesteps, []
    for i, t in enumerate(times):
        denoise(torch.zeros(1, 4, 8, 8), t)
        found.append(bool(shift(i, t, times[i + 1] if i + 1 < steps else None).any()))
    assert found == [True] * pulled + [False] * (steps - pulled)


def test_centres_are_the_means_of_their_clusters(stages):
    latents = stages.latents()
    found = cluster_centres(stages, latents, 2).flatten(1)
    for label in range(3):
        points = latents.means(stages.train.of_class(label)).flatten(1)
        own = found[2 * label : 2 * label + 2]
        owner = torch.cdist(points, own).argmin(1)
        for k in range(2):
            torch.testing.assert_close(own[k], points[owner == k].mean(0), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="7 clusters per class need 7 images per class, but: beach 6"):
        cluster_centres(stages, latents, 7)


def test_d4m_starts_from_the_centres(stages, pipeline, few_scenes, context_of):
    """With hardly any noise on them, its images are the centres'."""
    made = D4M(base=str(pipeline), strength=0.01, scheduler="DDIMScheduler", guidance=1.0, steps=100)
    found = made.distill(few_scenes, 2, context_of())
    decoded = stages.model.decode(cluster_centres(stages, stages.latents(), 2), 8)
    assert (found.images.float() - decoded.float()).abs().mean() < 6


def test_minimax_terms_pair_by_pair():
    """Value and gradient, in float64."""
    drawn, real, own = randn(3, 5), randn(4, 5, seed=1), randn(2, 5, seed=2)
    cosine = lambda a, b: float(F.cosine_similarity(a, b, dim=0))  # noqa: E731
    least = min(cosine(a, b) for a in drawn for b in real)
    most = max(cosine(a, b) for a in drawn for b in own)
    assert float(minimax_loss(drawn, real, own, 0.3, 0.7)) == pytest.approx(0.3 * (1 - least) + 0.7 * most, rel=1e-5)
    assert float(minimax_loss(drawn, real[:0], own[:0], 0.3, 0.7)) == 0
    ours, theirs = drawn.double().requires_grad_(), drawn.double().requires_grad_()
    minimax_loss(ours, real.double(), own.double(), 0.3, 0.7).backward()
    pairs = [[F.cosine_similarity(a, b, dim=0) for a in theirs for b in other.double()] for other in (real, own)]
    (0.3 * (1 - min(pairs[0])) + 0.7 * max(pairs[1])).backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-8)


def test_the_memory_forgets_the_oldest():
    memory = ClassMemory(torch.nn.Module(), "memory", (2, 3, 256), torch.device("cpu"))
    assert len(memory.recall(1)) == 0
    for seed in range(3):
        memory.remember(1, randn(1, 256, seed=seed))
    memory.remember(1, torch.ones(1, 256))
    assert len(memory.recall(0)) == 0
    assert len(memory.recall(1)) == 3
    assert not any(torch.equal(latent, randn(256, seed=0)) for latent in memory.recall(1))


def test_minimax_compares_with_the_memories_and_then_remembers_the_batch(stages):
    network = stages.model.denoiser
    loss = Minimax(memory=3, alike=1.0, unlike=1.0)._extra_loss(stages, stages.latents()).loss
    z, abar, estimates = randn(2, 4, 8, 8), torch.ones(2), randn(2, 4, 8, 8, seed=1)
    first = loss(estimates, abar, torch.tensor([0, -1]), z)
    assert first.tolist() == [0, 0]  # nothing was remembered yet; the empty prompt has no class
    torch.testing.assert_close(network.minimax_real[0, 0], z[0].flatten())
    torch.testing.assert_close(network.minimax_own[0, 0], estimates[0].flatten())
    assert network.minimax_real_count.tolist() == network.minimax_own_count.tolist() == [1, 0, 0]
    clean = randn(2, 4, 8, 8, seed=3).requires_grad_()
    second = loss(clean, abar, torch.tensor([0, 1]), z)
    expected = minimax_loss(clean[:1].flatten(1), z[:1].flatten(1), estimates[:1].flatten(1), 1.0, 1.0) / 2
    torch.testing.assert_close(second, expected.expand(2))  # class 1 has no memory yet
    second.sum().backward()
    assert clean.grad.flatten(1).norm(dim=1).tolist()[1] == 0
    assert clean.grad[0].norm() > 0
    third = loss(clean.detach(), abar, torch.tensor([0, 1]), z)
    assert third[0] == third[1] > second[0]


def test_minimax_goes_on_with_what_it_remembered(pipeline, few_scenes, context_of, tmp_path, monkeypatch):
    method = Minimax(base=str(pipeline), weights="all", alike=1.0, unlike=1.0, memory=4, **SHORT | {"tune_steps": 6})
    whole = method.distill(few_scenes, 1, context_of())
    save = Checkpoint.save

    def save_and_stop(self, tensors, progress):
        save(self, tensors, progress)
        raise KeyboardInterrupt

    every = lambda folder, processes: training.Checkpoints(folder.with_name(f"{folder.name}.checkpoints"), 3, processes)  # noqa: E731
    monkeypatch.setattr("ddbench.methods.latent_diffusion.finetune.checkpoints_beside", every)
    monkeypatch.setattr(Checkpoint, "save", save_and_stop)
    ctx = replace(context_of(), shared=tmp_path / "other")
    with pytest.raises(KeyboardInterrupt):
        method.distill(few_scenes, 1, ctx)
    monkeypatch.setattr(Checkpoint, "save", save)
    assert torch.equal(method.distill(few_scenes, 1, ctx).images, whole.images)


def test_outliers_are_in_no_cluster():
    draw = np.random.default_rng(0)
    points = np.concatenate([draw.normal(0, 0.1, (20, 3)), draw.normal(5, 0.1, (20, 3)), [[40.0, -40.0, 40.0]]])
    found, kept, owner = vlcp.cluster_inliers(points, 2, 0.05, 5)
    assert 40 not in kept
    assert len(owner) == len(kept)
    assert sorted(round(float(c.mean())) for c in found) == [0, 5]
    _, kept, _ = vlcp.cluster_inliers(points, 2, 0.0, 5)
    assert len(kept) == 41


def test_vlcp_says_a_caption_of_the_cluster(pipeline, few_scenes, context_of, monkeypatch):
    told = []
    original = type(load_model(str(pipeline), torch.device("cpu"))).encode_prompts
    monkeypatch.setattr(
        "ddbench.methods.latent_diffusion.model.LatentModel.encode_prompts",
        lambda self, prompts, labels: told.append(list(prompts)) or original(self, prompts, labels),
    )
    made = VLCP(base=str(pipeline), captioner="palette", neighbours=3, **SHORT).distill(few_scenes, 2, context_of())
    made.check(2)
    *said, negative = told[-1]
    assert negative == "cartoon, anime, painting"
    assert all(prompt.startswith("A satellite image of ") and ". " in prompt for prompt in said)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: D4M(strength=0.0), "strength"),
        (lambda: MGD3(pull=-1.0), "pull"),
        (lambda: Minimax(memory=0), "memory"),
        (lambda: VLCP(outliers=0.9), "outliers"),
    ],
)
def test_impossible_settings_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_guidance_acts_in_its_interval_alone(pipeline, few_scenes, context_of):
    """The whole interval is the default; an interval that holds no time leaves the scale of 1."""
    method = Diffusion(base=str(pipeline), guidance=5.0, **SHORT)
    default = method.distill(few_scenes, 1, context_of()).images
    whole = replace(method, guidance_low=0.0, guidance_high=1.0).distill(few_scenes, 1, context_of()).images
    assert torch.equal(default, whole)
    without = replace(method, guidance=1.0).distill(few_scenes, 1, context_of()).images
    empty = replace(method, guidance_low=0.001, guidance_high=0.002).distill(few_scenes, 1, context_of()).images
    assert torch.equal(empty, without)
    assert not torch.equal(default, without)
