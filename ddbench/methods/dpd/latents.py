"""The training split as latents, encoded once, on disk, memory-mapped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddbench.methods.latent_model import LatentModel


@dataclass(frozen=True)
class Latents:
    """The cached training split: unscaled posterior mean and std, float16 (n, c, h, w), and labels (n,)."""

    mean: Tensor
    std: Tensor
    labels: Tensor
    scale: float

    def draw(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Scaled posterior samples of `rows`, float32."""
        noise = torch.randn((len(rows), *self.mean.shape[1:]), generator=generator)
        return (self.mean[rows].float() + self.std[rows].float() * noise) * self.scale

    def means(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """Scaled posterior means of `rows`, float32."""
        return self.mean[rows].float() * self.scale


def save_latents(model: LatentModel, images: Tensor, folder: Path, *, progress: Callable, batch: int) -> None:
    """Encode every image once, `batch` at a time."""
    mean, std = model.encode(images, progress, batch)
    save_file({"mean": mean, "std": std}, folder / "latents.safetensors")


def load_latents(folder: Path, labels: Tensor, scale: float) -> Latents:
    """Read what `save_latents` wrote, memory-mapped."""
    parts = load_file(folder / "latents.safetensors")
    return Latents(parts["mean"], parts["std"], labels, scale)
