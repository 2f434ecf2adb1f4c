"""Test DMGD: its transport, its mixed condition, its steps and its rounds, against slow versions and known answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linprog
from small_models import write_dit, write_stable_diffusion
from small_networks import batch_of, randn

from ddbench.config import build
from ddbench.errors import UserError
from ddbench.methods import dmgd
from ddbench.methods.dmgd import DMGD, class_points, condition_mixer, distances, mix_condition, transport_cost
from ddbench.methods.latent_diffusion.latents import Latents
from ddbench.methods.latent_diffusion.model import load_model
from ddbench.methods.latent_diffusion.stages import Stages
from ddbench.methods.plain_diffusion import Diffusion
from ddbench.types import ImageSet

CPU = torch.device("cpu")
SHORT = {"steps": 4, "batch": 4}
OFF = {"pull": 0.0, "semantic": False}


def test_the_cost_is_that_of_linear_programming():
    """For little entropy and many iterations Sinkhorn's plan is the cheapest that moves 1 / i each to the shares m."""
    C = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    m = torch.rand(3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    m = m / m.sum(1, keepdim=True)
    costs = transport_cost(C, m, 1e-3, 2000)
    rows = np.kron(np.eye(4), np.ones(5))  # of a plan, row after row
    columns = np.kron(np.ones(4), np.eye(5))
    for i in range(3):
        sums = np.concatenate([np.full(4, 0.25), m[i].numpy()])
        best = linprog(C[i].flatten().numpy(), A_eq=np.concatenate([rows, columns]), b_eq=sums)
        assert float(costs[i]) == pytest.approx(best.fun, abs=2e-3)
        assert float(transport_cost(C, m, 0.5, 2000)[i]) > best.fun + 0.01  # entropy spreads the plan


def test_points_of_no_share_do_not_count():
    C, m = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([[0.5, 0.3, 0.2]] * 2)
    padded = torch.cat([m, torch.zeros(2, 1)], 1)
    torch.testing.assert_close(transport_cost(C, padded, 0.1, 5), transport_cost(C[..., :3], m, 0.1, 5))


def test_beside_one_finished_latent_the_next_image_is_pulled_to_the_other_point():
    k, m = randn(1, 2, 64), torch.tensor([[0.5, 0.5]])
    x0_hat = (k[:, :1] + k[:, 1:]).clone().requires_grad_()  # as near to one as to the other
    C = torch.cat([distances(k[:, :1], k), distances(x0_hat, k)], 1)
    (gradient,) = torch.autograd.grad(transport_cost(C, m, 0.1, 5).sum(), x0_hat)
    moved = x0_hat.detach() - 20 * gradient
    near, far = (float(F.cosine_similarity(moved[0, 0], k[0, j], 0)) for j in (1, 0))
    assert near > far + 0.1
    for _ in range(100):
        moved = moved.requires_grad_()
        C = torch.cat([distances(k[:, :1], k), distances(moved, k)], 1)
        moved = (moved - 5 * torch.autograd.grad(transport_cost(C, m, 0.1, 5).sum(), moved)[0]).detach()
    assert float(F.cosine_similarity(moved[0, 0], k[0, 1], 0)) > 0.99


def test_points_are_centres_and_shares_of_clusters():
    mean = torch.cat([torch.full((6, 1, 2, 2), value) for value in (0.0, 8.0)]) + 0.1 * randn(12, 1, 2, 2)
    mean[:2] += 16.0
    train = ImageSet(
        torch.zeros(12, 3, 4, 4, dtype=torch.uint8), torch.tensor([0] * 10 + [1] * 2), ("a", "b"), ("a", "b")
    )
    latents = Latents(mean, torch.zeros_like(mean), train.labels, 2.0)
    k, m = class_points(train, latents, 3)
    order = k[0, :, 0].argsort()
    torch.testing.assert_close(m[0][order], torch.tensor([0.4, 0.4, 0.2]))
    torch.testing.assert_close(k[0][order][2], 2 * mean[:2].flatten(1).mean(0))
    assert m[1].tolist() == [0.5, 0.5, 0.0]  # a class of two images has two points


def test_the_mixed_condition_has_the_mean_and_deviation_of_the_condition():
    y, u, other = (5 * randn(2, 7, 16, seed=i) + i for i in range(3))
    for lam in (0.0, 0.3, 1.0):
        mixed = mix_condition(y, u, other, (lam, 0.06, 0.01))
        torch.testing.assert_close(mixed.mean(2), y.mean(2), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(mixed.std(2), y.std(2), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mixed, y)
    correlation = F.cosine_similarity(mix_condition(y, u, other, (0.0, 1.0, 0.0)) - y.mean(2, keepdim=True),
                                      u - u.mean(2, keepdim=True), dim=2)  # fmt: skip
    torch.testing.assert_close(correlation, torch.ones(2, 7))


@pytest.fixture
def dit(tmp_path):
    return load_model(str(write_dit(tmp_path / "dit")), CPU)


def test_a_class_is_what_its_vectors_are(dit):
    """A DiT under its labels, and under the vectors that it has for them, of blocks that differ."""
    torch.nn.init.normal_(dit.denoiser.transformer_blocks[1].norm1.emb.class_embedder.embedding_table.weight)
    z, labels = randn(3, 4, 8, 8), torch.tensor([2, 0, 4])
    vectors = dit.embed(labels)
    assert vectors.shape == (3, 2, 16)
    by_label = dit.denoise(z, torch.tensor(7), labels, variance=True)
    assert torch.equal(dit.denoise(z, torch.tensor(7), vectors, variance=True), by_label)
    assert not torch.equal(dit.denoise(z, torch.tensor(7), vectors.flip(0), variance=True), by_label)


@pytest.mark.parametrize("share", [0.95, 0.9, 0.7, 0.5, 0.2])
def test_the_condition_is_noise_at_first_and_itself_at_last(share, stages):
    """lambda is 0 from noise_high on and 1 up to noise_low; y' counts below noise_high. Both halves are mixed."""
    scheduler, z, seen = stages.model.make_scheduler("base"), randn(2, 4, 8, 8), []
    conditions = stages.model.encode_prompts(["a lake", "a road", ""], [0, 1, -1])
    batch = batch_of(z, stages.model, conditions=conditions)
    outputs = lambda z, t, *mixed: (seen.append(mixed) or z, z)  # noqa: E731
    method = DMGD(pull=0.0, label_weight=0.05)
    method._guided_denoiser(outputs, batch, scheduler)[0](z, torch.tensor(int(1000 * share)))
    if share <= 0.5:
        assert seen == [()]
        return
    lam = min((0.9 - share) / 0.4, 1.0) if share < 0.9 else 0.0
    label = 0.05 if share <= 0.9 else 0.0
    drawn = []
    for g in batch.generators("semantic"):
        torch.randint(1, 2, (), generator=g)
        drawn.append(torch.rand(2, *conditions.shape[1:], generator=g))
    for half, y in enumerate((batch.condition, batch.negative)):
        u = torch.stack(drawn)[:, half] * y.std(2, keepdim=True) / 0.02
        mixed = np.sqrt(lam) * y + np.sqrt(1 - lam) * (0.06 * u + label * conditions[[1, 0]])
        standard = (mixed - mixed.mean(2, keepdim=True)) / mixed.std(2, keepdim=True)
        expected = standard * y.std(2, keepdim=True) + y.mean(2, keepdim=True)
        torch.testing.assert_close(seen[0][half], expected, rtol=1e-4, atol=1e-5)


def test_all_blocks_of_a_dit_have_one_noise_and_its_size_is_the_papers(dit):
    conditions = dit.encode_prompts(["", "", ""], [0, 1, -1])
    batch = batch_of(randn(2, 4, 8, 8), dit, conditions=conditions)
    vectors = condition_mixer(batch, 0.06, 0.01)(0.0, False)
    assert [v.shape for v in vectors] == [(2, 2, 16)] * 2
    standard = [(v - v.mean(2, keepdim=True)) / v.std(2, keepdim=True) for v in vectors]
    for v in standard:
        torch.testing.assert_close(v[:, 0], v[:, 1], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(standard[0], standard[1], atol=0.1)


def slow_loss(x0_hat, finished, k, m, epsilon=0.1, iterations=5):
    """Return the transport cost of one image (d,) by plain Sinkhorn; finished (i, d), k (K, d), m (K,)."""
    own = torch.stack([*finished, x0_hat])
    own, points = own / own.norm(dim=1, keepdim=True), k / k.norm(dim=1, keepdim=True)
    C = torch.stack([torch.stack([(a - b).norm() for b in points]) for a in own])
    P = torch.exp(-C / epsilon)
    for _ in range(iterations):
        P = P * (1 / len(own) / P.sum(1, keepdim=True))
        P = P * (m / P.sum(0, keepdim=True))
    return (P * C).sum()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("pull_sigma", ["deviation", "variance"])
def test_a_step_is_shifted_against_the_gradient_with_the_noise_constant(stages, prediction, pull_sigma):
    scheduler, z = stages.model.make_scheduler("base"), randn(2, 4, 8, 8)
    scheduler.register_to_config(prediction_type=prediction)
    scheduler.set_timesteps(10)
    u, finished = randn(2, 4, 8, 8, seed=1), randn(2, 3, 4, 8, 8, seed=2)
    k, m = randn(3, 5, 256, seed=3), torch.rand(3, 5, generator=torch.Generator().manual_seed(0))
    batch = batch_of(z, labels=[2, 0], finished=finished, targets=(k, m))
    method = DMGD(semantic=False, pull=0.3, pull_sigma=pull_sigma, steps=10)
    denoise, shift = method._guided_denoiser(lambda z, t: (u, None), batch, scheduler)
    t, following = scheduler.timesteps[1:3]
    assert torch.equal(denoise(z, t), u)
    shifts = shift(1, t, following)
    abar, later = scheduler.alphas_cumprod[t], scheduler.alphas_cumprod[following]
    eps = {"epsilon": u, "v_prediction": abar.sqrt() * u + (1 - abar).sqrt() * z,
           "sample": (z - abar.sqrt() * u) / (1 - abar).sqrt()}[prediction]  # fmt: skip
    variance = (1 - later) / (1 - abar) * (1 - abar / later)
    sigma = variance.sqrt() if pull_sigma == "deviation" else variance
    for i, label in enumerate((2, 0)):
        x_t = z[i].clone().requires_grad_()
        x0_hat = (x_t - (1 - abar).sqrt() * eps[i]) / abar.sqrt()
        slow_loss(x0_hat.flatten(), finished[i].flatten(1), k[label], m[label]).backward()
        torch.testing.assert_close(shifts[i], -0.3 * sigma * x_t.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("steps", "expected"), [(50, range(4, 20)), (100, range(8, 40)), (12, range(1, 5))])
def test_the_guided_steps(stages, steps, expected):
    """The public code guides 45 to 30 of 50 steps, counted down from 49; other numbers have the same shares."""
    scheduler, z = stages.model.make_scheduler("base"), randn(1, 4, 8, 8)
    scheduler.set_timesteps(steps)
    batch = batch_of(z, targets=(randn(1, 2, 256, seed=1), torch.ones(1, 2) / 2))
    denoise, shift = DMGD(semantic=False, steps=steps)._guided_denoiser(lambda z, t: (z, z), batch, scheduler)
    is_guided = []
    for i, t in enumerate(scheduler.timesteps):
        denoise(z, t)
        is_guided.append(bool(shift(i, t, scheduler.timesteps[i + 1] if i + 1 < steps else None).any()))
    assert [i for i, guided in enumerate(is_guided) if guided] == list(expected)


def test_without_either_matching_it_is_diffusion_to_the_bit(pipeline, few_scenes, context_of, tmp_path):
    numbers = tmp_path / "classes.toml"
    numbers.write_text("\n".join(f"{name} = {i}" for i, name in enumerate(few_scenes.classes)))
    of_dit = {"base": str(write_dit(tmp_path / "dit")), "base_classes": str(numbers)}
    for settings in ({"base": str(pipeline)}, of_dit):
        plain = Diffusion(weights="none", guidance=4.0, **settings, **SHORT).distill(few_scenes, 2, context_of()).images
        method = DMGD(**settings, **SHORT)
        assert torch.equal(replace(method, **OFF).distill(few_scenes, 2, context_of()).images, plain)
        for on in ({"pull": 50.0, "semantic": False}, {"pull": 0.0}):
            assert not torch.equal(replace(method, **on).distill(few_scenes, 2, context_of()).images, plain)


def test_images_are_those_of_a_slow_loop_over_classes_and_images(stages):
    """One image after the other, with plain Sinkhorn and gradients through x_t; DDIM."""
    model, ctx, latents, ipc = stages.model, stages.ctx, stages.latents(), 3
    method = DMGD(semantic=False, pull=20.0, guidance=1.0, steps=8, points=3, batch=2)
    starts = method._start_latents(stages, latents, ipc)
    found, _ = method.sample_latents(model, starts, ctx)
    k, m = class_points(stages.train, latents, 3)
    conditions = model.encode_prompts(starts.prompts.texts, range(3))
    for label in range(3):
        finished = []
        for j in range(ipc):
            image = label * ipc + j
            scheduler = model.make_scheduler("base")
            scheduler.set_timesteps(8)
            x_t = torch.randn(1, 4, 8, 8, generator=ctx.generator("sample", image))
            for i, t in enumerate(scheduler.timesteps):
                with torch.no_grad():
                    eps = model.denoise(x_t, t, conditions[label : label + 1])
                step = scheduler.step(eps, t, x_t).prev_sample
                if 1 <= i <= 3:
                    abar, later = (scheduler.alphas_cumprod[s] for s in (t, scheduler.timesteps[i + 1]))
                    x_t = x_t.clone().requires_grad_()
                    x0_hat = (x_t - (1 - abar).sqrt() * eps) / abar.sqrt()
                    slow_loss(x0_hat.flatten(), finished, k[label], m[label]).backward()
                    sigma = ((1 - later) / (1 - abar) * (1 - abar / later)).sqrt()
                    step = step - 20.0 * sigma * x_t.grad
                x_t = step.detach()
            torch.testing.assert_close(found[image], x_t[0], rtol=2e-3, atol=2e-3)
            finished.append(x_t.flatten())


@pytest.mark.parametrize("base", ["stable-diffusion", "dit"])
def test_images_depend_on_the_seed_and_on_no_batch(base, few_scenes, context_of, tmp_path):
    """With both parts; a DiT with the settings of the published presets."""
    numbers = tmp_path / "classes.toml"
    numbers.write_text("\n".join(f"{name} = {i}" for i, name in enumerate(few_scenes.classes)))
    dit = {"variance": "learned", "scheduler": "DDPMScheduler", "spacing": "linspace", "guidance_channels": 3}
    more = dit | {"base_classes": str(numbers)} if base == "dit" else {"base_size": 64}
    write = {"stable-diffusion": write_stable_diffusion, "dit": write_dit}[base]
    method = DMGD(base=str(write(tmp_path / base)), pull=5.0, points=3, precision="fp32", **SHORT, **more)
    images = method.distill(few_scenes, 2, context_of()).images
    alone = replace(method, batch=1).distill(few_scenes, 2, context_of()).images
    assert (images.int() - alone.int()).abs().max() <= 1  # of rounding
    assert not torch.equal(method.distill(few_scenes, 2, context_of(1)).images, images)


@pytest.mark.slow
def test_the_transport_gets_cheaper_on_the_embedded_base(few_scenes, context_of, monkeypatch):
    """The guided loss after each of the four guided steps, and the cost of the finished images, against no guidance."""
    stages, ipc, losses = Stages(load_model("tiny", CPU), few_scenes, context_of(), 8), 2, []
    method = replace(build(DMGD, "tiny"), weights="none", semantic=False, points=3)
    starts = method._start_latents(stages, stages.latents(), ipc)
    original = dmgd.transport_cost
    monkeypatch.setattr(dmgd, "transport_cost", lambda *a: losses.append((loss := original(*a)).detach()) or loss)

    def sample(pull):
        """Costs of the finished images of each class (3,), and the guided losses by round and step (2, 4, 3)."""
        losses.clear()
        z, _ = replace(method, pull=pull).sample_latents(stages.model, starts, context_of())
        k, m = starts.targets
        of_sets = original(distances(z.flatten(1).unflatten(0, (3, ipc)), k), m, 0.1, 100)
        return of_sets, torch.stack(losses).unflatten(0, (ipc, 4))

    (plain, plain_losses), (guided, guided_losses) = sample(1e-9), sample(5.0)
    assert (guided < plain - 0.02).all()
    torch.testing.assert_close(guided_losses[0, 0], plain_losses[0, 0])  # before the first shift
    assert (guided_losses[:, 1:] < plain_losses[:, 1:]).all()


def test_a_pipeline_of_stable_diffusions_shape(few_scenes, context_of, tmp_path):
    """PNDM, whose second step repeats the first, and 77 tokens."""
    base = write_stable_diffusion(tmp_path / "sd")
    method = DMGD(base=str(base), base_size=128, steps=5, points=3, precision="fp32")
    method.distill(few_scenes, 2, context_of()).check(2)


def test_schedulers_with_latents_of_their_own_take_semantic_matching_alone(pipeline, few_scenes, context_of):
    method = DMGD(base=str(pipeline), scheduler="UniPCMultistepScheduler", **SHORT)
    with pytest.raises(UserError, match="keeps its own latents, which undoes the guidance: set pull=0"):
        method.distill(few_scenes, 1, context_of())
    replace(method, pull=0.0).distill(few_scenes, 1, context_of()).check(1)


@pytest.mark.parametrize(
    ("settings", "text"),
    [({"pull": -1.0}, "pull"), ({"epsilon": 0.0}, "epsilon"), ({"noise_weight": 0.0}, "noise_weight"),
     ({"points": 0}, "points"), ({"pull_from": 0.5}, "pull_from=0.5 must be below pull_until=0.4"),
     ({"noise_low": 0.9}, "noise_low=0.9 must be below noise_high=0.9")],
)  # fmt: skip
def test_impossible_settings_are_refused(settings, text):
    with pytest.raises(ValueError, match=text):
        DMGD(**settings)
