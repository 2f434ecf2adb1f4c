"""Test the minimax loss against a slow version, and its memories."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from small_networks import randn

from ddbench.methods.latent_diffusion import training
from ddbench.methods.minimax import ClassMemory, Minimax, minimax_loss
from ddbench.utils.checkpoint import Checkpoint

SHORT = {"tune_steps": 3, "tune_batch": 4, "steps": 3, "batch": 4}


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
    first = loss(estimates[:1], abar, torch.tensor([0]), z[:1])
    assert first.tolist() == [0]  # nothing was remembered yet
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


def test_images_with_the_empty_prompt_are_remembered(pipeline, few_scenes, context_of, monkeypatch):
    """As in the public code, which empties prompts inside the network."""
    labels, loss = [], Minimax._extra_loss

    def record(self, stages, latents):
        term = loss(self, stages, latents)
        return replace(term, loss=lambda z0_hat, abar, of_batch, z: (
            labels.extend(of_batch.tolist()) or term.loss(z0_hat, abar, of_batch, z)
        ))  # fmt: skip

    monkeypatch.setattr(Minimax, "_extra_loss", record)
    Minimax(base=str(pipeline), tune_empty=1.0, **SHORT).distill(few_scenes, 1, context_of())
    assert len(labels) == 3 * 4
    assert set(labels) <= {0, 1, 2}


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


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="memory"):
        Minimax(memory=0)
