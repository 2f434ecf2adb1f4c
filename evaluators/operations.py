"""Operations that an image draws from a pool, as in RandAugment (Cubuk et al. 2020, arXiv:1909.13719).

Every image draws `operations_per_image` operations, with replacement, and for each a magnitude m and a sign. Ranges and
definitions are those of the public RandAugment that DeiT was trained with ("increasing" magnitudes).

rotate                            +-30 m degrees about the centre; grey outside
shear_x, shear_y                  +-0.3 m about the first pixel; grey outside
translate_x, translate_y          +-0.45 m of the side; grey outside
brightness, contrast, saturation  factor 1 +- 0.9 m; saturation is RandAugment's Color
sharpness                         factor 1 +- 0.9 m, against a 3x3 smoothing
posterize                         keep 4 - floor(4 m) bits, at least one
solarize                          invert values of 256 (1 - m) and more (of 255)
solarize_add                      add 110 m to values below 128 (of 255)
autocontrast, equalize, invert    no magnitude
grayscale                         no magnitude; not in RandAugment
blur                              Gaussian, deviation m/32 of the side; not in RandAugment
elastic                           a smooth random displacement, proportional to m; not in RandAugment

A CPU generator draws the numbers; kornia applies them to the images that drew the operation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from kornia.color import rgb_to_grayscale
from kornia.enhance import (
    adjust_brightness_accumulative,
    adjust_contrast_with_mean_subtraction,
    adjust_saturation_with_gray_subtraction,
    equalize,
    normalize_min_max,
    posterize,
    sharpness,
    solarize,
)
from kornia.filters import gaussian_blur2d
from kornia.geometry.transform import elastic_transform2d, get_affine_matrix2d, warp_affine
from torch import Tensor

from evaluators.fields import Augment

GREY = 0.5  # of pixels from outside the image
DEGREES, SHEAR, TRANSLATION = 30.0, 0.3, 0.45
FACTOR, ADDITION, BLUR = 0.9, 110 / 255, 1 / 32
ELASTIC, CELLS = 0.2, 8  # largest displacement before smoothing, in half sides; cells of its field along a side
AFFINE = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
LARGEST = (DEGREES, SHEAR, SHEAR, TRANSLATION, TRANSLATION)  # of AFFINE


@dataclass(frozen=True)
class OperationNumbers:
    """The random numbers of n images, for k operations one after another.

    names: operation of each image, k lists of n; "" for none.
    level: (k, n), magnitude with a sign, in -1..1.
    affine: (k, n, 5), degrees, shears, translations as shares of the side; 0 for operations not in AFFINE.
    field: (k, n, 2, CELLS, CELLS) in -1..1, displacements of `elastic`; None without it.
    """

    names: list[list[str]]
    level: Tensor
    affine: Tensor
    field: Tensor | None = None

    def to(self, device: torch.device | str) -> OperationNumbers:
        """Move the numbers to a device."""
        level, affine = (part.to(device, non_blocking=True) for part in (self.level, self.affine))
        return OperationNumbers(self.names, level, affine, self.field if self.field is None else self.field.to(device))


def join(parts: Sequence[OperationNumbers]) -> OperationNumbers:
    """Return the numbers of several batches as those of one."""
    names = [[name for names in rows for name in names] for rows in zip(*(part.names for part in parts), strict=True)]
    fields = [part.field for part in parts if part.field is not None]
    level, affine = (torch.cat([getattr(part, name) for part in parts], 1) for name in ("level", "affine"))
    return OperationNumbers(names, level, affine, torch.cat(fields, 1) if fields else None)


def draw(n: int, augment: Augment, generator: torch.Generator) -> OperationNumbers:
    """Draw operations and magnitudes for `n` images from a CPU generator."""
    pool, shape = augment.operations, (augment.operations_per_image, n)
    choice = torch.randint(len(pool), shape, generator=generator)
    chance, sign = torch.rand(2, *shape, generator=generator)
    magnitude = augment.magnitude + augment.magnitude_deviation * torch.randn(shape, generator=generator)
    level = magnitude.clamp(0, 1) * (2 * (sign < 0.5) - 1)
    choice = torch.where(chance < augment.operation_chance, choice, len(pool))
    names = [[(*pool, "")[i] for i in row] for row in choice.tolist()]
    column = torch.tensor([[[name == one for one in AFFINE] for name in row] for row in names])
    affine = column * level[:, :, None] * torch.tensor(LARGEST)
    field = 2 * torch.rand(*shape, 2, CELLS, CELLS, generator=generator) - 1 if "elastic" in pool else None
    return OperationNumbers(names, level, affine, field)


def apply(images: Tensor, draw: OperationNumbers) -> Tensor:
    """Apply drawn operations to float images 0..1 (n, 3, h, w); the result is in 0..1."""
    images = images.clone()
    for k, names in enumerate(draw.names):
        groups: dict[str, list[int]] = {}
        for i, name in enumerate(names):
            groups.setdefault("affine" if name in AFFINE else name, []).append(i)
        groups.pop("", None)
        for group, members in groups.items():
            rows = torch.tensor(members).to(images.device, non_blocking=True)
            x, level = images[rows], draw.level[k, rows]
            if group == "affine":
                x = _affine(x, draw.affine[k, rows])
            elif group == "elastic" and draw.field is not None:
                x = _elastic(x, draw.field[k, rows] * level.abs()[:, None, None, None])
            else:
                x = _OPERATIONS[group](x, level)
            images[rows] = x
    return images


def _affine(x: Tensor, numbers: Tensor) -> Tensor:
    """Rotate about the centre, shear about the first pixel, or shift. numbers: (n, 5), of which one is not 0."""
    height, width = x.shape[2:]
    degrees, shear_x, shear_y, right, down = numbers.unbind(1)
    middle = torch.stack([torch.full_like(right, (width - 1) / 2), torch.full_like(down, (height - 1) / 2)], 1)
    matrix = get_affine_matrix2d(
        torch.stack([right * width, down * height], 1),
        middle * (degrees != 0)[:, None],
        torch.ones_like(middle),
        degrees,
        shear_x.atan(),
        shear_y.atan(),
    )
    return GREY + warp_affine(x - GREY, matrix[:, :2], (height, width), align_corners=False)


def _elastic(x: Tensor, field: Tensor) -> Tensor:
    """Displace pixels by a random field (n, 2, CELLS, CELLS) that is smoothed by half a cell."""
    sigma = x.shape[-1] / CELLS / 2
    reach = max(1, round(2 * sigma))
    noise = F.interpolate(field * ELASTIC, x.shape[2:], mode="nearest")
    return GREY + elastic_transform2d(x - GREY, noise, (2 * reach + 1,) * 2, (sigma, sigma))


def _factor(level: Tensor) -> Tensor:
    return 1 + FACTOR * level


def _posterize(x: Tensor, level: Tensor) -> Tensor:
    return posterize(x, (4 - (4 * level.abs()).int()).clamp(min=1))


def _solarize(x: Tensor, level: Tensor) -> Tensor:
    return solarize(x, (1 - level.abs()) * 256 / 255)


def _solarize_add(x: Tensor, level: Tensor) -> Tensor:
    # not kornia's `additions`: they change bright pixels too
    brighter = (x + ADDITION * level.abs()[:, None, None, None]).clamp(max=1)
    return torch.where(x < 128 / 255, brighter, x)


def _autocontrast(x: Tensor, level: Tensor) -> Tensor:
    flat = x.amax((2, 3), keepdim=True) == x.amin((2, 3), keepdim=True)  # kornia makes a flat colour black
    return torch.where(flat, x, normalize_min_max(x, eps=1e-12))


def _blur(x: Tensor, level: Tensor) -> Tensor:
    side = x.shape[-1]
    sigma = (BLUR * side * level.abs()).clamp(min=0.1)  # px
    return gaussian_blur2d(x, 2 * max(1, round(3 * BLUR * side)) + 1, torch.stack([sigma, sigma], 1))


_OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": lambda x, level: adjust_brightness_accumulative(x, _factor(level)),
    "contrast": lambda x, level: adjust_contrast_with_mean_subtraction(x, _factor(level)),
    "saturation": lambda x, level: adjust_saturation_with_gray_subtraction(x, _factor(level)),
    "sharpness": lambda x, level: sharpness(x, _factor(level)),
    "posterize": _posterize,
    "solarize": _solarize,
    "solarize_add": _solarize_add,
    "autocontrast": _autocontrast,
    "equalize": lambda x, level: equalize(x),
    "invert": lambda x, level: 1 - x,
    "grayscale": lambda x, level: rgb_to_grayscale(x).expand_as(x),
    "blur": _blur,
}
