"""Differentiable Siamese augmentation (Zhao & Bilen 2021, arXiv:2102.08259), with the literature's settings.

A batch draws one operation, every image its numbers. Siamese: the numbers of one image serve batches of any size, so
that real and synthetic images are changed alike. Everything is differentiable in the images. Pixels from outside the
image are 0, so images must be normalised (mean 0). kornia applies the numbers that are drawn here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from kornia.enhance import adjust_brightness
from kornia.geometry.bbox import bbox_generator, bbox_to_mask
from kornia.geometry.transform import hflip, rotate, scale, translate
from torch import Tensor

from evaluators.fields import DSA

BRIGHTNESS, SATURATION, CONTRAST = 1.0, 2.0, 0.5
SCALE = 1.2
DEGREES = 15.0
CROP, CUTOUT = 0.125, 0.5  # shares of the image's side


@dataclass(frozen=True)
class DSANumbers:
    """The random numbers of a batch.

    operation: one of DSA.
    numbers: (n, 3) uniform in 0..1, or (1, 3) for all images alike.
    """

    operation: str
    numbers: Tensor

    def to(self, device: torch.device | str) -> DSANumbers:
        """Move the numbers to a device."""
        return DSANumbers(self.operation, self.numbers.to(device, non_blocking=True))


def draw(n: int, generator: torch.Generator, operations: tuple[str, ...] = DSA) -> DSANumbers:
    """Draw an operation, and numbers for `n` images, from a CPU generator; n = 1 for Siamese use."""
    index = int(torch.randint(len(operations), (), generator=generator))
    return DSANumbers(operations[index], torch.rand(n, 3, generator=generator))


def apply(images: Tensor, draw: DSANumbers) -> Tensor:
    """Augment normalised float images (n, 3, h, w) with drawn numbers; differentiable in the images."""
    return _OPERATIONS[draw.operation](images, draw.numbers)


def apply_groups(images: Tensor, operations: Tensor, numbers: Tensor, sizes: Sequence[int]) -> Tensor:
    """Augment groups of images, each group by one draw (Siamese); differentiable in the images.

    images: normalised float (n, 3, h, w), group after group. sizes: images of each group; their sum is n.
    operations: int64 (groups,), indices into DSA. numbers: (groups, 3), of the groups' draws.
    On a CPU: `apply`, group after group. On a GPU all operations are computed for all images, and each image takes its
    own: nothing waits for the device, so a CUDA graph can hold it.
    """
    if images.device.type != "cpu":
        return every_operation(images, operations, numbers, sizes)
    draws = [DSANumbers(DSA[i], u[None]) for i, u in zip(operations.tolist(), numbers, strict=True)]
    groups = images.split(list(sizes))
    return torch.cat([apply(group, draw) for group, draw in zip(groups, draws, strict=True)])


def every_operation(images: Tensor, operations: Tensor, numbers: Tensor, sizes: Sequence[int]) -> Tensor:
    """Compute what `apply_groups` returns without reading `operations`: all operations of all images."""
    own = torch.cat([operation.expand(n) for operation, n in zip(operations, sizes, strict=True)])[:, None, None, None]
    numbers = torch.cat([u.expand(n, 3) for u, n in zip(numbers, sizes, strict=True)])
    augmented = images
    for i, name in enumerate(DSA):
        augmented = torch.where(own == i, _OPERATIONS[name](images, numbers), augmented)
    return augmented


def _color(x: Tensor, u: Tensor) -> Tensor:
    """Change brightness, then saturation about each pixel's mean, then contrast about the image's mean."""
    _, colour, contrast = u[:, :, None, None, None].unbind(1)
    x = adjust_brightness(x, (u[:, 0] - 0.5) * BRIGHTNESS, clip_output=False)
    # not kornia's saturation and contrast: their grey is luma, and they clip at 0 and 1
    x = torch.lerp(x.mean(1, keepdim=True), x, colour * SATURATION)
    return torch.lerp(x.mean((1, 2, 3), keepdim=True), x, contrast + CONTRAST)


def _crop(x: Tensor, u: Tensor) -> Tensor:
    """Shift by whole pixels, at most an eighth of the side."""
    reach = [int(side * CROP + 0.5) for side in x.shape[2:]]
    down, across = (reach[i] - _integer(u[:, i], 2 * reach[i] + 1) for i in range(2))
    return translate(x, torch.stack([across, down], 1).to(x.dtype), mode="nearest", align_corners=False)


def _cutout(x: Tensor, u: Tensor) -> Tensor:
    """Set a square of half the side to 0; its centre is anywhere, and it may reach over the border."""
    (top, height), (left, width) = (_interval(u[:, i], x.shape[2 + i]) for i in range(2))
    boxes = bbox_generator(left, top, width, height).to(x.dtype)
    return x * (1 - bbox_to_mask(boxes, x.shape[3], x.shape[2]))[:, None]


def _interval(u: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return the first pixel along a side that the square covers, and the number of pixels, both (n,)."""
    width = int(side * CUTOUT + 0.5)
    first = _integer(u, side + 1 - width % 2) - width // 2
    return first, torch.full_like(first, width)


def _flip(x: Tensor, u: Tensor) -> Tensor:
    return torch.where((u[:, 0] < 0.5)[:, None, None, None], hflip(x), x)


def _scale(x: Tensor, u: Tensor) -> Tensor:
    """Scale width and height by separate factors; above 1 the picture shrinks."""
    factors = (1 / SCALE + u[:, :2] * (SCALE - 1 / SCALE)).to(x.dtype)
    if _sums_in_any_order(x):
        return sample_in_order(x, torch.diag_embed(factors))
    return scale(x, 1 / factors, align_corners=False)


def _rotate(x: Tensor, u: Tensor) -> Tensor:
    degrees = ((2 * u[:, 0] - 1) * DEGREES).to(x.dtype)
    if _sums_in_any_order(x):
        cos, sin = degrees.deg2rad().cos(), degrees.deg2rad().sin()
        return sample_in_order(x, torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2))
    return rotate(x, degrees, align_corners=False)


def _sums_in_any_order(x: Tensor) -> bool:
    """Return True where the backward pass of `grid_sample` would."""
    return x.is_cuda and x.requires_grad and torch.is_grad_enabled()


def sample_in_order(x: Tensor, matrices: Tensor) -> Tensor:
    """Sample images at the places that `matrices` give, about the centre; bilinear, 0 outside.

    It is `grid_sample`, whose backward pass adds in any order on a GPU; indexing adds in one order.

    x: (n, c, h, w). matrices: (n or 1, 2, 2), from a place in the result, (across, down), to one in the image.
    """
    n, c, h, w = x.shape
    ys, xs = (torch.arange(side, device=x.device, dtype=x.dtype) - (side - 1) / 2 for side in (h, w))
    grid = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), -1).view(1, 1, -1, 2)  # (1, 1, h w, 2)
    source = (matrices[:, :, None] * grid).sum(-1).expand(n, -1, -1)  # no matrix product: autocast would round it
    across, down = source[:, 0] + (w - 1) / 2, source[:, 1] + (h - 1) / 2  # each (n, h w)
    pixels = x.permute(0, 2, 3, 1).reshape(-1, c)
    first = torch.arange(n, device=x.device)[:, None] * (h * w)
    total = torch.zeros(n, h * w, c, device=x.device, dtype=x.dtype)
    for right, below in ((0, 0), (1, 0), (0, 1), (1, 1)):  # the four pixels around a place
        i, j = down.floor() + below, across.floor() + right
        inside = (i >= 0) & (i < h) & (j >= 0) & (j < w)
        weight = (1 - (down - i).abs()) * (1 - (across - j).abs()) * inside
        rows = first + i.clamp(0, h - 1).long() * w + j.clamp(0, w - 1).long()
        total = total + pixels[rows] * weight[..., None]
    return total.view(n, h, w, c).permute(0, 3, 1, 2)


def _integer(u: Tensor, choices: int) -> Tensor:
    """Map u in 0..1 to 0..choices-1; clamped, as the product of the largest float below 1 may round up to `choices`."""
    return (u * choices).long().clamp(max=choices - 1)


_OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = dict(
    zip(DSA, (_color, _crop, _cutout, _flip, _scale, _rotate), strict=True)
)
