"""The augmented batches of a training. The set is on the device as uint8; a CPU generator draws all numbers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from evaluators import augment
from evaluators.normalisation import CONSTANT, Normalisation
from evaluators.recipes import Recipe
from evaluators.seeds import generator

TOGETHER = 20  # batches, at most, that a GPU augments at once
TOGETHER_BYTES = 2**27  # of their pixels, at most


def batches(
    images: Tensor,
    targets: Tensor,
    recipe: Recipe,
    seed: int,
    start: int = 0,
    normalisation: Normalisation = CONSTANT,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield augmented batches without end: float 0..1 (batch, 3, h, w) and targets, on the device of `images`.

    targets: from `prepare_targets`. start: the first batch, from 0; those before are drawn, not made.
    normalisation: of the student, on the device of `images`.
    On a GPU, several batches are moved and augmented at once, from the same numbers (`how_many_together`).
    """
    together = how_many_together(images, recipe)
    numbers = augment.make_generators(seed)
    order = indices(len(images), recipe, generator(seed, "order"))
    for index in islice(order, start):
        augment.draw(len(index), recipe.augment, numbers)
    while part := list(islice(order, together)):
        sizes = [len(index) for index in part]
        draw = augment.draw_batches(sizes, recipe.augment, numbers).to(images.device)
        index = torch.cat(part).to(images.device, non_blocking=True)
        grey = images[index] if images.is_floating_point() else images[index].float() / 255
        x, y = augment.apply(grey, draw, recipe.augment, normalisation), targets[index]
        if recipe.augment.mixes:
            x, y = augment.mix(x, y, draw)
        yield from zip(x.split(sizes), y.split(sizes), strict=True)


def how_many_together(images: Tensor, recipe: Recipe) -> int:
    """Return how many batches to augment at once: on a GPU as many as TOGETHER and TOGETHER_BYTES allow, else 1.

    A GPU waits for the start of small operations; a CPU is faster while a batch is in its cache. DSA draws one
    operation for a batch, so it augments one at a time.
    """
    if images.device.type != "cuda" or recipe.augment.dsa:
        return 1
    of_a_batch = recipe.batch * images[0].numel() * 4
    return max(1, min(TOGETHER, TOGETHER_BYTES // of_a_batch))


def indices(n: int, recipe: Recipe, order: torch.Generator) -> Iterator[Tensor]:
    """Yield batches of indices without end: of each permutation of 0..n-1 (whole epochs), or of their chain."""
    rest = torch.empty(0, dtype=torch.int64)
    while True:
        if recipe.whole_epochs:
            yield from torch.randperm(n, generator=order).split(recipe.batch)
            continue
        while len(rest) < recipe.batch:
            rest = torch.cat([rest, torch.randperm(n, generator=order)])
        yield rest[: recipe.batch]
        rest = rest[recipe.batch :]
