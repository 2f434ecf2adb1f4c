"""MGD3: sampling guided to the modes of a class, without training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from ddbench.methods.diffusion import clean_estimate
from ddbench.methods.generated import Clustered, Denoise, Halves
from ddbench.methods.settings import at_least, shares


@dataclass(frozen=True)
class MGD3(Clustered):
    """Mode-guided dataset distillation (Chan-Santiago et al., ICML 2025, arXiv:2505.18963).

    pull: weight of the way to the mode (the centre of a cluster) in the noise that is predicted. free: share of the
    steps, the last ones, that are sampled without it.

    Nothing is fine-tuned unless asked for. The form for deterministic samplers: eps - sqrt(1 - abar) pull (mode - clean
    estimate under the class's words alone), of the guided eps.
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

    def _steered(self, both: Halves, anchors: Tensor, scheduler: Any) -> Denoise:
        scheduler.set_timesteps(self.steps)
        times, count = scheduler.timesteps, len(scheduler.timesteps)
        # counted down to 0, the steps above so many are guided: of 50, half of them free, 24
        free = times[max(0, math.ceil(count - 1 - self.free * count)) :] if self.free else times[:0]

        def steered(z: Tensor, t: Tensor) -> Tensor:
            u, worded = both(z, t)
            if len(free) and t <= free[0]:
                return u
            abar, prediction = scheduler.alphas_cumprod[t].to(z), scheduler.config.prediction_type
            way = anchors - clean_estimate(z, worded, abar, prediction)
            return toward(z, u, self.pull * way, abar, prediction)

        return steered


def toward(z: Tensor, u: Tensor, way: Tensor, abar: Tensor, prediction: str) -> Tensor:
    """The output u at z_t with sqrt(1 - abar) way taken from the noise that it stands for; again as an output."""
    clean = clean_estimate(z, u, abar, prediction)
    eps = (z - abar.sqrt() * clean) / (1 - abar).sqrt() - (1 - abar).sqrt() * way
    moved = (z - (1 - abar).sqrt() * eps) / abar.sqrt()
    if prediction == "v_prediction":
        return abar.sqrt() * eps - (1 - abar).sqrt() * moved
    return {"epsilon": eps, "sample": moved}[prediction]
