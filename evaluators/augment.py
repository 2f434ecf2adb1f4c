"""Random crops, flips, colour and cutout for a whole batch at once, every image its own draw.

Crop, flips and transposition are one bilinear resampling. What is drawn (`draw`) is apart from what is done with it
(`apply`), so that each image can be checked against a slow reference, and so that a CPU generator gives the same draws
whatever the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from evaluators.recipes import Augment

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in torchvision's and Pillow's greyscale
GREY = 0.5


@dataclass(frozen=True)
class Draw:
    """One batch's random numbers, first dimension n.

    theta: (n, 2, 3), output to input coordinates in [-1, 1] (x, y). brightness, contrast, saturation: factors (n,).
    hole: (n, 2), centre (x, y) of the cutout in [-1, 1].
    """

    theta: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hole: Tensor

    def to(self, device: torch.device | str) -> Draw:
        """The same numbers on another device."""
        return Draw(*(part.to(device, non_blocking=True) for part in vars(self).values()))


def draw(n: int, augment: Augment, generator: torch.Generator) -> Draw:
    """Random numbers for `n` images from a CPU generator; always as many, so that no option moves another's draws."""
    u = torch.rand(12, n, generator=generator)
    brightness, contrast, saturation = (
        1 + (2 * u[i] - 1) * width
        for i, width in enumerate((augment.brightness, augment.contrast, augment.saturation), start=7)
    )
    return Draw(_thetas(u[:7], augment), brightness, contrast, saturation, 2 * u[10:12].T - 1)


def apply(images: Tensor, draw: Draw, augment: Augment) -> Tensor:
    """Augment float images 0..1 (n, 3, h, w) as drawn; the result is in 0..1 too. `Augment()` changes nothing."""
    if augment.crop_area != (1, 1) or augment.flip_x or augment.flip_y or augment.transpose:
        grid = F.affine_grid(draw.theta, list(images.shape), align_corners=False)
        images = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    if augment.brightness or augment.contrast or augment.saturation:
        images = _colour(images, draw)
    return _cut(images, draw.hole, augment.cutout) if augment.cutout else images


def _thetas(u: Tensor, augment: Augment) -> Tensor:
    """Affine maps (n, 2, 3): a crop inside the image, mirrored with the given probabilities, maybe transposed."""
    width, height = _crop(u[0], u[1], augment)
    x, y = (2 * u[2] - 1) * (1 - width), (2 * u[3] - 1) * (1 - height)
    width = torch.where(u[4] < augment.flip_x, -width, width)
    height = torch.where(u[5] < augment.flip_y, -height, height)
    zero = torch.zeros_like(x)
    straight = torch.stack([width, zero, x, zero, height, y], dim=1).view(-1, 2, 3)
    turned = torch.stack([zero, width, x, height, zero, y], dim=1).view(-1, 2, 3)
    return torch.where((u[6] < augment.transpose)[:, None, None], turned, straight)


def _crop(area: Tensor, ratio: Tensor, augment: Augment) -> tuple[Tensor, Tensor]:
    """Width and height of the crops as shares of the image's, at most 1 each."""
    low, high = augment.crop_area
    area = low + (high - low) * area
    first, last = torch.tensor(augment.crop_ratio, dtype=torch.float32).log()
    ratio = torch.exp(first + (last - first) * ratio)
    return (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)


def _colour(images: Tensor, draw: Draw) -> Tensor:
    """Brightness, then contrast about the image's mean grey, then saturation about each pixel's grey; clipped once."""
    images = images * draw.brightness[:, None, None, None]
    mean = _grey(images).mean(dim=(2, 3), keepdim=True)
    images = mean + (images - mean) * draw.contrast[:, None, None, None]
    grey = _grey(images)
    return (grey + (images - grey) * draw.saturation[:, None, None, None]).clamp(0, 1)


def _grey(images: Tensor) -> Tensor:
    """(n, 1, h, w)."""
    red, green, blue = images.unbind(1)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)[:, None]


def _cut(images: Tensor, hole: Tensor, share: float) -> Tensor:
    """Set a square of side `share` of the image's to mid-grey; it may reach over the border."""
    rows, columns = (torch.arange(k, device=images.device).add(0.5).mul(2 / k).sub(1) for k in images.shape[2:])
    across = (columns - hole[:, :1]).abs() < share
    down = (rows - hole[:, 1:]).abs() < share
    return images.masked_fill((down[:, :, None] & across[:, None, :])[:, None], GREY)
