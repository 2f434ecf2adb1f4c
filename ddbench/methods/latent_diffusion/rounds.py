"""Sampling in batches or in rounds (image j of every class after images 1 to j - 1); what a guidance sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ddbench.context import Context
from ddbench.methods.latent_diffusion.model import LatentModel
from ddbench.methods.shared.device import in_batches


@dataclass(frozen=True)
class SamplingBatch:
    """The images of one batch.

    model: the base.
    starts: latents that the images start from below strength 1, (n, c, h, w).
    labels: class of each image, int64 (n,).
    conditions: conditions of all prompts of the run (`LatentModel.encode_prompts`); the last is the negative one.
    rows: of each image the row of its prompt in `conditions`, int64 (n,).
    finished: finished latents of each image's class, (n, m, c, h, w) on the CPU; m is 0 unless a method samples in
        rounds, and then the number of the round, from 0 on.
    generators: (name of a draw) -> a new generator for each image. The sampler's noise has others.
    targets: `StartLatents.targets`, by which the method's guidance is led.
    """

    model: LatentModel
    starts: Tensor
    labels: Tensor
    conditions: Tensor
    rows: Tensor
    finished: Tensor
    generators: Callable[[str], list[torch.Generator]]
    targets: Any = None

    @property
    def condition(self) -> Tensor:
        """The condition of each image, (n, ...)."""
        return self.conditions[self.rows.to(self.conditions.device)]

    @property
    def negative(self) -> Tensor:
        """The negative condition, once for each image, (n, ...)."""
        return self.conditions[-1:].expand(len(self.rows), *self.conditions.shape[1:])


Sampled = tuple[Tensor, int]  # a latent (c, h, w) on the CPU, and the number of fallbacks
SampleBatch = Callable[[Sequence[int], Sequence[Sequence[Tensor]]], list[Sampled]]


def is_guided(i: int, steps: int, start: float, end: float) -> bool:
    """Return True if step i lies between two shares of the steps, the second excluded."""
    return start <= i / steps < end


def sample_rounds(
    sample_batch: SampleBatch, labels: Sequence[int], in_rounds: bool, batch: int, ctx: Context
) -> list[Sampled]:
    """Return a sample for each of the images whose classes are `labels`, in their order.

    sample_batch: (images, for each the finished latents (c, h, w) of its class) -> their samples.
    in_rounds: round j samples image j of every class, after all of round j - 1; every class has as many images.
        Otherwise one round samples all images, and none is finished.
    batch: images sampled at once. The processes of a launch share each round.
    """
    of_class: dict[int, list[int]] = {}
    for image, label in enumerate(labels):
        of_class.setdefault(label, []).append(image)
    rounds = list(zip(*of_class.values(), strict=True)) if in_rounds else [tuple(range(len(labels)))]
    bar = partial(ctx.progress, desc="sampling")
    samples: dict[int, Sampled] = {}
    for j, images in enumerate(bar(rounds) if in_rounds else rounds):
        own = images[ctx.processes.shard]
        earlier = [[samples[k][0] for k in of_class[labels[image]][:j]] for image in own]
        compute = lambda part, own=own, earlier=earlier: sample_batch(own[part], earlier[part])  # noqa: E731
        batches = in_batches(compute, len(own), batch, iter if in_rounds else bar)
        pairs = ctx.processes.all_gather([pair for pairs in batches for pair in pairs])
        samples |= dict(zip(images, pairs, strict=True))
    return [samples[image] for image in range(len(labels))]
