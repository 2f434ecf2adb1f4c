"""Random crops, flips, colour, cutout and CutMix for a whole batch at once, every image its own draw.

(Of DSA a batch draws the operation and every image its numbers: evaluators.dsa.) Crop, flips and transposition are one
bilinear resampling. What is drawn (`draw`) is apart from what is done with it (`apply`, `mix`), so that each image can
be checked against a slow reference, and so that a CPU generator gives the same draws whatever the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from evaluators import dsa
from evaluators.recipes import Augment

MEAN, STD = 0.5, 0.25  # of every channel; constants, so that no statistic of any data set is in a network or a protocol
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in torchvision's and Pillow's greyscale
GREY = 0.5


@dataclass(frozen=True)
class Draw:
    """One batch's random numbers, first dimension n.

    theta: (n, 2, 3), output to input coordinates in [-1, 1] (x, y). brightness, contrast, saturation: factors (n,).
    hole: (n, 2), centre (x, y) of the cutout in [-1, 1]. partner, patch: of CutMix, the number (n,) of the image that a
    square is taken from, and the square (n, 3): centre (x, y) in [-1, 1], side as a share of the image's.
    """

    theta: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hole: Tensor
    partner: Tensor | None = None
    patch: Tensor | None = None
    dsa: dsa.Draw | None = None

    def to(self, device: torch.device | str) -> Draw:
        """The same numbers on another device."""
        moved: dict[str, Any] = {
            name: value if value is None or name == "dsa" else value.to(device, non_blocking=True)
            for name, value in vars(self).items()
        }
        return Draw(**moved | {"dsa": self.dsa and self.dsa.to(device)})


def draw(n: int, augment: Augment, generator: torch.Generator) -> Draw:
    """Random numbers for `n` images from a CPU generator.

    Those of crop, flips, colour and cutout are always as many, so that none of these options moves another's draws.
    """
    u = torch.rand(12, n, generator=generator)
    brightness, contrast, saturation = (
        1 + (2 * u[i] - 1) * width
        for i, width in enumerate((augment.brightness, augment.contrast, augment.saturation), start=7)
    )
    tries = torch.rand(augment.crop_tries, 2, n, generator=generator)
    partner, patch = _mixing(n, augment, generator) if augment.cutmix else (None, None)
    mode = dsa.draw(n, generator, augment.dsa) if augment.dsa else None
    theta = _thetas(u[:7], tries, augment)
    return Draw(theta, brightness, contrast, saturation, 2 * u[10:12].T - 1, partner, patch, mode)


def apply(images: Tensor, draw: Draw, augment: Augment) -> Tensor:
    """Augment float images 0..1 (n, 3, h, w) as drawn. `Augment()` changes nothing; CutMix is apart, in `mix`.

    The result is in 0..1 too, but for DSA, which changes normalised images and clips nothing.
    """
    crops = augment.crop_area != (1, 1) or augment.crop_ratio != (1, 1)
    if crops or augment.flip_x or augment.flip_y or augment.transpose:
        grid = F.affine_grid(draw.theta, list(images.shape), align_corners=False)
        images = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    if augment.brightness or augment.contrast or augment.saturation:
        images = _colour(images, draw)
    if draw.dsa:
        images = MEAN + STD * dsa.apply((images - MEAN) / STD, draw.dsa)
    return images.masked_fill(_square(images, draw.hole, augment.cutout), GREY) if augment.cutout else images


def mix(images: Tensor, targets: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """CutMix (Yun et al. 2019, arXiv:1905.04899): images with a square of their partner's, and targets (n, c) mixed.

    A target is mixed by the share of pixels that were replaced, not by the share that was drawn.
    """
    if draw.partner is None or draw.patch is None:
        raise ValueError("these numbers were drawn without CutMix")
    replaced = _square(images, draw.patch[:, :2], draw.patch[:, 2:])
    share = replaced.float().mean((2, 3))
    return torch.where(replaced, images[draw.partner], images), targets + share * (targets[draw.partner] - targets)


def resize(images: Tensor, size: int, crop: int | None = None) -> Tensor:
    """Float images 0..1 of `size` x `size` pixels from uint8 ones, bilinear, antialiased; of that the middle `crop`."""
    images = images.float() / 255
    if images.shape[-1] != size:
        images = F.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=True)
    margin = (size - (crop or size)) // 2
    return images[:, :, margin : size - margin, margin : size - margin]


def _mixing(n: int, augment: Augment, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Partners (n,) and squares (n, 3) of CutMix; a side of 0 where nothing is mixed."""
    partner = torch.randperm(n, generator=generator)
    x, y, share, mixed = torch.rand(4, n, generator=generator)
    side = torch.where(mixed < augment.cutmix, share.sqrt(), 0)
    return partner, torch.stack([2 * x - 1, 2 * y - 1, side], 1)


def _thetas(u: Tensor, tries: Tensor, augment: Augment) -> Tensor:
    """Affine maps (n, 2, 3): a crop inside the image, mirrored with the given probabilities, maybe transposed."""
    width, height = _fitting(tries, augment) if augment.crop_tries else _crop(u[0], u[1], augment).clamp(max=1)
    x, y = (2 * u[2] - 1) * (1 - width), (2 * u[3] - 1) * (1 - height)
    width = torch.where(u[4] < augment.flip_x, -width, width)
    height = torch.where(u[5] < augment.flip_y, -height, height)
    zero = torch.zeros_like(x)
    straight = torch.stack([width, zero, x, zero, height, y], dim=1).view(-1, 2, 3)
    turned = torch.stack([zero, width, x, height, zero, y], dim=1).view(-1, 2, 3)
    return torch.where((u[6] < augment.transpose)[:, None, None], turned, straight)


def _crop(area: Tensor, ratio: Tensor, augment: Augment) -> Tensor:
    """Width and height of the crops as shares of the image's, stacked in front; maybe above 1."""
    low, high = augment.crop_area
    area = low + (high - low) * area
    first, last = torch.tensor(augment.crop_ratio, dtype=torch.float32).log()
    ratio = torch.exp(first + (last - first) * ratio)
    return torch.stack([area * ratio, area / ratio]).sqrt()


def _fitting(tries: Tensor, augment: Augment) -> Tensor:
    """Of the tries (k, 2, n) the first crop that is inside the image, or the whole image."""
    sides = torch.stack([_crop(area, ratio, augment) for area, ratio in tries])
    found = torch.ones_like(sides[0])
    for one in sides.flip(0):
        found = torch.where(one.amax(0) <= 1, one, found)
    return found


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


def _square(images: Tensor, centre: Tensor, side: float | Tensor) -> Tensor:
    """Which pixels (n, 1, h, w) a square covers: centre (n, 2) in [-1, 1], side as a share of the image's."""
    rows, columns = (torch.arange(k, device=images.device).add(0.5).mul(2 / k).sub(1) for k in images.shape[2:])
    across = (columns - centre[:, :1]).abs() < side
    down = (rows - centre[:, 1:]).abs() < side
    return (down[:, :, None] & across[:, None, :])[:, None]
