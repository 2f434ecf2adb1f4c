"""Train the base model's autoencoder: 64 px to an 8x8 grid of 32 channels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from ddbench.context import generator_of, seed_of
from ddbench.methods.dpd.base.perceptual import FeatureNet, perceptual_distance
from ddbench.methods.dpd.reconstruction import contrast_distance, kl_term, pixel_distance
from ddbench.methods.dpd.training import Checkpoints, Schedule, fit, mixed_precision
from ddbench.methods.pixels import draw_batch
from ddbench.types import ImageSet

PERCEPTUAL_WEIGHT = 0.05
BATCH = 16
EVERY = 250  # steps from one checkpoint to the next
TEXTURE_FROM = 0.6  # share of the steps after which texture counts: earlier, it hides what pixels would teach
CPU = torch.device("cpu")


def build_autoencoder(latent_channels: int = 32) -> AutoencoderKL:
    """The untrained network: four levels (16, 32, 96, 160), one residual block each, 8x8 latents at 64 px."""
    levels = (16, 32, 96, 160)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(levels), up_block_types=("UpDecoderBlock2D",) * len(levels),
        block_out_channels=levels, layers_per_block=1, norm_num_groups=16, latent_channels=latent_channels,
        sample_size=64,
    )  # fmt: skip
    _start_plain(vae)
    return vae


@torch.no_grad()
def _start_plain(vae: AutoencoderKL) -> None:
    """Residual branches start at zero and posteriors narrow (std 0.05).

    After 250 steps of 16 images: 25.8 dB PSNR; 24.2 dB without the first, 23.6 dB without both.
    """
    for name, weight in vae.named_parameters():
        if name.endswith(("conv2.weight", "conv2.bias", "to_out.0.weight")):
            weight.zero_()
    logvar = slice(vae.config.latent_channels, None)
    vae.quant_conv.weight[logvar] = 0
    vae.quant_conv.bias[logvar] = -6


@dataclass(frozen=True)
class Effort:
    """How long and how to compute. precision: bf16 or fp32. compiled: torch.compile, two minutes that long runs repay.

    On one thread a step of the autoencoder took 0.77 s in bf16, 0.53 s compiled.
    """

    steps: int
    precision: str
    compiled: bool = False


def train_features(data: ImageSet, how: Effort, progress: Callable[[Iterable], Iterable]) -> FeatureNet:
    """Train the classifier whose features judge reconstructions; frozen, in evaluation mode."""
    torch.manual_seed(seed_of(0, "features"))
    net = FeatureNet(len(data.classes))

    def loss_at(step: int) -> Tensor:
        images, labels = draw_batch(data, 64, "features", step)
        with mixed_precision(CPU, how.precision):
            return F.cross_entropy(net(images).float(), labels)

    fit(net, loss_at, Schedule(how.steps, 2e-3, warmup=100, cosine=True), progress)
    return net.eval().requires_grad_(False)


def train_autoencoder(
    data: ImageSet, net: FeatureNet, how: Effort, progress: Callable, folder: Path | None
) -> AutoencoderKL:
    """Pixels and a trace of KL, then local contrast and features too, batches of 16.

    Sets `scaling_factor` to 1 / std of the latents.
    """
    torch.manual_seed(seed_of(0, "autoencoder"))
    vae = build_autoencoder()
    loss_of = torch.compile(_reconstruction_loss) if how.compiled else _reconstruction_loss

    def loss_at(step: int) -> Tensor:
        real, _ = draw_batch(data, BATCH, "autoencoder", step)
        grid = (BATCH, vae.config.latent_channels, real.shape[2] // 8, real.shape[3] // 8)
        noise = torch.randn(grid, generator=generator_of(0, "posterior", step))
        with mixed_precision(CPU, how.precision):
            return loss_of(vae, net, real, noise, step >= TEXTURE_FROM * how.steps)

    schedule = Schedule(how.steps, 1e-3, warmup=200, cosine=True, decay=1e-4, betas=(0.9, 0.99), ema=0.999)
    fit(vae, loss_at, schedule, progress, Checkpoints(folder, EVERY))
    vae.register_to_config(scaling_factor=_scaling_factor(vae, data))
    return vae.eval()


def _reconstruction_loss(vae: AutoencoderKL, net: FeatureNet, real: Tensor, noise: Tensor, texture: bool) -> Tensor:
    posterior = vae.encode(real).latent_dist
    made = vae.decode(posterior.mean + posterior.std * noise).sample.float()
    plain = pixel_distance(made, real) + kl_term(posterior)
    if not texture:
        return plain
    return plain + contrast_distance(made, real) + PERCEPTUAL_WEIGHT * perceptual_distance(net, made, real)


@torch.no_grad()
def _scaling_factor(vae: AutoencoderKL, data: ImageSet) -> float:
    images, _ = draw_batch(data, 512, "scaling")
    return float(1 / vae.eval().encode(images).latent_dist.mean.std())
