"""The training split as latents of the base's autoencoder, cached on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddbench.methods.latent_diffusion.model import LatentModel


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


def save_latents(
    model: LatentModel, images: Tensor, folder: Path, *, views: int, progress: Callable, batch: int
) -> None:
    """Encode square images in the first `views` of the eight views of `turn`, view after view, and save them."""
    parts = [model.encode(turn(images, view), progress, batch) for view in range(views)]
    mean, std = (torch.cat(part) for part in zip(*parts, strict=True))
    save_file({"mean": mean, "std": std}, folder / "latents.safetensors")


def turn(images: Tensor, view: int) -> Tensor:
    """Return images (n, c, h, h) in one of eight views: 0 as they are, 1 mirrored, 2 and 3 turned by 90 degrees, ..."""
    around = torch.rot90(images, view // 2, (2, 3))
    return (around.flip(3) if view % 2 else around).contiguous()


def load_latents(folder: Path, labels: Tensor, scale: float) -> Latents:
    """Read what `save_latents` wrote, memory-mapped."""
    parts = load_file(folder / "latents.safetensors")
    return Latents(parts["mean"], parts["std"], labels, scale)
