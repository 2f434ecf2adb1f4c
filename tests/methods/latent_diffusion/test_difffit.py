"""Test DiffFit: the weights that are trained, the new scales, that a stage is read again."""

from __future__ import annotations

import pytest
import torch
from small_models import write_dit
from small_networks import randn

from ddbench.methods.latent_diffusion.difffit import unfreeze_difffit
from ddbench.methods.latent_diffusion.model import load_model
from ddbench.methods.minimax import Minimax

CPU = torch.device("cpu")


@pytest.fixture
def dit(tmp_path):
    return write_dit(tmp_path / "dit")


def output(denoiser, z):
    with torch.no_grad():
        return denoiser(z, torch.tensor([500, 20]), class_labels=torch.tensor([1, 3])).sample


def test_it_begins_at_the_base_and_trains_biases_tables_and_scales(dit):
    denoiser, z = load_model(str(dit), CPU).denoiser, randn(2, 4, 8, 8)
    before = output(denoiser, z)
    unfreeze_difffit(denoiser)
    assert torch.equal(output(denoiser, z), before)
    trained = {name for name, p in denoiser.named_parameters() if p.requires_grad}
    frozen = {name for name, p in denoiser.named_parameters() if not p.requires_grad}
    parts = ("to_q", "to_k", "to_v", "to_out.0")
    scales = {f"transformer_blocks.0.attn1.{part}.gamma" for part in parts}
    scales |= {"transformer_blocks.0.attn1.gamma", "transformer_blocks.0.ff.gamma"}
    assert {name for name in trained if name.endswith("gamma")} == scales  # the first of two blocks
    assert any("class_embedder" in name for name in trained)
    assert all(name.endswith((".gamma", ".bias", "embedding_table.weight")) for name in trained)
    assert frozen
    assert all(name.endswith("weight") for name in frozen)


def test_scales_multiply_outputs(dit):
    """Against weights that were multiplied by hand, which is the same for a linear layer."""
    ours, theirs, z = load_model(str(dit), CPU).denoiser, load_model(str(dit), CPU).denoiser, randn(2, 4, 8, 8)
    unfreeze_difffit(ours)
    draws = {name: 1 + 0.5 * randn(16, seed=i) for i, name in enumerate(("to_q", "to_v", "to_out.0", "", "ff"))}
    with torch.no_grad():
        for name, scale in draws.items():
            part = ours.transformer_blocks[0].get_submodule(name if name == "ff" else f"attn1.{name}".rstrip("."))
            part.gamma.copy_(scale)
        draws["to_out.0"] = draws["to_out.0"] * draws.pop("")  # the attention's output is its projection's
        for name, scale in draws.items():
            layer = theirs.transformer_blocks[0].get_submodule("ff.net.2" if name == "ff" else f"attn1.{name}")
            layer.weight.mul_(scale[:, None])
            layer.bias.mul_(scale)
    torch.testing.assert_close(output(ours, z), output(theirs, z), rtol=1e-4, atol=1e-5)


def test_equal_embeddings_of_the_blocks_become_one_as_in_the_public_dit(dit):
    denoiser, z = load_model(str(dit), CPU).denoiser, randn(2, 4, 8, 8)
    first, second = (block.norm1.emb for block in denoiser.transformer_blocks)
    second.load_state_dict(first.state_dict())
    before = output(denoiser, z)
    unfreeze_difffit(denoiser)
    assert denoiser.transformer_blocks[1].norm1.emb is first
    assert torch.equal(output(denoiser, z), before)
    other = load_model(str(dit), CPU).denoiser  # whose blocks differ
    unfreeze_difffit(other)
    assert other.transformer_blocks[1].norm1.emb is not other.transformer_blocks[0].norm1.emb


def test_minimax_by_difffit_reads_its_stage_again(dit, few_scenes, context_of):
    method = Minimax(base=str(dit), weights="difffit", tune_steps=3, tune_batch=4, tune_mirror=True, steps=3, batch=4)
    tuned = method.distill(few_scenes, 1, context_of())
    ctx = context_of()
    again = method.distill(few_scenes, 1, ctx)
    assert {cost["stage"]: cost["reused"] for cost in ctx.costs}["finetune"]
    assert torch.equal(tuned.images, again.images)
