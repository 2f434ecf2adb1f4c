"""Test IGD: its guidances, its steps and its rounds, against slow versions and known answers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from small_models import write_dit, write_stable_diffusion
from small_networks import batch_of, randn

from ddbench.config import build
from ddbench.errors import UserError
from ddbench.methods import igd
from ddbench.methods.igd import IGD, influence_gradient, nearest_cosine_gradient
from ddbench.methods.latent_diffusion.model import load_model
from ddbench.methods.latent_diffusion.stages import Stages
from ddbench.methods.plain_diffusion import Diffusion
from ddbench.methods.shared.surrogates import RANGE, Surrogate, flat_weights
from evaluators.students import build as build_student

CPU = torch.device("cpu")
SHORT = {"steps": 5, "batch": 4, "surrogate_epochs": 1, "choice_images": 2, "target_images": 3}


@pytest.fixture
def surrogate(tmp_path, monkeypatch):
    """Random weights of a convnet of 32 px at two snapshots, and random targets of three classes.

    In float64: in float32, rounding turns ReLUs, and the gradient jumps.
    """
    networks = [build_student("convnet", 32, 3, seed, normalisation=RANGE) for seed in (0, 1)]
    weights = torch.stack([flat_weights(network) for network in networks]).double()
    targets = randn(3, *weights.shape, seed=5).double()
    monkeypatch.setattr(Surrogate, "targets", lambda self, labels: targets[labels].to(self.weights))
    return Surrogate(networks[0].double().requires_grad_(False), weights, tmp_path)


def slow_loss(surrogate, model, x0_hat, label):
    """L of one clean latent (c, h, w), with a graph to it; the networks are called on pixels in [-1, 1]."""
    pixels = model.vae.decode(x0_hat[None] / model.vae.config.scaling_factor).sample
    losses = []
    for theta, g in zip(surrogate.weights, surrogate.targets([label])[0], strict=True):
        net = build_student("convnet", 32, 3, 0).to(theta.dtype)
        torch.nn.utils.vector_to_parameters(theta, net.parameters())
        loss = F.cross_entropy(net.head(net.body(pixels)), torch.tensor([label]))
        gradients = torch.autograd.grad(loss, list(net.parameters()), create_graph=True)
        own = torch.cat([part.flatten() for part in gradients])
        losses.append(1 - own @ g / (own.norm() * g.norm() + 1e-6))
    return torch.stack(losses).mean()


def slow_move(gradient, eps, abar, k):
    """k rho_t dL/dx_t of one image."""
    size = lambda x: x.square().mean().sqrt()  # noqa: E731
    return k * 0.0015 * size(eps) / size(gradient) * (1 - abar).sqrt() * gradient


def nearest_cosine(x_t, finished):
    """The largest cosine of one latent with finished ones (m, c, h, w)."""
    return torch.stack([F.cosine_similarity(x_t.flatten(), z.flatten(), 0) for z in finished]).max()


def test_the_nearest_latents_cosine_has_this_gradient():
    x, m = randn(3, 4, 8, 8).requires_grad_(), randn(3, 5, 4, 8, 8, seed=1)
    sum(nearest_cosine(*pair) for pair in zip(x, m, strict=True)).backward()
    torch.testing.assert_close(nearest_cosine_gradient(x.detach(), m), x.grad)


def test_away_from_one_latent_is_along_the_other():
    """A known answer: from the middle of two orthogonal latents, the step leads away from the one in memory."""
    a, b = torch.zeros(2, 1, 1, 1, 2), torch.zeros(1)
    a[0, ..., 0], a[1, ..., 1] = 1, 1
    gradient = nearest_cosine_gradient((a[0] + a[1]).view(1, 1, 1, 2), a[:1].view(1, 1, 1, 1, 2))
    torch.testing.assert_close(gradient.flatten(), torch.tensor([1.0, -1.0]) / 8**0.5)
    assert float(nearest_cosine_gradient(a[0], 3 * a[0][None]).norm()) == b


def test_the_influence_gradient_is_that_of_a_plain_loop(stages, surrogate):
    """Through decoder and surrogate, of images of a batch that holds a class twice."""
    stages.model.vae.double()
    z = randn(3, 4, 8, 8).double()
    batch = batch_of(z, stages.model, labels=[2, 0, 2], targets=surrogate)
    gradients = influence_gradient(batch)(z)
    for i, label in enumerate((2, 0, 2)):
        x0_hat = z[i].clone().requires_grad_()
        (expected,) = torch.autograd.grad(slow_loss(surrogate, stages.model, x0_hat, label), x0_hat)
        torch.testing.assert_close(gradients[i], expected)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("backprop", ["denoiser", "decoder"])
def test_a_step_moves_against_both_gradients(stages, surrogate, prediction, backprop):
    """With a denoiser of one convolution; with backprop=decoder, eps is constant."""
    stages.model.vae.double()
    scheduler, z = stages.model.make_scheduler("base"), randn(2, 4, 8, 8).double()
    scheduler.register_to_config(prediction_type=prediction)
    scheduler.set_timesteps(10)
    finished, w = randn(2, 3, 4, 8, 8, seed=2).double(), 0.3 * randn(4, 4, 3, 3, seed=3).double()
    outputs = lambda z, t: (F.conv2d(z, w, padding=1), None)  # noqa: E731
    batch = batch_of(z, stages.model, labels=[2, 0], finished=finished, targets=surrogate)
    method = IGD(influence=7.0, deviation=3.0, backprop=backprop, memory=2, steps=10)
    denoise, shift = method._guided_denoiser(outputs, batch, scheduler)
    denoise(z, scheduler.timesteps[0])
    t, following = scheduler.timesteps[1:3]
    assert not shift(0, t, following).any()  # the first step is not guided
    with torch.no_grad():
        assert torch.equal(denoise(z, t), outputs(z, t)[0])
    shifts, abar = shift(1, t, following), scheduler.alphas_cumprod[t].double()
    assert not shift(1, t, None).any()
    for i, label in enumerate((2, 0)):
        x_t = z[i].clone().requires_grad_()
        u = outputs(x_t[None], t)[0][0]
        x0_hat = {"epsilon": (x_t - (1 - abar).sqrt() * u) / abar.sqrt(), "sample": u,
                  "v_prediction": abar.sqrt() * x_t - (1 - abar).sqrt() * u}[prediction]  # fmt: skip
        eps = ((x_t - abar.sqrt() * x0_hat) / (1 - abar).sqrt()).detach()
        if backprop == "decoder":
            x0_hat = (x_t - (1 - abar).sqrt() * eps) / abar.sqrt()
        (G,) = torch.autograd.grad(slow_loss(surrogate, stages.model, x0_hat, label), x_t, retain_graph=True)
        (away,) = torch.autograd.grad(nearest_cosine(x_t, finished[i, -2:]), x_t)
        expected = -slow_move(G, eps, abar, 7.0) - 3.0 * away
        torch.testing.assert_close(shifts[i], expected)


@pytest.mark.parametrize(("steps", "expected"), [(50, range(4, 20)), (100, range(8, 40)), (12, range(1, 5))])
def test_the_guided_steps(stages, steps, expected):
    """The public code guides 45 to 30 of 50 steps, counted down from 49; other numbers have the same shares."""
    scheduler, z = stages.model.make_scheduler("base"), randn(1, 4, 8, 8)
    scheduler.set_timesteps(steps)
    batch = batch_of(z, finished=randn(1, 2, 4, 8, 8, seed=1))
    denoise, shift = IGD(influence=0.0, steps=steps)._guided_denoiser(lambda z, t: (z, z), batch, scheduler)
    is_guided = []
    for i, t in enumerate(scheduler.timesteps):
        denoise(z, t)
        is_guided.append(bool(shift(i, t, scheduler.timesteps[i + 1] if i + 1 < steps else None).any()))
    assert [i for i, guided in enumerate(is_guided) if guided] == list(expected)


def test_without_either_guidance_it_is_diffusion_to_the_bit(pipeline, few_scenes, context_of, tmp_path):
    numbers = tmp_path / "classes.toml"
    numbers.write_text("\n".join(f"{name} = {i}" for i, name in enumerate(few_scenes.classes)))
    of_dit = {"base": str(write_dit(tmp_path / "dit")), "base_classes": str(numbers)}
    one_alone = ((500.0, 0.0), (0.0, 500.0))
    for settings, weights in (({"base": str(pipeline)}, ((0.0, 0.0), *one_alone)), (of_dit, ((0.0, 0.0),))):
        plain = Diffusion(weights="none", guidance=4.0, steps=5, batch=4, **settings)
        images = plain.distill(few_scenes, 2, context_of()).images
        for k, gamma in weights:
            ctx = context_of()
            guided = IGD(influence=k, deviation=gamma, **settings, **SHORT).distill(few_scenes, 2, ctx).images
            assert torch.equal(guided, images) == (k == gamma == 0)
            assert ("surrogate" in {cost["stage"] for cost in ctx.costs}) == (k > 0)  # trained only if it is used
            if not k:
                assert torch.equal(guided[::2], images[::2])  # the first of a class has no other to deviate from


def test_images_are_those_of_a_slow_loop_over_classes_and_images(stages):
    """One image after the other, with one graph from x_t through denoiser, decoder and surrogate; DDIM."""
    model, ctx, ipc = stages.model, stages.ctx, 2
    method = IGD(guidance=1.0, influence=200.0, deviation=20.0, **SHORT | {"batch": 2, "similarity": 1.1})
    starts = method._start_latents(stages, stages.latents(), ipc)
    sampled, _ = method.sample_latents(model, starts, ctx)
    conditions = model.encode_prompts(starts.prompts.texts, range(3))
    assert len(starts.targets.weights) == 2
    for label in range(3):
        finished = []
        for j in range(ipc):
            scheduler = model.make_scheduler("base")
            scheduler.set_timesteps(5)
            x_t = torch.randn(1, 4, 8, 8, generator=ctx.generator("sample", label * ipc + j))
            for i, t in enumerate(scheduler.timesteps):
                x_t = x_t.detach().requires_grad_()
                eps = model.denoise(x_t, t, conditions[label : label + 1])
                abar = scheduler.alphas_cumprod[t]
                x0_hat = (x_t - (1 - abar).sqrt() * eps) / abar.sqrt()
                step = scheduler.step(eps.detach(), t, x_t.detach()).prev_sample
                if i == 1:
                    loss = slow_loss(starts.targets, model, x0_hat[0], label)
                    step = step - slow_move(torch.autograd.grad(loss, x_t)[0], eps.detach(), abar, 200.0)
                    if finished:
                        step = step - 20.0 * torch.autograd.grad(nearest_cosine(x_t[0], finished), x_t)[0]
                x_t = step
            torch.testing.assert_close(sampled[label * ipc + j], x_t[0].detach(), rtol=5e-3, atol=5e-3)
            finished.append(x_t[0].detach())


def test_images_do_not_depend_on_the_batch(stages, surrogate):
    surrogate.network.float()
    starts = IGD(influence=0.0)._start_latents(stages, stages.latents(), 2)
    starts = replace(starts, targets=replace(surrogate, weights=surrogate.weights.float()))
    method = IGD(influence=50.0, **SHORT)
    z, alone = (replace(method, batch=n).sample_latents(stages.model, starts, stages.ctx)[0] for n in (3, 1))
    torch.testing.assert_close(z, alone, rtol=1e-3, atol=5e-3)
    unguided = replace(method, influence=0.0, deviation=0.0).sample_latents(stages.model, starts, stages.ctx)[0]
    assert float((z - unguided).abs().mean()) > 0.05


@pytest.mark.slow
def test_the_influence_loss_falls_on_the_embedded_base(few_scenes, context_of, monkeypatch):
    """The loss of every guided step after the first shift, mean over the classes, against no guidance."""
    stages, losses = Stages(load_model("tiny", CPU), few_scenes, context_of(), 8), []
    fast = {"weights": "none", "surrogate_epochs": 1, "choice_images": 2, "similarity": -1.0, "guidance": 1.0}
    method = replace(build(IGD, "tiny"), **fast, steps=5, guided_until=1.0)
    starts = method._start_latents(stages, stages.latents(), 1)
    original = igd.cosine
    monkeypatch.setattr(igd, "cosine", lambda *a: losses.append(1 - (cos := original(*a)).detach()) or cos)

    def sample(k):
        """The losses by guided step (4, 3 classes)."""
        losses.clear()
        replace(method, influence=k, deviation=0.0).sample_latents(stages.model, starts, context_of())
        return torch.stack(losses)

    plain, guided = sample(1e-9), sample(50.0)
    assert plain.shape == (4, 3)
    torch.testing.assert_close(guided[0], plain[0])
    falls = (plain - guided).mean(1)
    assert (falls[1:] > 0.005).all()
    assert falls[3] > 0.02


def test_a_classes_images_move_apart_on_the_embedded_base(few_scenes, context_of, monkeypatch):
    """The largest cosine with a finished image in every guided step after the first shift, against no guidance."""
    stages, cosines = Stages(load_model("tiny", CPU), few_scenes, context_of(), 8), []
    fast = {"weights": "none", "influence": 0.0, "guidance": 1.0, "steps": 5, "guided_until": 1.0}
    method = replace(build(IGD, "tiny"), **fast)
    starts = method._start_latents(stages, stages.latents(), 2)
    original = igd.nearest_cosine_gradient

    def gradient(x, m):
        cosines.append(F.cosine_similarity(x.flatten(1), m[:, 0].flatten(1)))
        return original(x, m)

    monkeypatch.setattr(igd, "nearest_cosine_gradient", gradient)

    def sample(gamma):
        """The cosines by guided step (4, 3 classes)."""
        cosines.clear()
        replace(method, deviation=gamma).sample_latents(stages.model, starts, context_of())
        return torch.stack(cosines)

    plain, guided = sample(1e-9), sample(20.0)
    assert plain.shape == (4, 3)
    torch.testing.assert_close(guided[0], plain[0])
    assert (guided[1:] < plain[1:] - 0.01).all(), (plain, guided)


def test_a_pipeline_of_stable_diffusions_shape(few_scenes, context_of, tmp_path):
    """PNDM, whose second step repeats the first, 77 tokens, and images resized from 128 px for the surrogate."""
    base = write_stable_diffusion(tmp_path / "sd")
    method = IGD(base=str(base), base_size=128, precision="fp32", **SHORT | {"steps": 3})
    method.distill(few_scenes, 2, context_of()).check(2)


def test_a_dit_that_learned_its_variance(few_scenes, context_of, tmp_path):
    """Both guidances with the settings of the published presets: an image differs from a plain one, at any batch."""
    numbers = tmp_path / "classes.toml"
    numbers.write_text("\n".join(f"{name} = {i}" for i, name in enumerate(few_scenes.classes)))
    published = {"base": str(write_dit(tmp_path / "dit")), "base_classes": str(numbers), "variance": "learned",
                 "scheduler": "DDPMScheduler", "spacing": "linspace", "guidance_channels": 3}  # fmt: skip
    method = IGD(influence=500.0, **published, **SHORT)
    images = method.distill(few_scenes, 2, context_of()).images
    alone = replace(method, batch=1).distill(few_scenes, 2, context_of()).images
    assert (images.int() - alone.int()).abs().max() <= 1  # of rounding
    plain = Diffusion(weights="none", guidance=4.0, steps=5, batch=4, **published)
    assert not (images == plain.distill(few_scenes, 2, context_of()).images).flatten(1).all(1).any()


@pytest.mark.parametrize(
    ("settings", "text"),
    [({"steps": 2}, "none of the 1 before the last lies between guided_from=0.08 and guided_until=0.4"),
     ({"steps": 2, "guided_until": 1.0}, "none of the 1 before the last lies between guided_from=0.08"),
     ({"steps": 5}, "")],
)  # fmt: skip
def test_steps_of_which_none_is_guided_are_reported(settings, text, pipeline, few_scenes, context_of, caplog):
    IGD(base=str(pipeline), influence=0.0, **SHORT | settings).distill(few_scenes, 1, context_of())
    assert (text in caplog.text) if text else ("no step is guided" not in caplog.text)


def test_schedulers_with_latents_of_their_own_take_no_guidance(pipeline, few_scenes, context_of):
    method = IGD(base=str(pipeline), scheduler="UniPCMultistepScheduler", **SHORT)
    with pytest.raises(UserError, match="undoes the guidance: set influence=0 and deviation=0"):
        method.distill(few_scenes, 1, context_of())
    replace(method, influence=0.0, deviation=0.0).distill(few_scenes, 1, context_of()).check(1)


@pytest.mark.parametrize(
    ("settings", "text"),
    [({"influence": -1.0}, "influence"), ({"deviation": -1.0}, "deviation"), ({"memory": 0}, "memory"),
     ({"guided_until": 1.5}, "guided_until"),
     ({"guided_from": 0.4}, "guided_from=0.4 must be below guided_until=0.4"),
     ({"surrogate_rate": 0.0}, "surrogate_rate must be above 0")],
)  # fmt: skip
def test_impossible_settings_are_refused(settings, text):
    with pytest.raises(ValueError, match=text):
        IGD(**settings)
