"""From grey values to what a network sees, and back: by constants, statistics of the training images, or whitening."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from kornia.enhance.zca import linear_transform, zca_mean
from torch import Tensor

MEAN, STD = 0.5, 0.25  # of every channel; constants, so that a network holds no statistic of a dataset
# the literature's constants, mean and deviation by channel. The deviation of CIFAR-10 and ImageNet is the mean over
# images of each image's, that of CIFAR-100 (DC's public code) is of all pixels together
PUBLISHED = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
PART = 1 << 24  # values whose statistics are taken at once
RIDGE = 0.1  # added to the variances that whitening divides by, as in MTT's public code
LARGEST = 64  # px, side of images that are whitened: the matrix has (3 * side**2)**2 values


@dataclass(frozen=True, eq=False)
class Normalisation:
    """Subtract a mean, divide by a deviation.

    kind: "constant", "data" or a key of PUBLISHED; "zca" in the subclass.
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


@dataclass(frozen=True, eq=False)
class Whitening(Normalisation):
    """Subtract the mean image, multiply by a matrix (ZCA): MTT's public code does this in place of normalising.

    mean: float32 (3, h, w), of grey values in 0..1. std: ones.
    matrix: float32 (d, d), d = 3 h w, symmetric: U (S + RIDGE)^-1/2 U^T, with U S U^T the covariance of the images.
    """

    matrix: Tensor

    @classmethod
    def of(cls, mean: Tensor, matrix: Tensor) -> Whitening:
        return cls("zca", mean, torch.ones(3, 1, 1, device=mean.device), matrix)

    @classmethod
    def fit(cls, images: Tensor) -> Whitening:
        """Fit it to training images, uint8 (n, 3, h, w): minutes at 32 px on a CPU.

        Raises ValueError for fewer than two images, and for images above LARGEST px.
        """
        if (side := images.shape[-1]) > LARGEST:
            raise ValueError(f"images of {side} px are too large to whiten (ZCA): take at most {LARGEST} px")
        matrix, mean, _ = zca_mean(images.float() / 255, eps=RIDGE)
        return cls.of(mean.view(images.shape[1:]), matrix.contiguous())

    @cached_property
    def inverse(self) -> Tensor:
        """The inverse of the matrix."""
        inverse: Tensor = torch.linalg.inv(self.matrix.double())
        return inverse.float()

    def to(self, device: torch.device | str) -> Whitening:
        """Move it to a device."""
        if self.mean.device == torch.device(device):
            return self  # its inverse may be computed already
        return Whitening.of(self.mean.to(device), self.matrix.to(device))

    def apply(self, images: Tensor) -> Tensor:
        """Whiten images (n, 3, h, w): uint8 0..255, or float 0..1."""
        if images.dtype == torch.uint8:
            images = images.float() / 255
        with torch.autocast(images.device.type, enabled=False):  # half precision would lose the small variances
            whitened: Tensor = linear_transform(images, self.matrix, self.mean.flatten())
        return whitened

    def restore(self, pixels: Tensor) -> Tensor:
        """Return the images, float 0..1 and beyond, of whitened pixels (..., 3, h, w)."""
        return (pixels.flatten(-3) @ self.inverse).view_as(pixels) + self.mean

    def clamp_(self, pixels: Tensor) -> None:
        """Replace whitened pixels (..., 3, h, w) in place by those of their images, clamped to 0..1."""
        images = self.restore(pixels).clamp(0, 1)
        pixels.copy_(((images - self.mean).flatten(-3) @ self.matrix).view_as(pixels))

    def record(self) -> dict[str, Any]:
        """Return the kind as a JSON value: the matrix is no text."""
        return {"kind": self.kind}


CONSTANT = Normalisation("constant", torch.full((3, 1, 1), MEAN), torch.full((3, 1, 1), STD))


def normalisation_of(images: Tensor, kind: str) -> Normalisation:
    """Return the normalisation of training images, uint8 (n, 3, h, w), which may be memory-mapped.

    kind: "constant" for the constants of the evaluator; "data" for the mean of each channel, and the mean over images
    of each image's own deviation. That is what the literature's constants for CIFAR-10 are (0.2023, 0.1994, 0.2010);
    the deviation of all pixels together is 0.247, 0.243, 0.262 there. A deviation is at least one grey value of 255.
    "zca" for a `Whitening` (its `fit`). A key of PUBLISHED for the literature's constants of that dataset.
    """
    if kind == "constant":
        return CONSTANT
    if kind in PUBLISHED:
        mean, std = (torch.tensor(values)[:, None, None] for values in PUBLISHED[kind])
        return Normalisation(kind, mean, std)
    if kind == "zca":
        return Whitening.fit(images)
    sums = torch.zeros(2, 3, dtype=torch.float64)
    for part in images.split(max(1, PART // images[0].numel())):
        variance, mean = torch.var_mean(part.double() / 255, dim=(2, 3), correction=0)
        sums += torch.stack([mean.sum(0), variance.sqrt().sum(0)])
    mean, std = (sums / len(images)).float()[:, :, None, None]
    return Normalisation(kind, mean, std.clamp(min=1 / 255))
