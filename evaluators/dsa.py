"""Differentiable Siamese augmentation (Zhao & Bilen 2021, arXiv:2102.08259), with the literature's settings.

A batch draws one operation, every image its numbers. Siamese: the numbers of one image serve batches of any size, so
that real and synthetic images are changed alike. Everything is differentiable in the images. Pixels from outside the
image are 0, so images must be normalised (mean 0).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from evaluators.recipes import DSA

BRIGHTNESS, SATURATION, CONTRAST = 1.0, 2.0, 0.5
SCALE = 1.2
DEGREES = 15.0
CROP, CUTOUT = 0.125, 0.5  # shares of the image's side


@dataclass(frozen=True)
class Draw:
    """The random numbers of a batch.

    operation: one of DSA.
    numbers: (n, 3) uniform in 0..1, or (1, 3) for all images alike.
    """

    operation: str
    numbers: Tensor

    def to(self, device: torch.device | str) -> Draw:
        """Move the numbers to a device."""
        return Draw(self.operation, self.numbers.to(device, non_blocking=True))


def draw(n: int, generator: torch.Generator, operations: tuple[str, ...] = DSA) -> Draw:
    """Draw an operation, and numbers for `n` images, from a CPU generator; n = 1 for Siamese use."""
    index = int(torch.randint(len(operations), (), generator=generator))
    return Draw(operations[index], torch.rand(n, 3, generator=generator))


def apply(images: Tensor, draw: Draw) -> Tensor:
    """Augment normalised float images (n, 3, h, w) with drawn numbers; differentiable in the images."""
    return _OPERATIONS[draw.operation](images, draw.numbers)


def _color(x: Tensor, u: Tensor) -> Tensor:
    """Change brightness, then saturation about each pixel's mean, then contrast about the image's mean."""
    light, colour, contrast = u[:, :, None, None, None].unbind(1)
    x = x + (light - 0.5) * BRIGHTNESS
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * colour * SATURATION
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * (contrast + CONTRAST)


def _crop(x: Tensor, u: Tensor) -> Tensor:
    """Shift by whole pixels, at most an eighth of the side."""
    (rows, down), (columns, across) = (_shift(u[:, i], x.shape[2 + i]) for i in range(2))
    n = torch.arange(len(x), device=x.device)[:, None, None]
    shifted = x.permute(0, 2, 3, 1)[n, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return shifted * (down[:, None, :, None] & across[:, None, None, :])


def _shift(u: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return the source of each pixel along a side, (n, side), and a mask of sources inside the image."""
    reach = int(side * CROP + 0.5)
    pixels = torch.arange(side, device=u.device) + _integer(u, 2 * reach + 1)[:, None] - reach
    return pixels.clamp(0, side - 1), (pixels >= 0) & (pixels < side)


def _cutout(x: Tensor, u: Tensor) -> Tensor:
    """Set a square of half the side to 0; its centre is anywhere, and it may reach over the border."""
    rows, columns = (_interval(u[:, i], x.shape[2 + i]) for i in range(2))
    return x * ~(rows[:, None, :, None] & columns[:, None, None, :])


def _interval(u: Tensor, side: int) -> Tensor:
    """Return the mask (n, side) of the pixels along a side that the square covers."""
    width = int(side * CUTOUT + 0.5)
    first = _integer(u, side + 1 - width % 2)[:, None] - width // 2
    pixels = torch.arange(side, device=u.device)
    return (pixels >= first) & (pixels < first + width)


def _flip(x: Tensor, u: Tensor) -> Tensor:
    return torch.where((u[:, 0] < 0.5)[:, None, None, None], x.flip(3), x)


def _scale(x: Tensor, u: Tensor) -> Tensor:
    """Scale width and height by separate factors; above 1 the picture shrinks."""
    factors = 1 / SCALE + u[:, :2] * (SCALE - 1 / SCALE)
    return _resample(x, torch.diag_embed(factors))


def _rotate(x: Tensor, u: Tensor) -> Tensor:
    angle = (2 * u[:, 0] - 1) * math.radians(DEGREES)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1)
    return _resample(x, turn.view(-1, 2, 2))


def _resample(x: Tensor, linear: Tensor) -> Tensor:
    """Resample bilinearly; (n or 1, 2, 2) maps output to input coordinates."""
    theta = F.pad(linear, (0, 1)).expand(len(x), -1, -1).to(x.dtype)
    return F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)


def _integer(u: Tensor, choices: int) -> Tensor:
    """Map u in 0..1 to 0..choices-1; clamped, as the product of the largest float below 1 may round up to `choices`."""
    return (u * choices).long().clamp(max=choices - 1)


_OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = dict(
    zip(DSA, (_color, _crop, _cutout, _flip, _scale, _rotate), strict=True)
)
