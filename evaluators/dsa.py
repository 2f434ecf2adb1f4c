"""Differentiable Siamese augmentation (Zhao & Bilen 2021, arXiv:2102.08259), with the literature's settings.

One operation is drawn for a batch; its numbers are drawn for every image. Siamese: numbers drawn for one image serve
batches of any size, so that real and synthetic images are changed alike. Everything is differentiable in the images,
and what is moved in from outside is 0: give it normalised images (mean 0).
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
    """operation: one of DSA. numbers: (n, 3) uniform in 0..1, or (1, 3) for all images alike."""

    operation: str
    numbers: Tensor

    def to(self, device: torch.device | str) -> Draw:
        """The same numbers on another device."""
        return Draw(self.operation, self.numbers.to(device, non_blocking=True))


def draw(n: int, generator: torch.Generator, operations: tuple[str, ...] = DSA) -> Draw:
    """Random numbers for `n` images from a CPU generator; n = 1 for Siamese use on batches of any size."""
    chosen = int(torch.randint(len(operations), (), generator=generator))
    return Draw(operations[chosen], torch.rand(n, 3, generator=generator))


def apply(images: Tensor, draw: Draw) -> Tensor:
    """Augment normalised float images (n, 3, h, w) as drawn; differentiable in them."""
    return _OPERATIONS[draw.operation](images, draw.numbers)


def _color(x: Tensor, u: Tensor) -> Tensor:
    """Brightness, then saturation about each pixel's mean, then contrast about the image's mean."""
    light, colour, contrast = u[:, :, None, None, None].unbind(1)
    x = x + (light - 0.5) * BRIGHTNESS
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * colour * SATURATION
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * (contrast + CONTRAST)


def _crop(x: Tensor, u: Tensor) -> Tensor:
    """Move by whole pixels, an eighth of the side at most."""
    (rows, down), (columns, across) = (_moved(u[:, i], x.shape[2 + i]) for i in range(2))
    n = torch.arange(len(x), device=x.device)[:, None, None]
    found = x.permute(0, 2, 3, 1)[n, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return found * (down[:, None, :, None] & across[:, None, None, :])


def _moved(u: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Where each pixel along a side (n, side) comes from, and whether that is inside the image."""
    reach = int(side * CROP + 0.5)
    pixels = torch.arange(side, device=u.device) + _whole(u, 2 * reach + 1)[:, None] - reach
    return pixels.clamp(0, side - 1), (pixels >= 0) & (pixels < side)


def _cutout(x: Tensor, u: Tensor) -> Tensor:
    """A square of half the side, centred anywhere, is 0; it may reach over the border."""
    rows, columns = (_covered(u[:, i], x.shape[2 + i]) for i in range(2))
    return x * ~(rows[:, None, :, None] & columns[:, None, None, :])


def _covered(u: Tensor, side: int) -> Tensor:
    """Which pixels along a side of the image (n, side) the square covers."""
    width = int(side * CUTOUT + 0.5)
    first = _whole(u, side + 1 - width % 2)[:, None] - width // 2
    pixels = torch.arange(side, device=u.device)
    return (pixels >= first) & (pixels < first + width)


def _flip(x: Tensor, u: Tensor) -> Tensor:
    return torch.where((u[:, 0] < 0.5)[:, None, None, None], x.flip(3), x)


def _scale(x: Tensor, u: Tensor) -> Tensor:
    """Width and height of what is seen, by factors of their own: above 1 the picture shrinks."""
    factors = 1 / SCALE + u[:, :2] * (SCALE - 1 / SCALE)
    return _resampled(x, torch.diag_embed(factors))


def _rotate(x: Tensor, u: Tensor) -> Tensor:
    angle = (2 * u[:, 0] - 1) * math.radians(DEGREES)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1)
    return _resampled(x, turn.view(-1, 2, 2))


def _resampled(x: Tensor, linear: Tensor) -> Tensor:
    """Bilinear, output coordinates mapped to input by (n or 1, 2, 2)."""
    theta = F.pad(linear, (0, 1)).expand(len(x), -1, -1).to(x.dtype)
    return F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)


def _whole(u: Tensor, choices: int) -> Tensor:
    """One of 0..choices-1; the product of the largest float below 1 may round up to `choices`."""
    return (u * choices).long().clamp(max=choices - 1)


_OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = dict(
    zip(DSA, (_color, _crop, _cutout, _flip, _scale, _rotate), strict=True)
)
