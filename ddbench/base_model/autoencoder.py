"""The base model's autoencoder: 64 px to a 16x16 grid of 8 channels. Its start, its loss, its training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderDC
from diffusers.models.autoencoders.autoencoder_dc import DCDownBlock2d, DCUpBlock2d, ResBlock
from torch import Tensor, nn
from torch.nn import functional as F

from ddbench.base_model.budget import TrainingBudget, compile_step
from ddbench.context import generator_of, seed_of
from ddbench.methods.latent_diffusion.decoder import (
    JITTER,
    contrast_distance,
    draw_batch,
    draw_images,
    pixel_distance,
    texture_loss,
)
from ddbench.methods.latent_diffusion.latents import posterior
from ddbench.methods.latent_diffusion.training import Checkpoints, Schedule, fit
from ddbench.methods.shared.device import mixed_precision
from ddbench.types import ImageSet

LEVELS = 2  # halvings: a latent cell stands for 4x4 pixels
EVERY = 250  # steps from one checkpoint to the next

WHITENING = 0.6  # 1: every latent channel has the same deviation; 0: the deviation its component has in the pixels
PINNED = 16.0  # value of the decoder's spare channels; large, so that the last RMSNorm divides by a constant
LIFT = 2.0  # added before the last ReLU and taken off after it; pixels are in [-1, 1]

KL_WEIGHT = 1e-6


def build_autoencoder(latent_channels: int = 8) -> AutoencoderDC:
    """Build the untrained network: half and quarter size, 32 and 128 channels to encode, 48 and 192 to decode.

    AutoencoderDC (Chen et al., arXiv 2410.10733) goes from level to level by pixel shuffle. AutoencoderKL repeats each
    pixel four times and cannot tell the copies apart: small ones lose fine texture for good
    (docs/base-model-trials.md). Channels grow fourfold from level to level, so that the shortcuts are plain shuffles
    (`start_linear`).
    """
    return AutoencoderDC(
        latent_channels=latent_channels, encoder_block_out_channels=(32, 32, 128),
        decoder_block_out_channels=(48, 48, 192), encoder_layers_per_block=(0, 1, 2),
        decoder_layers_per_block=(0, 2, 3), encoder_out_shortcut=False, decoder_in_shortcut=False,
        encoder_qkv_multiscales=((),) * 3, decoder_qkv_multiscales=((),) * 3,
    )  # fmt: skip


def train_autoencoder(
    data: ImageSet, budget: TrainingBudget, device: torch.device, progress: Callable, folder: Path | None
) -> AutoencoderDC:
    """Train from block PCA of the data on by `reconstruction_loss`; sets `scaling_factor`.

    Batches are random images, each under a random one of the square's eight symmetries. On a CPU all randomness follows
    from the step's number.
    """
    torch.manual_seed(seed_of(0, "autoencoder"))
    vae = build_autoencoder()
    start_linear(vae, draw_images(data.images, 1536, generator_of(0, "linear start")))
    images = data.images.to(device)
    _fit(vae.to(device, memory_format=budget.memory_format), reconstruction_loss, images, budget, progress, folder)
    with torch.no_grad():
        z = posterior(vae.eval(), draw_images(images, 512, budget.generator(device, "scaling")))[0]
    vae.register_to_config(scaling_factor=float(1 / z.std()))
    return vae


def train_decoder(
    vae: AutoencoderDC, data: ImageSet, budget: TrainingBudget, progress: Callable, folder: Path | None
) -> None:
    """Train the decoder of a trained autoencoder on by `texture_loss`, on its device; as `train_autoencoder` trains.

    The encoder stays, so latents and a denoiser that was trained on them stay valid.
    """
    vae.train().requires_grad_(False).decoder.requires_grad_(True)
    _fit(vae, texture_loss, data.images.to(vae.device), budget, progress, folder)
    vae.eval()


def _fit(
    vae: AutoencoderDC, loss: Callable, images: Tensor, budget: TrainingBudget, progress: Callable, folder: Path | None
) -> None:
    """Minimise loss(vae, real, noise) over the trainable weights.

    images: (n, 3, s, s), uint8, on the network's device.
    """
    loss_of = torch.compile(loss) if budget.compiled else loss

    def loss_at(step: int) -> Tensor:
        generator = budget.generator(images.device, "autoencoder", step)
        real, noise = draw_batch(vae, images, budget.batch, generator)
        real = real.contiguous(memory_format=budget.memory_format)
        with mixed_precision(images.device, budget.precision):
            return loss_of(vae, real, noise)

    if budget.compiled:
        compile_step(loss_at, vae)
    schedule = Schedule(
        budget.steps, budget.rate, warmup=100, cosine=True, decay=1e-4, betas=(0.9, 0.99), ema=budget.ema,
        seconds=budget.seconds,
    )  # fmt: skip
    fit(vae, loss_at, schedule, progress, Checkpoints(folder, EVERY))


# The start: block PCA, the best that a linear map keeps of 4x4 pixels. Gradient descent from a random start spends its
# hours on the way to this point (docs/base-model-trials.md). It works because every level of AutoencoderDC has a
# shortcut around what it learns, a plain pixel shuffle where channels grow fourfold from level to level.


@torch.no_grad()
def start_linear(vae: AutoencoderDC, images: Tensor) -> None:
    """Set the weights of `vae` so that it does block PCA of `images` (n, 3, h, w) in [-1, 1].

    Latents have unit mean square over all channels; component i has deviation s_i ^ (1 - WHITENING), scaled.
    """
    mean, basis, scale = principal_blocks(images, vae.config.latent_channels)
    width = vae.config.decoder_block_out_channels[-1]
    _silence_branches(vae, len(mean) / width)
    nn.init.dirac_(vae.encoder.conv_in.conv.weight)  # red, green, blue, and spare channels
    _set_pointwise(vae.encoder.conv_out, (basis * scale).T, -(mean @ basis) * scale)
    spare = torch.full((width - len(mean),), PINNED)
    _set_pointwise(vae.decoder.conv_in, basis / scale, torch.cat([mean, spare]))
    # the spare share of the channels is PINNED, which decides their root mean square
    vae.decoder.norm_out.weight.fill_(PINNED * (len(spare) / width) ** 0.5)
    vae.decoder.norm_out.bias.fill_(LIFT)
    pixels = vae.decoder.conv_out.conv.out_channels
    _set_pointwise(vae.decoder.conv_out.conv, torch.eye(pixels), torch.full((pixels,), -LIFT))


def principal_blocks(images: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean (48,) and basis (48, count) of 4x4 blocks, and the factor (count,) from coefficients to latents."""
    rows = to_blocks(images).double()
    values, vectors = torch.linalg.eigh(torch.cov(rows.T))
    deviation, basis = values[-count:].flip(0).clamp(min=1e-12).sqrt(), vectors[:, -count:].flip(1)
    scale = deviation**-WHITENING
    scale = scale / (deviation * scale).square().mean().sqrt()
    return rows.mean(0).float(), basis.float(), scale.float()


def to_blocks(images: Tensor) -> Tensor:
    """Return (n * h/4 * w/4, 48): the pixels of each block, in the order that the network's shuffles give them."""
    for _ in range(LEVELS):
        images = F.pixel_unshuffle(images, 2)
    return images.movedim(1, -1).flatten(0, 2)


def _silence_branches(vae: AutoencoderDC, share: float) -> None:
    """Let no branch add anything at first, and none of the decoder's read the pinned channels.

    share: part of the decoder's channels that is not pinned.
    """
    for part in vae.modules():
        if isinstance(part, ResBlock):
            nn.init.zeros_(part.norm.weight)
        elif isinstance(part, DCDownBlock2d | DCUpBlock2d):
            nn.init.zeros_(part.conv.weight)
            nn.init.zeros_(part.conv.bias)
    for part in vae.decoder.modules():
        if isinstance(part, ResBlock):
            part.conv1.weight[:, round(part.conv1.in_channels * share) :] = 0


def _set_pointwise(conv: nn.Conv2d, matrix: Tensor, bias: Tensor) -> None:
    """Make conv(x) = matrix (outputs, inputs) @ x + bias at every position; weights beyond the two are zero."""
    conv.weight.zero_()
    conv.weight[: len(matrix), : matrix.shape[1], 1, 1] = matrix
    if conv.bias is not None:  # all convolutions of the autoencoder that are set so have one
        conv.bias.zero_()
        conv.bias[: len(bias)] = bias


def reconstruction_loss(vae: Any, real: Tensor, noise: Tensor) -> Tensor:
    """Return the loss of one batch (n, 3, h, w) in [-1, 1]: pixels, local contrast and a trace of KL.

    noise: standard normal, of the latents' shape. Posteriors narrower than JITTER (all of a deterministic autoencoder)
    are widened to it: a decoder that has seen exact latents only fails on what a U-Net makes.
    """
    mean, std = posterior(vae, real)
    std = std.clamp(min=JITTER / vae.config.scaling_factor)
    image = vae.decode(mean + std * noise.to(mean)).sample.float()
    return pixel_distance(image, real) + contrast_distance(image, real) + kl_term(mean.float(), std.float())


def kl_term(mean: Tensor, std: Tensor) -> Tensor:
    """Return KL_WEIGHT times the divergence of N(mean, std^2) from a normal one: it keeps latents in bounds."""
    kl = (mean.square() + std.square() - 1 - 2 * std.log()).flatten(1).sum(1) / 2
    return KL_WEIGHT * kl.mean()
