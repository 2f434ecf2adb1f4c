"""The model card of the embedded base model: what it was trained on, how well it reconstructs, what it draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ddbench.base_model.data import DRAWN, SATELLITE, SIZE
from ddbench.datasets.info import DataPaths
from ddbench.datasets.rs.eurosat import EUROSAT
from ddbench.datasets.scenes import painter
from ddbench.methods.latent_diffusion.diffusion import SamplerConfig, guided_denoiser, interval_scale, sample
from ddbench.methods.latent_diffusion.latents import posterior
from ddbench.methods.latent_diffusion.model import LatentModel, load_model
from ddbench.utils.images import to_array, to_float, to_uint8

CPU = torch.device("cpu")
SAMPLES = 6
SAMPLING: dict[str, Any] = {  # of the preset `tiny` of `diffusion`
    "scheduler": "UniPCMultistepScheduler",
    "steps": 12,
    "spacing": "beta",
    "guidance": 1.5,
    "guidance_low": 0.2,
    "guidance_high": 0.95,
}


def write_card(folder: Path, paths: DataPaths, records: dict[str, dict[str, Any]]) -> None:
    """Measure the saved base on EuroSAT's test split and write README.md and samples.png beside it.

    records: of each part its settings, seconds and device.
    """
    model = load_model(str(folder), CPU)
    real = EUROSAT.load(paths, SIZE).test.images[::5]
    quality = psnr(real, reconstruct(model.vae, real))
    _save_samples(model, folder / "samples.png")
    rows = []
    for name, record in records.items():
        settings = ", ".join(f"{key} {value}" for key, value in record["settings"].items() if key != "autoencoder")
        rows.append(f"- {name}: {record['seconds'] / 60:.1f} minutes on {record['device']}; {settings}")
    megabytes = sum(f.stat().st_size for f in folder.rglob("*.safetensors")) / 1e6
    facts = {"settings": "\n".join(rows), "psnr": quality, "megabytes": megabytes, "n": len(real)}
    facts |= SAMPLING
    (folder / "README.md").write_text(CARD.format(**facts))


@torch.no_grad()
def reconstruct(vae: Any, images: Tensor) -> Tensor:
    """Images (n, 3, h, w) uint8 through encoder (posterior mean) and decoder, uint8."""
    return torch.cat([to_uint8(vae.decode(posterior(vae, to_float(x))[0]).sample) for x in images.split(64)])


def psnr(a: Tensor, b: Tensor) -> float:
    """Mean over images of the peak signal-to-noise ratio in dB, both uint8 (n, c, h, w)."""
    errors = (a.float() - b.float()).square().mean((1, 2, 3)).clamp(min=1e-6)
    return float((10 * torch.log10(255**2 / errors)).mean())


def _save_samples(model: LatentModel, path: Path) -> None:
    """One row per caption, by `draw`."""
    captions = [SATELLITE.format(r) for r in EUROSAT.readable] + [DRAWN.format(r) for r in painter.READABLE]
    sheet = Image.new("RGB", (SAMPLES * 66, len(captions) * 66), "white")
    for row, caption in enumerate(captions):
        for column, image in enumerate(to_array(draw(model, caption, SAMPLES))):
            sheet.paste(Image.fromarray(image), (column * 66 + 1, row * 66 + 1))
    sheet.save(path, optimize=True)


def draw(model: LatentModel, caption: str, count: int) -> Tensor:
    """`count` images (n, 3, 64, 64), uint8, of one caption, from pure noise; image i draws from seed i.

    Sampled as by the preset `tiny` of `diffusion`.
    """
    conditions, empty = (part.expand(count, -1, -1) for part in model.encode_prompts([caption, ""], [0, -1]).split(1))
    nothing = torch.zeros(count, model.vae.config.latent_channels, SIZE // model.factor, SIZE // model.factor)
    generators = [torch.Generator().manual_seed(i) for i in range(count)]
    how = SAMPLING
    scheduler = model.make_scheduler(how["scheduler"], spacing=how["spacing"])
    scale = interval_scale(how["guidance"], how["guidance_low"], how["guidance_high"], len(scheduler.alphas_cumprod))
    denoise = guided_denoiser(model.denoise, conditions, empty, scale)
    return model.decode(sample(denoise, scheduler, nothing, SamplerConfig(how["steps"]), generators)[0], count)


CARD = """# tiny: the embedded base model of ddbench

A small latent text-to-image diffusion model for 64 px overhead images, one folder per part in diffusers' format,
float16 ({megabytes:.1f} MB of weights). It exists so that every diffusion method of ddbench runs anywhere, at once, on
a CPU. It is no substitute for a full base model: it knows the classes below, at 64 px.

- Parts: AutoencoderDC (16x16 latents of 8 channels at 64 px), UNet2DConditionModel (v-prediction), CLIP text encoder of
  two layers and a CLIP tokenizer of about a thousand tokens, all trained from nothing (the autoencoder from block PCA)
  by `python -m ddbench.base_model`, no published weights involved. Load each with its class's `from_pretrained`;
  `StableDiffusionPipeline` takes autoencoders of the class AutoencoderKL only.
- Data: the training split (80 %) of EuroSAT RGB (MIT licence; Helber et al., IEEE JSTARS 2019) and procedural scenes of
  `ddbench.datasets.scenes` from an index range that no dataset uses. Captions name the class; 10 % are empty. Nothing
  was trained on a UC Merced image or a test image; the autoencoder's loss was chosen by looking at reconstructed test
  images of EuroSAT (docs/base-model.md).
- Reconstruction: {psnr:.1f} dB PSNR, mean over {n} test images of EuroSAT.
- Samples: `samples.png`, one row per caption (ten of EuroSAT, then ten drawn scenes), {steps} steps of
  {scheduler} with {spacing} spacing, guidance {guidance} between {guidance_low} and {guidance_high} of the noise
  schedule.
- Licence: that of ddbench (Apache-2.0); the data's licence is MIT.

## The training run

Each part: its time since it was last started, its device, its settings.

{settings}
"""
