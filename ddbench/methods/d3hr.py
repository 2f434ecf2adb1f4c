"""D3HR: images sampled from the distribution that a class's inverted latents have at one noise level."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddbench.config import param
from ddbench.context import generator_of
from ddbench.methods.latent_diffusion.base_method import LatentDiffusionBaseline
from ddbench.methods.latent_diffusion.diffusion import (
    SamplerConfig,
    add_noise,
    clean_estimate,
    noise_estimate,
    sampling_times,
)
from ddbench.methods.latent_diffusion.latents import Latents
from ddbench.methods.latent_diffusion.model import LatentModel
from ddbench.methods.latent_diffusion.prompts import Prompts
from ddbench.methods.latent_diffusion.stages import Stages
from ddbench.methods.latent_diffusion.starts import StartLatents, fixed_starts
from ddbench.methods.shared.device import in_batches
from ddbench.methods.shared.selection import drawn_rows
from ddbench.methods.shared.validation import at_least

DRAWN = 2**24  # numbers that are drawn at once, so a group depends on no setting of the machine


@dataclass(frozen=True)
class D3HR(LatentDiffusionBaseline):
    """Domain-mapped representative sampling (Zhao et al., ICML 2025, arXiv:2505.18399).

    DDIM inversion carries the latents of all training images to the noise level t at which `strength` begins. There
    each class is a Gaussian N(mu, sigma^2), a mean and a deviation for each of the latent's numbers. Of `groups` groups
    of IPC draws the one is kept whose mean, deviation and skewness are nearest to the Gaussian's. Its members are
    sampled from t on; nothing more is random.

    Ours: images are inverted by the fine-tuned base, if it is; the level of the Gaussians is the one at which sampling
    begins (the public code's lie one step apart); skewness is that of each number over the group (there, of each image
    over its numbers); at IPC 1 the mean alone counts, where a group has no deviation; with `images`, only so many of
    each class are inverted.
    """

    name: ClassVar[str] = "d3hr"
    citation: ClassVar[str] = (
        "Zhao et al., Taming Diffusion for Dataset Distillation with High Representativeness, ICML 2025"
    )
    check_params: ClassVar[dict[str, Any]] = {**LatentDiffusionBaseline.check_params, "steps": 4, "groups": 10}

    guidance: float = 4.0
    strength: float = param(
        0.64, "share of the sampling steps after the noise level at which classes are Gaussians", "above 0, up to 1"
    )
    groups: int = param(100000, "groups of draws of which one is kept, for each class", "1 or more")
    skewness: float = param(0.5, "weight of the group's skewness")
    images: int = param(0, "images per class that are inverted, drawn at random; 0 for all", added_later=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, groups=1, skewness=0, images=0)
        if self.strength == 0:
            raise ValueError("strength must be above 0")

    def _sampler_config(self) -> SamplerConfig:
        return SamplerConfig(self.steps, self.strength, is_noised=True)

    def _starts_by_tuned(self, stages: Stages, latents: Latents, starts: StartLatents, weights: str) -> StartLatents:
        """Return the best group of draws of each class. The Gaussians are a stage, shared by all IPCs and seeds."""
        model, ctx = stages.model, stages.ctx
        if self.images:
            rows = drawn_rows(latents.labels, self.images, lambda label: generator_of(0, "inverted", label))
            latents = replace(latents, mean=latents.mean[rows], std=latents.std[rows], labels=latents.labels[rows])

        def make(folder: Path) -> None:
            mu, sigma = self._gaussians(model, latents, starts.prompts, partial(ctx.progress, desc="inversion"))
            save_file({"mu": mu, "sigma": sigma}, folder / "gaussians.safetensors")

        names = ("scheduler", "spacing", "steps", "strength", "guidance", "guidance_low", "guidance_high",
                 "guidance_channels", "negative", "precision", "variance")  # fmt: skip
        key = {name: getattr(self, name) for name in names} | {"prompts": starts.prompts.texts, "weights": weights}
        key |= {"images": self.images} if self.images else {}
        folder = ctx.stage("gaussians", make, base=model.identity, **key)
        gaussians = load_file(folder / "gaussians.safetensors")
        mu, sigma = gaussians["mu"], gaussians["sigma"]
        ipc = len(starts.labels) // len(mu)
        groups = [
            representative_group(mu[y], sigma[y], ipc, self.groups, self.skewness, ctx.generator("group", y))
            for y in ctx.progress(range(len(mu)), desc="groups")
        ]
        return fixed_starts(torch.cat(groups), starts.prompts)

    def _gaussians(
        self, model: LatentModel, latents: Latents, prompts: Prompts, progress: Callable
    ) -> tuple[Tensor, Tensor]:
        """Return mean mu and deviation sigma (classes, c, h, w) of each class's latents, inverted to the level t.

        prompts: those of the classes, in their order.
        """
        conditions = model.encode_prompts([*prompts.texts, self.negative], [*prompts.labels, -1])
        network, scheduler = self._network(model), model.make_scheduler(self.scheduler, spacing=self.spacing)
        times = sampling_times(scheduler, self._sampler_config()).unique()  # rising

        def compute(part: slice) -> Tensor:
            condition = conditions[latents.labels[part].to(conditions.device)]
            outputs = self._guided_outputs(network, condition, conditions[-1:].expand_as(condition), scheduler)
            return invert(lambda z, t: outputs(z, t)[0], scheduler, latents.means(part).to(model.device), times).cpu()

        z_t = torch.cat(list(in_batches(compute, len(latents.labels), self.batch, progress)))
        of_class = [z_t[latents.labels == y] for y in range(len(prompts.texts))]
        return torch.stack([z.mean(0) for z in of_class]), torch.stack([z.std(0, correction=0) for z in of_class])


@torch.no_grad()
def invert(denoise: Callable[[Tensor, Tensor], Tensor], scheduler: Any, z: Tensor, times: Tensor) -> Tensor:
    """Return clean scaled latents z (n, c, h, w) carried to the last of the times by the steps of DDIM, backwards.

    From s to t: z_t = sqrt(abar_t) z0_hat + sqrt(1 - abar_t) eps_hat, both by the network's output for z_s at s (Song
    et al., arXiv 2010.02502, section 4.3).

    denoise: (z_t, t) -> u. times: rising; a clean latent counts as one at time 0.
    """
    abars, prediction = scheduler.alphas_cumprod.to(z), scheduler.config.prediction_type
    for s, t in pairwise([torch.zeros_like(times[0]), *times] if times[0] > 0 else times):
        u = denoise(z, s)[:, : z.shape[1]]
        z0_hat, eps_hat = (estimate(z, u, abars[s], prediction) for estimate in (clean_estimate, noise_estimate))
        z = add_noise(z0_hat, eps_hat, abars[t])
    return z


def representative_group(
    mu: Tensor, sigma: Tensor, count: int, groups: int, weight: float, generator: torch.Generator
) -> Tensor:
    """Return the best of `groups` groups of `count` draws from N(mu, sigma^2), (count, c, h, w).

    It has the lowest || mean - mu || + || std - sigma || + weight || skewness ||, norms over the c h w numbers of a
    latent, statistics over the draws of a group. At count 1 there is the first term alone.

    mu, sigma: (c, h, w).
    """
    lowest, best = torch.inf, mu.expand(count, *mu.shape)
    at_once = max(1, DRAWN // (count * mu.numel()))
    for first in range(0, groups, at_once):
        e = torch.randn(min(at_once, groups - first), count, *mu.shape, generator=generator)
        mean = e.mean(1)
        score = (sigma * mean).flatten(1).norm(dim=1)
        if count > 1:
            std = e.std(1)
            skewness = (((e - mean[:, None]) / std[:, None]) ** 3).mean(1)
            score = score + (sigma * (std - 1)).flatten(1).norm(dim=1) + weight * skewness.flatten(1).norm(dim=1)
        if score.min() < lowest:
            lowest, best = float(score.min()), mu + sigma * e[score.argmin()]
    return best
