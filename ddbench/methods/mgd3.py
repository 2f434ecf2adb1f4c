"""MGD3: sampling guided to the modes of a class, without training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ddbench.methods.latent_diffusion.base_method import ClusterCentreMethod, Denoise, Halves, Shift
from ddbench.methods.latent_diffusion.diffusion import clean_estimate, posterior_std
from ddbench.methods.latent_diffusion.model import LatentModel
from ddbench.methods.shared.validation import at_least, shares
from ddbench.types import ImageSet


@dataclass(frozen=True)
class MGD3(ClusterCentreMethod):
    """Mode-guided dataset distillation (Chan-Santiago et al., ICML 2025, arXiv:2505.18963).

    pull: weight of the way to the mode (the centre of a cluster) in what a step gives. free: share of the steps, the
    last ones, that are sampled without it.

    Nothing is fine-tuned unless asked for. What a step gives is shifted by pull (mode - clean estimate under the words
    alone) times the posterior's deviation, with any sampler: the paper's form for DDPM, whose model learned that.
    """

    name: ClassVar[str] = "mgd3"
    citation: ClassVar[str] = (
        "Chan-Santiago et al., MGD3: Mode-Guided Dataset Distillation using Diffusion Models, ICML 2025"
    )

    version: ClassVar[int] = 2

    weights: Literal["lora", "all", "none"] = "none"
    guidance: float = 4.0
    pull: float = 0.1
    free: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, pull=0)
        shares(self, "free")

    def _guided_denoiser(self, both: Halves, anchors: Tensor, scheduler: Any) -> tuple[Denoise, Shift]:
        abars, prediction, way = scheduler.alphas_cumprod, scheduler.config.prediction_type, anchors

        def denoise(z: Tensor, t: Tensor) -> Tensor:
            nonlocal way
            u, worded = both(z, t)
            way = anchors - clean_estimate(z, worded, abars[t].to(z), prediction)
            return u

        def shift(i: int, t: Tensor, following: Tensor | None) -> Tensor:
            """Counted down to 0, steps above a number are guided: of 50, half of them free, 24."""
            count = len(scheduler.timesteps)
            guided = following is not None and (not self.free or count - 1 - i > self.free * count)
            return self.pull * posterior_std(abars[t], abars[following]) * way if guided else torch.zeros_like(way)

        return denoise, shift

    def _check(self, model: LatentModel, train: ImageSet) -> None:
        super()._check(model, train)
        model.scheduler_named(self.scheduler, pulled=self.pull > 0)
