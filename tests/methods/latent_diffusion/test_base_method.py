"""Test what all methods that sample a latent diffusion model share."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from small_models import write_dit, write_stable_diffusion

from ddbench.config import build
from ddbench.methods.d4m import D4M
from ddbench.methods.dmgd import DMGD
from ddbench.methods.igd import IGD
from ddbench.methods.latent_diffusion import stages as stages_module
from ddbench.methods.latent_diffusion.model import load_model
from ddbench.methods.latent_diffusion.starts import cluster_centres, k_means
from ddbench.methods.mgd3 import MGD3
from ddbench.methods.minimax import Minimax
from ddbench.methods.plain_diffusion import Diffusion
from ddbench.methods.vlcp import VLCP

QUICK = {"steps": 3, "batch": 2, "precision": "fp32"}  # of a published preset, whose other settings stay
SHORT = {"tune_steps": 3, "tune_batch": 4, "steps": 3, "batch": 4}


@pytest.mark.parametrize("cls", [Diffusion, D4M, MGD3, Minimax, DMGD])
def test_same_seed_same_images_whatever_the_batch(cls, pipeline, few_scenes, context_of):
    method = cls(base=str(pipeline), **SHORT)
    distilled = method.distill(few_scenes, 2, context_of(1))
    distilled.check(2)
    other = replace(method, batch=6).distill(few_scenes, 2, context_of(1))
    assert (distilled.images.int() - other.images.int()).abs().max() <= 1
    assert not torch.equal(distilled.images, method.distill(few_scenes, 2, context_of(2)).images)


def test_mirrored_images_are_encoded_and_tuned_on(pipeline, few_scenes, context_of, monkeypatch):
    """Half of the rows that a step draws from are the latents of mirrored images, each with its image's prompt."""
    seen = []
    original = stages_module.finetune_loss
    monkeypatch.setattr(
        stages_module, "finetune_loss", lambda model, data, *rest: seen.append(data) or original(model, data, *rest)
    )
    method = Diffusion(base=str(pipeline), **SHORT)
    method.distill(few_scenes, 1, context_of())
    replace(method, tune_mirror=True).distill(few_scenes, 1, context_of())
    plain, mirrored = seen  # another stage: it was trained anew
    assert len(mirrored.latents.mean) == 2 * len(plain.latents.mean)
    assert mirrored.index.tolist() == 2 * plain.index.tolist()
    assert mirrored.latents.labels.tolist() == 2 * plain.latents.labels.tolist()
    model = load_model(str(pipeline), torch.device("cpu"))
    flipped = model.encode(few_scenes.images.flip(3), iter, 8)[0]
    torch.testing.assert_close(mirrored.latents.mean[18:], flipped, rtol=1e-2, atol=1e-2)


def test_centres_are_the_means_of_their_clusters(stages):
    latents = stages.latents()
    centres, sizes = cluster_centres(stages.train, latents, 2)
    centres = centres.flatten(1)
    for label in range(3):
        points = latents.means(stages.train.of_class(label)).flatten(1)
        own = centres[2 * label : 2 * label + 2]
        owner = torch.cdist(points, own).argmin(1)
        assert sizes[2 * label : 2 * label + 2] == owner.bincount(minlength=2).tolist()
        for k in range(2):
            torch.testing.assert_close(own[k], points[owner == k].mean(0), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="7 clusters per class need 7 images per class, but: beach 6"):
        cluster_centres(stages.train, latents, 7)


def test_images_weigh_as_much_as_their_clusters(pipeline, few_scenes, context_of):
    """Classes of 6 images; the images stay."""
    method = D4M(base=str(pipeline), **SHORT)
    plain, weighted = (m.distill(few_scenes, 2, context_of()) for m in (method, replace(method, image_weights=True)))
    assert plain.weights is None
    assert torch.equal(plain.images, weighted.images)
    shares = (weighted.weights * 3).view(3, 2)  # 6 images in 2 clusters: a weight of 1 is 3 images
    assert torch.equal(shares, shares.round())
    assert (shares.sum(1) == 6).all()
    weighted.check(2)


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
    with pytest.raises(ValueError, match=r"guidance_low=0.9 must be below guidance_high=0.5"):
        replace(method, guidance_low=0.9, guidance_high=0.5)


@pytest.fixture
def train(few_scenes):
    """Four images of each of two classes of ImageNette or ImageWoof, 16 px."""

    def make(classes):
        rows = torch.tensor([0, 1, 2, 3, 6, 7, 8, 9])
        labels = torch.arange(2).repeat_interleave(4)
        images = few_scenes.images[rows][..., ::2, ::2].contiguous()
        return replace(few_scenes, images=images, labels=labels, classes=classes, readable=classes, names=())

    return make


def settings(cls, preset, **changes):
    return replace(build(cls, preset), **QUICK | changes)


@pytest.mark.parametrize(
    ("cls", "preset"),
    [*product([Minimax, MGD3, DMGD], ["imagenette", "imagewoof"]), (IGD, "imagenette")],
)
def test_a_dit_of_imagenet(cls, preset, train, context_of, tmp_path):
    """DiT-XL/2 at 256 px: 4 of 8 channels are the mean's, 32 x 32 latents, patches of 2, 1000 classes, DDIM."""
    base = write_dit(tmp_path / "dit", classes=1000, sample_size=32, levels=4)
    classes = {"imagenette": ("n02102040", "golf_ball"), "imagewoof": ("n02088364", "dingo")}[preset]
    short = {"surrogate_epochs": 1} if cls is IGD else {}
    method = settings(cls, preset, base=str(base), tune_steps=1, tune_batch=2, **short)
    assert (method.variance, method.spacing, method.guidance_channels) == ("learned", "linspace", 3)
    distilled = method.distill(train(classes), 1, context_of())
    distilled.check(1)
    assert distilled.images.shape[-1] == 16


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cls", "preset", "changes"),
    [
        (D4M, "imagenet", {}),
        (
            VLCP,
            "imagenette",
            {"captioner": "palette", "neighbours": 2, "tune_batch": 4, "tune_parts": 2, "tune_epochs": 1},
        ),
    ],
)
def test_stable_diffusion_at_512_px(cls, preset, changes, train, context_of, tmp_path):
    """Stable Diffusion 1.5: 64 x 64 latents of 4 channels, CLIP with 77 tokens, PNDM, a folder of a safety checker."""
    base = write_stable_diffusion(tmp_path / "sd")
    published = build(cls, preset)
    assert (published.base_size, published.strength, published.precision) == (512, 0.7, "fp16")
    method = settings(cls, preset, base=str(base), **changes | {"steps": 2})
    ctx = context_of()
    distilled = method.distill(train(("tench", "golf ball")), 1, ctx)
    distilled.check(1)
    assert distilled.images.shape[-1] == 16
    if cls is VLCP:
        (cost,) = [cost for cost in ctx.costs if cost["stage"] == "finetune"]
        assert cost["steps"] == 2  # an epoch of 8 images in batches of 4
        assert published._finetune_config(torch.device("cpu"), 9469).steps == 592  # the release's, on ImageNette


def test_equal_images_give_one_warning_of_ours(caplog):
    """Warnings of scikit-learn would be errors here."""
    two = np.repeat(np.random.default_rng(0).normal(size=(2, 4)), 6, 0).astype(np.float32)
    centres, owner = k_means(two, 4)
    assert (centres.shape, len(owner)) == ((4, 4), 12)
    assert "2 distinct latents for 4 clusters" in caplog.text
    caplog.clear()
    k_means(np.random.default_rng(1).normal(size=(12, 4)).astype(np.float32), 4)
    assert caplog.text == ""
