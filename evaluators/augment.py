"""Random crops, flips, colour, erasing, mixing and more for a whole batch at once; every image draws its own numbers.

(DSA draws one operation for a batch: evaluators.dsa.) Crop, flips and transposition are one bilinear resampling, by
torch: kornia's warp_affine gives the same values, but wants the inverse matrix, in pixels, and inverts it again.
Drawing (`draw`) is separate from changing images (`apply`, `mix`): each image can be checked against a slow reference,
and a CPU generator draws the same numbers for every device.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from kornia.color import rgb_to_grayscale
from kornia.enhance import adjust_brightness_accumulative
from kornia.geometry.bbox import bbox_generator, bbox_to_mask
from torch import Tensor

from evaluators import dsa, operations
from evaluators.fields import Augment
from evaluators.normalisation import CONSTANT, Normalisation
from evaluators.operations import GREY
from evaluators.seeds import generator

ERASED_AREA, ERASED_RATIO = (0.02, 1 / 3), (0.3, 3.3)  # of random erasing: share of the area; height to width
OWN_GENERATOR = ("operations", "erasing", "mixing", "lighting", "pieces")  # options that change no other option's draws
# of ImageNet's pixels in 0..1 (AlexNet, Krizhevsky et al. 2012): principal colours in columns, and their weights
PRINCIPAL_COLOURS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
COLOUR_WEIGHTS = (0.2175, 0.0188, 0.0045)


@dataclass(frozen=True)
class BatchNumbers:
    """The random numbers of a batch of n images.

    theta: (n, 2, 3), affine map of output to input coordinates (x, y) in [-1, 1].
    brightness, contrast, saturation: factors (n,).
    hole: (n, 2), centre (x, y) of the cutout in [-1, 1].
    partner: (n,), index of the image that CutMix pastes a square of; None without CutMix.
    patch: (n, 3), that square: centre (x, y) in [-1, 1], side as a share of the image's; None without CutMix.
    dsa: numbers of DSA; None without it.
    operations: numbers of `evaluators.operations`; None without them.
    erased: (n, 4), rectangle of random erasing: width and height as shares of the image's, 0 for none; its place from
        left and top, 0..1. None without erasing.
    blend: (n,), share of the partner's pixels and label in mixup; None without mixup.
    light: (n, 3), added to the channels by lighting; None without it.
    pieces: (n, 2, k), new order of the k columns and of the k rows of pieces; None without `shuffle_pieces`.
    """

    theta: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hole: Tensor
    partner: Tensor | None = None
    patch: Tensor | None = None
    dsa: dsa.DSANumbers | None = None
    operations: operations.OperationNumbers | None = None
    erased: Tensor | None = None
    blend: Tensor | None = None
    light: Tensor | None = None
    pieces: Tensor | None = None

    def to(self, device: torch.device | str) -> BatchNumbers:
        """Move the numbers to a device."""
        moved: dict[str, Any] = {}
        for name, value in vars(self).items():
            options = {"non_blocking": True} if isinstance(value, Tensor) else {}
            moved[name] = value if value is None else value.to(device, **options)
        return BatchNumbers(**moved)


def make_generators(seed: int) -> dict[str, torch.Generator]:
    """Return the CPU generators of a training: "augment", which several options share, and those of OWN_GENERATOR."""
    return {"augment": generator(seed, "augment")} | {name: generator(seed, "augment", name) for name in OWN_GENERATOR}


def draw(n: int, augment: Augment, generators: Mapping[str, torch.Generator]) -> BatchNumbers:
    """Draw the random numbers of `n` images (`draw_batches`)."""
    return draw_batches([n], augment, generators)


def draw_batches(sizes: Sequence[int], augment: Augment, generators: Mapping[str, torch.Generator]) -> BatchNumbers:
    """Draw the random numbers of batches, one after the other, as those of one batch of all their images.

    sizes: images of each batch. Each image has the numbers, and the partner, that it has in a batch drawn alone. With
    DSA, which draws an operation for a batch, there can be one batch only.

    Crop, flips, colour and cutout always draw equally many numbers, before all others, so that they never change one
    another's draws. Operations, erasing, lighting, pieces, and mixing by batches or without CutMix have a generator
    each and change no other draw. crop_tries, CutMix and DSA share the first generator, in this order, because
    published rows (dpd@1, soft@1, dc@1) are drawn so: each that is used changes the draws of those after it, and of
    every later batch.
    """
    if augment.dsa and len(sizes) > 1:
        raise ValueError("batches with DSA cannot be drawn together: each draws an operation of its own")
    shared = generators["augment"]
    mixing = shared if augment.cutmix and not augment.mix_batch else generators["mixing"]
    raw: dict[str, list[Tensor]] = defaultdict(list)  # of each batch; the rest is computed for all at once
    pools: list[operations.OperationNumbers] = []
    drawn: dict[str, Any] = {}
    for first, n in zip(accumulate(sizes, initial=0), sizes, strict=False):
        raw["u"].append(torch.rand(12, n, generator=shared))
        raw["tries"].append(torch.rand(augment.crop_tries, 2, n, generator=shared))
        if augment.mixes:
            raw["partner"].append(first + torch.randperm(n, generator=mixing))
            raw["mix"].append(torch.rand(4, 1 if augment.mix_batch else n, generator=mixing).expand(4, n))
        if augment.dsa:
            drawn["dsa"] = dsa.draw(n, shared, augment.dsa)
        if augment.operations:
            pools.append(operations.draw(n, augment, generators["operations"]))
        if augment.erasing:
            raw["erasing"].append(torch.rand(5, n, generator=generators["erasing"]))
        if augment.lighting:
            raw["lighting"].append(torch.randn(n, 3, generator=generators["lighting"]).T)
        if augment.shuffle_pieces:
            raw["pieces"].append(torch.rand(n, 2, augment.shuffle_pieces, generator=generators["pieces"]).movedim(0, 2))
    numbers = {name: torch.cat(parts, -1) for name, parts in raw.items()}
    u = numbers["u"]
    brightness, contrast, saturation = (
        1 + (2 * u[i] - 1) * width
        for i, width in enumerate((augment.brightness, augment.contrast, augment.saturation), start=7)
    )
    if augment.mixes:
        x, y, share, chance = numbers["mix"]
        side = torch.where(chance < augment.cutmix, share.sqrt(), 0)  # a square of side 0 mixes nothing
        drawn |= {"partner": numbers["partner"], "patch": torch.stack([2 * x - 1, 2 * y - 1, side], 1)}
        if augment.mixup:
            blended = (chance >= augment.cutmix) & (chance < augment.cutmix + augment.mixup)
            if (a := augment.mixup_alpha) != 1:  # the quantile of a uniform share has the beta distribution
                from scipy.special import betaincinv  # importing it takes a third of a second

                share = torch.from_numpy(betaincinv(a, a, share.double().numpy())).float()
            drawn["blend"] = torch.where(blended, share, 0)
    if augment.operations:
        drawn["operations"] = operations.join(pools)
    if augment.erasing:
        drawn["erased"] = _rectangles(numbers["erasing"], augment.erasing)
    if augment.lighting:
        alpha = augment.lighting * numbers["lighting"].T
        drawn["light"] = alpha * torch.tensor(COLOUR_WEIGHTS) @ torch.tensor(PRINCIPAL_COLOURS).T
    if augment.shuffle_pieces:
        drawn["pieces"] = numbers["pieces"].movedim(2, 0).argsort(2)
    theta = _affine_maps(u[:7], numbers["tries"], augment)
    return BatchNumbers(theta, brightness, contrast, saturation, 2 * u[10:12].T - 1, **drawn)


def apply(images: Tensor, draw: BatchNumbers, augment: Augment, normalisation: Normalisation = CONSTANT) -> Tensor:
    """Augment float images 0..1 (n, 3, h, w) with drawn numbers, without CutMix and mixup, which are in `mix`.

    normalisation: of the network, which DSA uses; on the images' device.
    `Augment()` changes nothing. The result is in 0..1, except after lighting and DSA, which clip nothing (DSA changes
    normalised images).
    """
    if draw.pieces is not None:
        images = _shuffle_pieces(images, draw.pieces)
    crops = augment.crop_area != (1, 1) or augment.crop_ratio != (1, 1)
    if crops or augment.flip_x or augment.flip_y or augment.transpose:
        grid = F.affine_grid(draw.theta, list(images.shape), align_corners=False)
        images = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    if draw.operations:
        images = operations.apply(images, draw.operations)
    if augment.brightness or augment.contrast or augment.saturation:
        images = _colour(images, draw)
    if draw.light is not None:
        images = images + draw.light[:, :, None, None]
    if draw.dsa:
        images = normalisation.restore(dsa.apply(normalisation.apply(images), draw.dsa))
    if draw.erased is not None:
        images = images.masked_fill(_rectangle_mask(images, draw.erased), GREY)
    return images.masked_fill(_square_mask(images, draw.hole, augment.cutout), GREY) if augment.cutout else images


def mix(images: Tensor, targets: Tensor, draw: BatchNumbers) -> tuple[Tensor, Tensor]:
    """Apply CutMix (Yun et al. 2019, arXiv:1905.04899) and mixup: mix each image with its partner, and targets (n, c).

    CutMix pastes a square; targets are mixed by the share of pixels that were replaced, not by the share that was
    drawn. Raises ValueError for numbers drawn without either.
    """
    if draw.partner is None or draw.patch is None:
        raise ValueError("the draw has no CutMix or mixup: draw it from an Augment with cutmix or mixup above 0")
    replaced = _square_mask(images, draw.patch[:, :2], draw.patch[:, 2:])
    share = replaced.float().mean((2, 3))
    partners = images[draw.partner]
    mixed = torch.where(replaced, partners, images)
    if draw.blend is not None:  # 0 where a square was pasted
        share = share + draw.blend[:, None]
        mixed = torch.lerp(mixed, partners, draw.blend[:, None, None, None])
    return mixed, targets + share * (targets[draw.partner] - targets)


def resize(images: Tensor, size: int, crop: int | None = None) -> Tensor:
    """Scale uint8 images to float images 0..1 of `size` x `size` pixels; return their middle `crop` x `crop` pixels.

    Bilinear, antialiased. crop: px; None for all.
    """
    images = images.float() / 255
    if images.shape[-1] != size:
        images = F.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=True)
    margin = (size - (crop or size)) // 2
    return images[:, :, margin : size - margin, margin : size - margin]


def _affine_maps(u: Tensor, tries: Tensor, augment: Augment) -> Tensor:
    """Return affine maps (n, 2, 3): a crop inside the image, mirrored and transposed with their probabilities.

    u: (7, n) uniform in 0..1. tries: (k, 2, n) uniform in 0..1, for k crops.
    """
    if augment.crop_tries:  # the first try that is inside the image, else the whole image
        sides = torch.ones_like(u[:2])
        for area, ratio in tries.flip(0):
            crop = _crop_sides(area, ratio, augment)
            sides = torch.where(crop.amax(0) <= 1, crop, sides)
    else:
        sides = _crop_sides(u[0], u[1], augment).clamp(max=1)
    width, height = sides
    x, y = (2 * u[2] - 1) * (1 - width), (2 * u[3] - 1) * (1 - height)
    width = torch.where(u[4] < augment.flip_x, -width, width)
    height = torch.where(u[5] < augment.flip_y, -height, height)
    zero = torch.zeros_like(x)
    upright = torch.stack([width, zero, x, zero, height, y], dim=1).view(-1, 2, 3)
    transposed = torch.stack([zero, width, x, height, zero, y], dim=1).view(-1, 2, 3)
    return torch.where((u[6] < augment.transpose)[:, None, None], transposed, upright)


def _crop_sides(area: Tensor, ratio: Tensor, augment: Augment) -> Tensor:
    """Return width and height of crops as shares of the image's, (2, n); they may be above 1."""
    low, high = augment.crop_area
    area = low + (high - low) * area
    first, last = torch.tensor(augment.crop_ratio, dtype=torch.float32).log()
    ratio = torch.exp(first + (last - first) * ratio)
    return torch.stack([area * ratio, area / ratio]).sqrt()


def _shuffle_pieces(images: Tensor, pieces: Tensor) -> Tensor:
    """Put the columns of pieces, then the rows, into a new order; pixels beyond the last whole piece stay."""
    count = pieces.shape[2]
    for order, dim in ((pieces[:, 0], 3), (pieces[:, 1], 2)):
        size = images.shape[dim]
        side = size // count
        moved = (order[:, :, None] * side + torch.arange(side, device=images.device)).flatten(1)
        rest = torch.arange(count * side, size, device=images.device).expand(len(images), -1)
        index = torch.cat([moved, rest], 1)
        index = index[:, None, None, :] if dim == 3 else index[:, None, :, None]
        images = images.gather(dim, index.expand_as(images))
    return images


def _colour(images: Tensor, draw: BatchNumbers) -> Tensor:
    """Change brightness, then contrast about the image's mean grey, then saturation about each pixel's grey; clip."""
    images = adjust_brightness_accumulative(images, draw.brightness, clip_output=False)
    mean = rgb_to_grayscale(images).mean((2, 3), keepdim=True)
    # not kornia's contrast and saturation: both clip, so that saturation would see clipped colours
    images = torch.lerp(mean, images, draw.contrast[:, None, None, None])
    return torch.lerp(rgb_to_grayscale(images), images, draw.saturation[:, None, None, None]).clamp(0, 1)


def _rectangles(u: Tensor, chance: float) -> Tensor:
    """Return rectangles of random erasing (n, 4), as in `BatchNumbers`. u: (5, n) uniform in 0..1."""
    low, high = ERASED_AREA
    log_low, log_high = (math.log(ratio) for ratio in ERASED_RATIO)
    area, ratio = low + (high - low) * u[0], torch.exp(log_low + (log_high - log_low) * u[1])
    sides = torch.stack([area / ratio, area * ratio]).sqrt().clamp(max=1) * (u[4] < chance)
    return torch.cat([sides, u[2:4]]).T


def _rectangle_mask(images: Tensor, rectangles: Tensor) -> Tensor:
    """Return the mask (n, 1, h, w) of rectangles of whole pixels inside the image."""
    height, width = images.shape[2:]
    across, down = (rectangles[:, 0] * width).round(), (rectangles[:, 1] * height).round()
    left = torch.minimum((rectangles[:, 2] * (width - across + 1)).floor(), width - across)
    top = torch.minimum((rectangles[:, 3] * (height - down + 1)).floor(), height - down)
    return bbox_to_mask(bbox_generator(left, top, across, down), width, height)[:, None].bool()


def _square_mask(images: Tensor, centre: Tensor, side: float | Tensor) -> Tensor:
    """Return the mask (n, 1, h, w) of squares: centre (n, 2) in [-1, 1], side as a share of the image's."""
    rows, columns = (torch.arange(k, device=images.device).add(0.5).mul(2 / k).sub(1) for k in images.shape[2:])
    across = (columns - centre[:, :1]).abs() < side
    down = (rows - centre[:, 1:]).abs() < side
    return (down[:, :, None] & across[:, None, :])[:, None]
