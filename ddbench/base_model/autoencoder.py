"""Train the base model's autoencoder: 64 px to an 8x8 grid of 32 channels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderDC
from torch import Tensor

from ddbench.base_model.linear_start import start_linear
from ddbench.base_model.reconstruction import reconstruction_loss
from ddbench.context import generator_of, seed_of
from ddbench.methods.latent_diffusion.model import draw_batch, posterior
from ddbench.methods.latent_diffusion.training import Checkpoints, Schedule, fit
from ddbench.methods.shared.device import mixed_precision
from ddbench.types import ImageSet

BATCH = 16
EVERY = 250  # steps from one checkpoint to the next
CPU = torch.device("cpu")


def build_autoencoder(latent_channels: int = 32) -> AutoencoderDC:
    """The untrained network: levels of 16, 64, 256 channels at half, quarter, eighth size; 8x8 latents at 64 px.

    AutoencoderDC (Chen et al., arXiv 2410.10733) goes from level to level by pixel shuffle. AutoencoderKL repeats each
    pixel four times and cannot tell the copies apart: small ones lose fine texture for good (docs/base-model.md).
    """
    levels, blocks = (16, 16, 64, 256), (0, 1, 1, 1)
    return AutoencoderDC(
        latent_channels=latent_channels, encoder_block_out_channels=levels, decoder_block_out_channels=levels,
        encoder_layers_per_block=blocks, decoder_layers_per_block=blocks, encoder_out_shortcut=False,
        decoder_in_shortcut=False, encoder_qkv_multiscales=((),) * 4, decoder_qkv_multiscales=((),) * 4,
    )  # fmt: skip


@dataclass(frozen=True)
class Effort:
    """How long and how to compute. precision: bf16 or fp32. compiled: torch.compile, a minute or two first.

    On two cores without bf16 instructions a step of the autoencoder took 0.24 s in fp32, compiled or not.
    """

    steps: int
    precision: str
    compiled: bool = False


def train_autoencoder(data: ImageSet, how: Effort, progress: Callable, folder: Path | None) -> AutoencoderDC:
    """From block PCA of the data on, by `reconstruction_loss`, batches of 16; sets `scaling_factor`."""
    torch.manual_seed(seed_of(0, "autoencoder"))
    vae = build_autoencoder()
    start_linear(vae, draw_batch(data, 1536, "linear start")[0])
    loss_of = torch.compile(reconstruction_loss) if how.compiled else reconstruction_loss

    def loss_at(step: int) -> Tensor:
        real, _ = draw_batch(data, BATCH, "autoencoder", step)
        grid = (BATCH, vae.config.latent_channels, real.shape[2] // 8, real.shape[3] // 8)
        noise = torch.randn(grid, generator=generator_of(0, "posterior", step))
        with mixed_precision(CPU, how.precision):
            return loss_of(vae, real, noise)

    schedule = Schedule(how.steps, 1e-4, warmup=100, cosine=True, decay=1e-4, betas=(0.9, 0.99), ema=0.99)
    fit(vae, loss_at, schedule, progress, Checkpoints(folder, EVERY))
    vae.register_to_config(scaling_factor=_scaling_factor(vae, data))
    return vae.eval()


@torch.no_grad()
def _scaling_factor(vae: AutoencoderDC, data: ImageSet) -> float:
    images, _ = draw_batch(data, 512, "scaling")
    return float(1 / posterior(vae.eval(), images)[0].std())
