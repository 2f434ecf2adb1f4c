"""A captioner without a network: dominant colours, texture and edge density, measured in the pixels.

Thresholds are ours: UC Merced and EuroSAT have images on both sides of each.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

VERSION = 1  # raise it when a caption changes: stages are keyed by it
SIDE = 32  # pixels that are looked at, so that a caption hardly depends on the size an image is read in
GRAYS = {"black": 0.15, "dark gray": 0.35, "gray": 0.65, "white": 1.0}  # name: brightest value
HUES = {"red": 20, "brown": 50, "yellow": 70, "green": 165, "blue": 265, "purple": 340, "red again": 360}  # degrees
GRAY_BELOW = 0.12  # saturation
DARK_BELOW, BRIGHT_ABOVE = 0.35, 0.7  # value
MINOR = 0.2  # share of the pixels that a second colour needs
TEXTURES = {"smooth": 0.012, "uneven": 0.035, "rough": torch.inf}  # mean distance from the 3x3 mean of the luminance
EDGES = {"few": 0.05, "some": 0.3, "many": torch.inf}  # share of pixels on an edge
EDGE = 0.15  # Sobel gradient of the luminance, per pixel
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def describe(images: Tensor) -> list[str]:
    """One caption for each of the uint8 images (n, 3, h, w): "dark green and brown, rough texture, many edges"."""
    small = F.adaptive_avg_pool2d(images.float() / 255, SIDE)
    luma = torch.einsum("nchw,c->nhw", small, torch.tensor(LUMA))[:, None]
    rough = [_name(value, TEXTURES) for value in _roughness(luma).tolist()]
    edges = [_name(value, EDGES) for value in _edge_share(luma).tolist()]
    return [f"{c}, {r} texture, {e} edges" for c, r, e in zip(_colours(small), rough, edges, strict=True)]


def _name(value: float, limits: dict[str, float]) -> str:
    return next(name for name, limit in limits.items() if value <= limit)


def _roughness(luma: Tensor) -> Tensor:
    """Mean absolute distance of each pixel from the mean of its 3x3 neighbourhood, (n,), 0..1."""
    padded = F.pad(luma, (1, 1, 1, 1), mode="replicate")
    return (luma - F.avg_pool2d(padded, 3, 1)).abs().mean((1, 2, 3))


def _edge_share(luma: Tensor) -> Tensor:
    """Share of the pixels whose Sobel gradient is above EDGE, (n,)."""
    across = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    padded = F.pad(luma, (1, 1, 1, 1), mode="replicate")
    gradient = F.conv2d(padded, torch.stack([across, across.T])[:, None] / 4).norm(dim=1)
    return (gradient > EDGE).float().mean((1, 2))


def _colours(small: Tensor) -> list[str]:
    """The most frequent colour name of each image, and the second where it covers enough."""
    names = [*GRAYS, *(f"{shade}{hue}" for hue in HUES for shade in ("dark ", "", "bright "))]
    merged = [name.removesuffix(" again") for name in names]
    distinct = list(dict.fromkeys(merged))
    index = torch.tensor([distinct.index(name) for name in merged])[_colour_numbers(small)].flatten(1)
    shares = F.one_hot(index, len(distinct)).float().mean(1)
    top, which = shares.topk(2, dim=1)
    return [
        distinct[first] + (f" and {distinct[second]}" if share >= MINOR else "")
        for (first, second), share in zip(which.tolist(), top[:, 1].tolist(), strict=True)
    ]


def _colour_numbers(small: Tensor) -> Tensor:
    """Per pixel the number of its colour: grays by value, then three shades of each hue; (n, h, w)."""
    value, span = small.amax(1), small.amax(1) - small.amin(1)
    gray = torch.bucketize(value, torch.tensor(list(GRAYS.values())[:-1]))
    hue = torch.bucketize(_hue(small, value, span), torch.tensor(list(HUES.values())[:-1]))
    shade = (value > DARK_BELOW).long() + (value > BRIGHT_ABOVE).long()
    return torch.where(span < GRAY_BELOW * value.clamp(min=1e-3), gray, len(GRAYS) + 3 * hue + shade)


def _hue(small: Tensor, value: Tensor, span: Tensor) -> Tensor:
    """Degrees, 0..360 (the HSV colour model)."""
    red, green, blue = small.unbind(1)
    span = span.clamp(min=1e-6)
    sector = torch.where(value == red, (green - blue) / span, torch.where(
        value == green, 2 + (blue - red) / span, 4 + (red - green) / span))  # fmt: skip
    return 60 * sector % 360
