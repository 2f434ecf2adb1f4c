"""Test what all methods that sample a latent diffusion model share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ddbench.methods.d4m import D4M
from ddbench.methods.latent_diffusion.base_method import cluster_centres, k_means
from ddbench.methods.mgd3 import MGD3
from ddbench.methods.minimax import Minimax
from ddbench.methods.plain_diffusion import Diffusion

SHORT = {"tune_steps": 3, "tune_batch": 4, "steps": 3, "batch": 4}


@pytest.mark.parametrize("cls", [Diffusion, D4M, MGD3, Minimax])
def test_same_seed_same_images_whatever_the_batch(cls, pipeline, few_scenes, context_of):
    method = cls(base=str(pipeline), **SHORT)
    made = method.distill(few_scenes, 2, context_of(1))
    made.check(2)
    other = replace(method, batch=6).distill(few_scenes, 2, context_of(1))
    assert (made.images.int() - other.images.int()).abs().max() <= 1
    assert not torch.equal(made.images, method.distill(few_scenes, 2, context_of(2)).images)


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


def test_equal_images_give_one_warning_of_ours(caplog):
    """Warnings of scikit-learn would be errors here."""
    two = np.repeat(np.random.default_rng(0).normal(size=(2, 4)), 6, 0).astype(np.float32)
    centres, owner = k_means(two, 4)
    assert (centres.shape, len(owner)) == ((4, 4), 12)
    assert "2 distinct latents for 4 clusters" in caplog.text
    caplog.clear()
    k_means(np.random.default_rng(1).normal(size=(12, 4)).astype(np.float32), 4)
    assert caplog.text == ""
