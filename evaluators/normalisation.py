"""From grey values to what a network sees, and back: by constants, or by the statistics of the training images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MEAN, STD = 0.5, 0.25  # of every channel; constants, so that a network holds no statistic of a dataset
PART = 1 << 24  # values whose statistics are taken at once


@dataclass(frozen=True, eq=False)
class Normalisation:
    """Subtract a mean, divide by a deviation.

    kind: "constant" or "data".
    mean, std: float32 (3, 1, 1), one value per channel, of grey values in 0..1.
    """

    kind: str
    mean: Tensor
    std: Tensor

    def to(self, device: torch.device | str) -> Normalisation:
        """Move it to a device."""
        return Normalisation(self.kind, self.mean.to(device), self.std.to(device))

    def apply(self, images: Tensor) -> Tensor:
        """Normalise images (n, 3, h, w): uint8 0..255, or float 0..1."""
        if images.dtype == torch.uint8:
            images = images.float() / 255
        return (images - self.mean) / self.std

    def restore(self, pixels: Tensor) -> Tensor:
        """Return the images, float 0..1 and beyond, of normalised pixels (..., 3, h, w)."""
        return pixels * self.std + self.mean

    def clamp_(self, pixels: Tensor) -> None:
        """Clamp normalised pixels (..., 3, h, w) in place to those of grey values 0..1."""
        pixels.clamp_((0 - self.mean) / self.std, (1 - self.mean) / self.std)

    def record(self) -> dict[str, Any]:
        """Return kind, mean and deviation as JSON values."""
        return {"kind": self.kind, "mean": self.mean.flatten().tolist(), "std": self.std.flatten().tolist()}


CONSTANT = Normalisation("constant", torch.full((3, 1, 1), MEAN), torch.full((3, 1, 1), STD))


def normalisation_of(images: Tensor, kind: str) -> Normalisation:
    """Return the normalisation of training images, uint8 (n, 3, h, w), which may be memory-mapped.

    kind: "constant" for the constants of the evaluator; "data" for the mean of each channel, and the mean over images
    of each image's own deviation. That is what the literature's constants for CIFAR-10 are (0.2023, 0.1994, 0.2010);
    the deviation of all pixels together is 0.247, 0.243, 0.262 there. A deviation is at least one grey value of 255.
    """
    if kind == "constant":
        return CONSTANT
    sums = torch.zeros(2, 3, dtype=torch.float64)
    for part in images.split(max(1, PART // images[0].numel())):
        variance, mean = torch.var_mean(part.double() / 255, dim=(2, 3), correction=0)
        sums += torch.stack([mean.sum(0), variance.sqrt().sum(0)])
    mean, std = (sums / len(images)).float()[:, :, None, None]
    return Normalisation(kind, mean, std.clamp(min=1 / 255))
