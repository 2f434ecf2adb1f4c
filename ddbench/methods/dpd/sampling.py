"""SamplingConfig the images: all candidates of all prototypes are one stream of work, cut into batches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ddbench.context import Context
from ddbench.methods.latent_diffusion.diffusion import SamplerConfig, guided, sample
from ddbench.methods.latent_diffusion.latents import Latents
from ddbench.methods.latent_diffusion.model import LatentModel, denoiser_of
from ddbench.methods.latent_diffusion.prototypes import Prototype, rows_of
from ddbench.methods.shared.device import in_batches


@dataclass(frozen=True)
class SamplingConfig:
    """How the images are drawn.

    scheduler: "base" or a diffusers class name. guidance: scale of classifier-free guidance. candidates: per prototype.
    batch: images at once. precision: "bf16", "fp16" (autocast) or "fp32".
    """

    how: SamplerConfig
    scheduler: str
    guidance: float
    candidates: int
    batch: int
    precision: str


@dataclass(frozen=True)
class SamplingInputs:
    """What is drawn: prototypes, their latents, what is said of each (p, ...) and the empty prompt's words (1, ...)."""

    prototypes: list[Prototype]
    latents: Latents
    words: Tensor
    empty: Tensor


def draw(model: LatentModel, subject: SamplingInputs, how: SamplingConfig, ctx: Context) -> tuple[Tensor, int]:
    """Latents (prototypes * candidates, c, h, w) on the CPU, the candidates of a prototype in a row, and how many
    pulls fell back.

    Each image draws from a generator of its own, so neither the batch size nor the number of processes moves it.
    """
    work = [(i, number) for i in range(len(subject.prototypes)) for number in range(how.candidates)]
    mine = work[ctx.processes.shard]
    found: list[tuple[Tensor, int]] = []

    def one(part: slice) -> tuple[Tensor, Tensor]:
        return _batch(model, subject, mine[part], how, ctx)

    for z, fallen in in_batches(one, len(mine), how.batch, partial(ctx.progress, desc="sampling")):
        # a clone: a view of the batch would be sent with the whole of it
        found += [(image.clone(), fell) for image, fell in zip(z.cpu(), fallen.tolist(), strict=True)]
    latents, fallbacks = zip(*ctx.processes.all_gather(found), strict=True)
    return torch.stack(latents), sum(fallbacks)


def _batch(
    model: LatentModel, subject: SamplingInputs, work: list[tuple[int, int]], how: SamplingConfig, ctx: Context
) -> tuple[Tensor, Tensor]:
    batch = [subject.prototypes[i] for i, _ in work]
    generators = [ctx.generator("sample", p.label, p.cluster, k) for p, (_, k) in zip(batch, work, strict=True)]
    anchors = torch.cat([subject.latents.draw(rows_of([p]), g) for p, g in zip(batch, generators, strict=True)])
    words = subject.words[[i for i, _ in work]].to(model.device)
    empty = subject.empty.to(model.device).expand(len(work), *subject.empty.shape[1:])
    denoise = guided(denoiser_of(model, how.precision), words, empty, how.guidance)
    return sample(denoise, model.scheduler_named(how.scheduler), anchors.to(model.device), how.how, generators)
