"""Presets of the papers' scale on small random pipelines of the true shape: channels, sizes, classes, files."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_models import write_dit, write_stable_diffusion

from ddbench.config import build
from ddbench.methods.d4m import D4M
from ddbench.methods.mgd3 import MGD3
from ddbench.methods.minimax import Minimax
from ddbench.methods.vlcp import VLCP

QUICK = {"steps": 3, "batch": 2, "precision": "fp32"}  # the rest is the preset's


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


@pytest.mark.parametrize("preset", ["imagenette", "imagewoof"])
@pytest.mark.parametrize("cls", [Minimax, MGD3])
def test_a_dit_of_imagenet(cls, preset, train, context_of, tmp_path):
    """DiT-XL/2 at 256 px: 4 of 8 channels are the mean's, 32 x 32 latents, patches of 2, 1000 classes, DDIM."""
    base = write_dit(tmp_path / "dit", classes=1000, sample_size=32, levels=4)
    classes = {"imagenette": ("n02102040", "golf_ball"), "imagewoof": ("n02088364", "dingo")}[preset]
    method = settings(cls, preset, base=str(base), tune_steps=1, tune_batch=2)
    assert (method.variance, method.spacing, method.guidance_channels) == ("learned", "linspace", 3)
    made = method.distill(train(classes), 1, context_of())
    made.check(1)
    assert made.images.shape[-1] == 16


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
    method = settings(cls, preset, base=str(base), **changes)
    ctx = context_of()
    made = method.distill(train(("tench", "golf ball")), 1, ctx)
    made.check(1)
    assert made.images.shape[-1] == 16
    if cls is VLCP:
        (cost,) = [cost for cost in ctx.costs if cost["stage"] == "finetune"]
        assert cost["steps"] == 2  # an epoch of 8 images in batches of 4
        assert published._finetune_config(torch.device("cpu"), 9469).steps == 592  # the release's, on ImageNette
