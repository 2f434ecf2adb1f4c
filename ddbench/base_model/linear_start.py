"""Start the base's autoencoder as block PCA: the best that a linear map keeps of 8x8 pixels.

Gradient descent from a random start spends its hours on the way to this point (docs/base-model.md); from here it learns
what no linear map can do. It works because every level of AutoencoderDC has a shortcut around what it learns, a plain
pixel shuffle where channels grow fourfold from level to level: with every branch silent the network rearranges pixels,
and only its first and last maps of the latents have something to say.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderDC
from diffusers.models.autoencoders.autoencoder_dc import DCDownBlock2d, DCUpBlock2d, ResBlock
from torch import Tensor, nn
from torch.nn import functional as F

LEVELS = 3  # three halvings: blocks of 8x8 pixels
WHITENING = 0.6  # 1: every latent channel has the same deviation; 0: the deviation its component has in the pixels
PIN = 16.0  # the spare quarter of the decoder's channels; large, so that the last RMSNorm divides by a constant
LIFT = 2.0  # added before the last ReLU and taken off after it; pixels are in [-1, 1]


@torch.no_grad()
def start_linear(vae: AutoencoderDC, images: Tensor) -> None:
    """Set the weights of `vae` so that it does block PCA of `images` (n, 3, h, w) in [-1, 1].

    Latents have unit mean square over all channels; component i has deviation s_i ^ (1 - WHITENING), scaled.
    """
    mean, basis, scale = principal_blocks(images, vae.config.latent_channels)
    _silence(vae)
    nn.init.dirac_(vae.encoder.conv_in.conv.weight)  # red, green, blue, and the spare quarter
    _set(vae.encoder.conv_out, (basis * scale).T, -(mean @ basis) * scale)
    spare = torch.full((len(mean) // 3,), PIN)
    _set(vae.decoder.conv_in, basis / scale, torch.cat([mean, spare]))
    vae.decoder.norm_out.weight.fill_(PIN / 2)  # a quarter of the channels is PIN: their root mean square is PIN / 2
    vae.decoder.norm_out.bias.fill_(LIFT)
    pixels = vae.decoder.conv_out.conv.out_channels
    _set(vae.decoder.conv_out.conv, torch.eye(pixels), torch.full((pixels,), -LIFT))


def principal_blocks(images: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (192,) and basis (192, count) of 8x8 blocks, and the factor (count,) from coefficients to latents."""
    rows = blocks(images).double()
    values, vectors = torch.linalg.eigh(torch.cov(rows.T))
    deviation, basis = values[-count:].flip(0).clamp(min=1e-12).sqrt(), vectors[:, -count:].flip(1)
    scale = deviation**-WHITENING
    scale = scale / (deviation * scale).square().mean().sqrt()
    return rows.mean(0).float(), basis.float(), scale.float()


def blocks(images: Tensor) -> Tensor:
    """(n * h/8 * w/8, 192): the pixels of each block, in the order that the network's shuffles give them."""
    for _ in range(LEVELS):
        images = F.pixel_unshuffle(images, 2)
    return images.movedim(1, -1).flatten(0, 2)


def _silence(vae: AutoencoderDC) -> None:
    """No branch adds anything at first, and none of the decoder's reads the pinned channels."""
    for part in vae.modules():
        if isinstance(part, ResBlock):
            nn.init.zeros_(part.norm.weight)
        elif isinstance(part, DCDownBlock2d | DCUpBlock2d):
            nn.init.zeros_(part.conv.weight)
            nn.init.zeros_(part.conv.bias)
    for part in vae.decoder.modules():
        if isinstance(part, ResBlock):
            part.conv1.weight[:, part.conv1.in_channels * 3 // 4 :] = 0


def _set(conv: nn.Conv2d, matrix: Tensor, bias: Tensor) -> None:
    """conv(x) = matrix (outputs, inputs) @ x + bias at every position; what lies beyond matrix and bias is zero."""
    conv.weight.zero_()
    conv.weight[: len(matrix), : matrix.shape[1], 1, 1] = matrix
    conv.bias.zero_()
    conv.bias[: len(bias)] = bias
