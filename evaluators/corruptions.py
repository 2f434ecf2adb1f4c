"""Test a student on corrupted test images: a fixed, seeded set of corruptions of overhead images, with its own VERSION.

haze        x t + 0.9 (1 - t): light scattered by the air (Narasimhan & Nayar 2002), uniform; t per level
cloud       white clouds, other ones in every image: the highest share of a smooth random field, with soft edges
noise       Gaussian, independent for colours and pixels; deviation per level
blur        Gaussian; deviation as a share of the image's side
brightness  underexposure: a factor
jpeg        encoded and decoded; quality per level
rotation    by 90, 180 and 270 degrees: no level is worse than another

An image's random numbers depend on its index in the test set, not on the batch. LEVELS holds every number.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import reduce
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2.functional import gaussian_blur

from evaluators.seeds import generator
from evaluators.targets import check_labelled
from evaluators.train import Progress, logits

VERSION = 1
LEVELS: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {
        "haze": (0.75, 0.55, 0.35),
        "cloud": (0.15, 0.3, 0.5),
        "noise": (0.04, 0.08, 0.12),
        "blur": (1 / 96, 1 / 48, 1 / 32),
        "brightness": (0.75, 0.5, 0.3),
        "jpeg": (50, 25, 10),
        "rotation": (1, 2, 3),
    }
)
AIR, CLOUD = 0.9, 0.95  # brightness of haze and clouds
BATCH = 256


def accuracies(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    device: torch.device | str,
    progress: Progress | None = None,
) -> dict[str, list[float]]:
    """Compute the overall accuracy (fractions) of `model` under each corruption, mildest level first.

    Otherwise as `accuracy.evaluate`. progress: called as progress(conditions, description, total), returns the
    conditions.
    """
    check_labelled(images, labels, num_classes)
    conditions = [(name, level) for name in LEVELS for level in range(3)]
    by_corruption: dict[str, list[float]] = {name: [] for name in LEVELS}
    for name, level in progress(conditions, "corruptions", len(conditions)) if progress else conditions:
        correct = 0
        for start in range(0, len(images), BATCH):
            part = corrupt(images[start : start + BATCH], name, level, start)
            predicted = next(logits(model, part, device, BATCH)).argmax(1).cpu()
            correct += int((predicted == labels[start : start + BATCH]).sum())
        by_corruption[name].append(correct / len(images))
    return by_corruption


def corrupt(images: Tensor, name: str, level: int, first: int = 0) -> Tensor:
    """Corrupt uint8 images (n, 3, s, s) at a level 0..2. first: index of the first image in the test set."""
    strength = LEVELS[name][level]
    if name == "rotation":
        return images.rot90(int(strength), (2, 3))
    if name == "jpeg":
        return torch.stack([_jpeg(one, int(strength)) for one in images.cpu()])
    draws = [generator(VERSION, name, level, first + i) for i in range(len(images))]
    return (_CHANGES[name](images.float() / 255, strength, draws) * 255).round().clamp(0, 255).byte()


def _jpeg(image: Tensor, quality: int) -> Tensor:
    """Encode and decode an image with Pillow (torchvision's coders are deprecated)."""
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "jpeg", quality=quality)
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)


def _haze(x: Tensor, clear: float, draws: list[torch.Generator]) -> Tensor:
    return x * clear + AIR * (1 - clear)


def _cloud(x: Tensor, share: float, draws: list[torch.Generator]) -> Tensor:
    # smooth random values: grids of 3, 6, 12, 24 points, each half as strong as the one before
    size, fields = x.shape[-2:], []
    for draw in draws:
        grids = [torch.randn(1, 1, points, points, generator=draw) / 2**i for i, points in enumerate((3, 6, 12, 24))]
        scaled = (F.interpolate(grid, size, mode="bicubic", align_corners=True) for grid in grids)
        fields.append(reduce(torch.add, scaled)[0, 0])
    field = torch.stack(fields)
    flat = field.flatten(1)
    edge = flat.quantile(1 - share, dim=1)[:, None, None]
    cover = ((field - edge) / (0.3 * flat.std(1)[:, None, None]) + 0.5).clamp(0, 1)[:, None].to(x)
    return x * (1 - cover) + CLOUD * cover


def _noise(x: Tensor, deviation: float, draws: list[torch.Generator]) -> Tensor:
    return x + deviation * torch.stack([torch.randn(x.shape[1:], generator=draw) for draw in draws]).to(x)


def _blur(x: Tensor, share: float, draws: list[torch.Generator]) -> Tensor:
    sigma = share * x.shape[-1]
    reach = min(max(1, round(3 * sigma)), x.shape[-1] - 1)
    blurred: Tensor = gaussian_blur(x, [2 * reach + 1] * 2, [sigma] * 2)
    return blurred


def _brightness(x: Tensor, factor: float, draws: list[torch.Generator]) -> Tensor:
    return x * factor


_CHANGES = {"haze": _haze, "cloud": _cloud, "noise": _noise, "blur": _blur, "brightness": _brightness}
