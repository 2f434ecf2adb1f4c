"""Test VLCP's clusters without outliers and its captions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ddbench.methods import vlcp
from ddbench.methods.latent_diffusion.model import load_model
from ddbench.methods.vlcp import VLCP

SHORT = {"tune_steps": 3, "tune_batch": 4, "steps": 3, "batch": 4}


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


def test_a_step_in_parts_is_the_same_step(pipeline, few_scenes, context_of, tmp_path):
    method = VLCP(base=str(pipeline), captioner="palette", neighbours=3, **SHORT)
    weights = []
    for parts in (1, 3):
        ctx = replace(context_of(), shared=tmp_path / str(parts))
        replace(method, tune_parts=parts).distill(few_scenes, 1, ctx)
        (folder,) = ctx.shared.glob("finetune-*")
        weights.append((folder.name, load_file(folder / "denoiser.safetensors")))
    (name, whole), (same_name, in_parts) = weights
    assert name == same_name
    for key, weight in whole.items():
        torch.testing.assert_close(in_parts[key], weight, rtol=1e-3, atol=1e-5)


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="outliers"):
        VLCP(outliers=0.9)


def test_equal_images_do_not_warn():
    """Warnings of scikit-learn would be errors here."""
    rng = np.random.default_rng(0)
    points = np.concatenate([np.repeat(rng.normal(size=(2, 4)), 6, 0), rng.normal(size=(3, 4))]).astype(np.float32)
    centres, inliers, owner = vlcp.cluster_inliers(points, 2, 0.1, 3)
    assert (len(centres), len(inliers) == len(owner)) == (2, True)
