"""Pixels as networks want them, and batches of them drawn by name."""

from __future__ import annotations

import torch
from torch import Tensor

from ddbench.context import generator_of
from ddbench.types import ImageSet


def draw_batch(data: ImageSet, count: int, *names: str | int) -> tuple[Tensor, Tensor]:
    """`count` training images, each flipped or turned by one of the eight symmetries of the square, in [-1, 1].

    Returns float32 (count, 3, h, w) and int64 labels; what is drawn follows from `names` alone.
    """
    generator = generator_of(0, *names)
    rows = torch.randint(len(data.labels), (count,), generator=generator)
    images = data.images[rows]
    for axes in ((3,), (2,)):
        flip = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
        images = torch.where(flip, images.flip(axes), images)
    turn = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
    return to_float(torch.where(turn, images.transpose(2, 3), images)), data.labels[rows]


def to_float(images: Tensor) -> Tensor:
    """uint8 0..255 to float32 [-1, 1]."""
    return images.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """float [-1, 1] to the nearest uint8 0..255, values outside clipped."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
