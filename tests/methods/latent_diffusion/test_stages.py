"""Test that methods share latents and fine-tuned weights."""

from __future__ import annotations

from dataclasses import replace

from ddbench.methods.mgd3 import MGD3
from ddbench.methods.plain_diffusion import Diffusion

SHORT = {"tune_steps": 3, "tune_batch": 4, "steps": 3, "batch": 4}


def test_their_stages_are_shared(pipeline, few_scenes, context_of):
    Diffusion(base=str(pipeline), **SHORT).distill(few_scenes, 1, context_of())
    ctx = replace(context_of(), method="mgd3@1", costs=[])
    MGD3(base=str(pipeline), weights="lora", **SHORT).distill(few_scenes, 1, ctx)
    assert {cost["stage"]: cost["reused"] for cost in ctx.costs} == {
        "latents": True, "finetune": True, "sampling": False,
    }  # fmt: skip
