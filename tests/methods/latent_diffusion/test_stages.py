"""Test that methods share latents and fine-tuned weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from ddbench.methods.latent_diffusion.model import load_model
from ddbench.methods.latent_diffusion.stages import Stages
from ddbench.methods.mgd3 import MGD3
from ddbench.methods.plain_diffusion import Diffusion
from ddbench.utils.images import turn

SHORT = {"tune_steps": 3, "tune_batch": 4, "steps": 3, "batch": 4}


def test_their_stages_are_shared(pipeline, few_scenes, context_of):
    Diffusion(base=str(pipeline), **SHORT).distill(few_scenes, 1, context_of())
    ctx = replace(context_of(), method="mgd3@1", costs=[])
    MGD3(base=str(pipeline), weights="lora", **SHORT).distill(few_scenes, 1, ctx)
    assert {cost["stage"]: cost["reused"] for cost in ctx.costs} == {
        "latents": True, "finetune": True, "sampling": False,
    }  # fmt: skip


def test_settings_at_their_defaults_are_no_part_of_a_stage(pipeline, few_scenes, context_of):
    """So stages that earlier versions left are found again. A cosine is another stage, with other weights."""
    plain = Diffusion(base=str(pipeline), weights="all", **SHORT)
    key = plain._finetune_config(torch.device("cpu")).key()
    assert key == {
        "weights": "all", "steps": 3, "batch": 4, "rate": 5e-4, "warmup": 200, "empty": 0.0, "ema": 0.0,
        "precision": "fp32",
    }  # fmt: skip
    ctx = context_of()
    for method in (plain, replace(plain, tune_cosine=True)):
        method.distill(few_scenes, 1, ctx)
    first, second = (load_file(file) for file in ctx.shared.glob("finetune-*/denoiser.safetensors"))
    assert any(not torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("batch", [5, 64])
def test_latents_are_written_view_after_view(batch, pipeline, few_scenes, context_of):
    """Against all images turned, encoded and joined at once."""
    ctx = context_of()
    model = load_model(str(pipeline), ctx.device)
    latents = Stages(model, few_scenes, ctx, batch).latents(views=3)
    whole = [model.encode(turn(few_scenes.images, view), iter, 64) for view in range(3)]
    mean, std = (torch.cat(parts) for parts in zip(*whole, strict=True))
    assert torch.equal(latents.labels, few_scenes.labels.repeat(3))
    assert torch.allclose(latents.mean.float(), mean.float(), atol=2e-3)
    assert torch.allclose(latents.std.float(), std.float(), atol=2e-3)
    if batch == 64:  # the same batches: the same bits
        assert torch.equal(latents.mean, mean)
