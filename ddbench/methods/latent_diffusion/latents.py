"""Latents of the base's autoencoder: of images, and of the training split, cached on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor


@dataclass(frozen=True)
class Latents:
    """The cached training split.

    mean, std: of the posterior, unscaled, float16 (n, c, h, w).
    labels: int64 (n,).
    scale: factor from unscaled to scaled latents.
    """

    mean: Tensor
    std: Tensor
    labels: Tensor
    scale: float

    def draw(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Draw scaled posterior samples of `rows`, float32."""
        noise = torch.randn((len(rows), *self.mean.shape[1:]), generator=generator)
        return (self.mean[rows].float() + self.std[rows].float() * noise) * self.scale

    def means(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """Return scaled posterior means of `rows`, float32."""
        return self.mean[rows].float() * self.scale


def factor_of(vae: Any) -> int:
    """Return the pixels per latent cell along one axis."""
    levels = getattr(vae.config, "block_out_channels", None) or vae.config.encoder_block_out_channels
    return 2 ** (len(levels) - 1)


def posterior(vae: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and std, unscaled, (n, c, h/f, w/f), of images in [-1, 1]; a deterministic autoencoder has std 0."""
    output = vae.encode(images)
    if hasattr(output, "latent"):
        return output.latent, torch.zeros_like(output.latent)
    return output.latent_dist.mean, output.latent_dist.std


def load_latents(folder: Path, labels: Tensor, scale: float) -> Latents:
    """Read the stage that `Stages.latents` makes, memory-mapped."""
    parts = load_file(folder / "latents.safetensors")
    return Latents(parts["mean"], parts["std"], labels, scale)
