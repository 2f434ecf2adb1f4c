"""The model card of the embedded base model: what it was trained on, how well it reconstructs, what it draws."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image
from torch import Tensor

from ddbench.datasets import drawing
from ddbench.datasets.facts import Place
from ddbench.datasets.rs.eurosat import EUROSAT
from ddbench.methods.dpd.base.images import DRAWN, SATELLITE, SIZE
from ddbench.methods.pixels import to_float, to_uint8

if TYPE_CHECKING:
    from ddbench.methods.dpd.base.__main__ import Plan

SAMPLES = 6


def write_card(folder: Path, place: Place, plan: Plan) -> None:
    """Measure the saved pipeline on EuroSAT's test split and write README.md and samples.png beside it."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    real = EUROSAT.load(place, SIZE).test.images[::5]
    quality = psnr(real, reconstruct(pipeline.vae, real))
    _save_samples(pipeline, folder / "samples.png")
    rows = [f"- {name}: {value}" for name, value in sorted(plan.settings.items())]
    rows += [f"- {name}: {seconds / 60:.0f} minutes" for name, seconds in plan.seconds.items()]
    megabytes = sum(f.stat().st_size for f in folder.rglob("*.safetensors")) / 1e6
    facts = {"settings": "\n".join(rows), "psnr": quality, "megabytes": megabytes, "n": len(real)}
    (folder / "README.md").write_text(CARD.format(cores=os.cpu_count(), **facts))


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Images (n, 3, h, w) uint8 through encoder (posterior mean) and decoder, uint8."""
    return torch.cat([to_uint8(vae.decode(vae.encode(to_float(x)).latent_dist.mean).sample) for x in images.split(64)])


def psnr(a: Tensor, b: Tensor) -> float:
    """Mean over images of the peak signal-to-noise ratio in dB, both uint8 (n, c, h, w)."""
    errors = (a.float() - b.float()).square().mean((1, 2, 3)).clamp(min=1e-6)
    return float((10 * torch.log10(255**2 / errors)).mean())


def _save_samples(pipeline: StableDiffusionPipeline, path: Path) -> None:
    """One row per caption, guidance 4, 25 steps."""
    captions = [SATELLITE.format(r) for r in EUROSAT.readable] + [DRAWN.format(r) for r in drawing.READABLE]
    sheet = Image.new("RGB", (SAMPLES * 66, len(captions) * 66), "white")
    for row, caption in enumerate(captions):
        generators = [torch.Generator().manual_seed(i) for i in range(SAMPLES)]
        how = {"height": SIZE, "width": SIZE, "guidance_scale": 4.0, "num_inference_steps": 25}
        made = pipeline([caption] * SAMPLES, generator=generators, **how)
        for column, image in enumerate(made.images):
            sheet.paste(image, (column * 66 + 1, row * 66 + 1))
    sheet.save(path, optimize=True)


CARD = """# tiny: the embedded base model of ddbench

A small latent text-to-image diffusion model for 64 px overhead images, in the folder layout of a Stable Diffusion
pipeline, float16 ({megabytes:.1f} MB of weights). It exists so that every diffusion method of ddbench runs anywhere, at
once, on a CPU. It is no substitute for a full base model: expect texture and layout, not detail.

- Parts: AutoencoderKL (8x8 latents of 32 channels at 64 px), UNet2DConditionModel (v-prediction), CLIP text encoder of
  two layers and a CLIP tokenizer of about a thousand tokens, all trained from nothing by
  `python -m ddbench.methods.dpd.base`, no published weights involved.
- Data: the training split (80 %) of EuroSAT RGB (MIT licence; Helber et al., IEEE JSTARS 2019) and procedural scenes of
  `ddbench.datasets.drawing` from an index range that no dataset uses. Captions name the class; 10 % are empty. No UC
  Merced image and no test image was seen.
- Reconstruction: {psnr:.1f} dB PSNR, mean over {n} test images of EuroSAT.
- Samples: `samples.png`, one row per caption (ten of EuroSAT, then ten drawn scenes), guidance 4, 25 steps.
- Licence: that of ddbench (Apache-2.0); the data's licence is MIT.

## The training run

Steps, settings, and the time of each part since it was last started, on {cores} cores.

{settings}
"""
