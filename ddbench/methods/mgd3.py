"""MGD3: sampling guided to the modes of a class, without training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from torch import Tensor

from ddbench.methods.diffusion import clean_estimate
from ddbench.methods.dpd.latents import Latents
from ddbench.methods.dpd.stages import Stages
from ddbench.methods.generated import Anchors, Denoise, Generated, centres


@dataclass(frozen=True)
class MGD3(Generated):
    """Mode-guided dataset distillation (Chan-Santiago et al., ICML 2025, arXiv:2505.18963).

    pull: weight of the way to the mode (the centre of a cluster) in the noise that is predicted. free: share of the
    steps, the last ones, that are sampled without it.

    Nothing is fine-tuned unless asked for. The form for deterministic samplers: eps - sqrt(1 - abar) pull (mode - clean
    estimate).
    """

    name: ClassVar[str] = "mgd3"
    citation: ClassVar[str] = (
        "Chan-Santiago et al., MGD3: Mode-Guided Dataset Distillation using Diffusion Models, ICML 2025"
    )

    weights: Literal["lora", "all", "none"] = "none"
    guidance: float = 4.0
    pull: float = 0.1
    free: float = 0.5

    def __post_init__(self) -> None:
        if self.pull < 0 or not 0 <= self.free <= 1:
            raise ValueError("pull is at least 0, free a share of the steps")

    def _anchors(self, stages: Stages, latents: Latents, ipc: int) -> Anchors:
        return replace(super()._anchors(stages, latents, ipc), z=centres(stages, latents, ipc))

    def _steered(self, denoise: Denoise, anchors: Tensor, scheduler: Any) -> Denoise:
        scheduler.set_timesteps(self.steps)
        times = scheduler.timesteps
        last = times[min(len(times) - 1, round((1 - self.free) * len(times)))]  # of the free ones, the first

        def steered(z: Tensor, t: Tensor) -> Tensor:
            u = denoise(z, t)
            if self.free and t <= last:
                return u
            return toward(z, u, anchors, scheduler.alphas_cumprod[t].to(z), self.pull, scheduler.config.prediction_type)

        return steered


def toward(z: Tensor, u: Tensor, modes: Tensor, abar: Tensor, pull: float, prediction: str) -> Tensor:
    """The output u at z_t with sqrt(1 - abar) pull (modes - z0_hat) taken from its noise, as the network says it."""
    clean = clean_estimate(z, u, abar, prediction)
    eps = (z - abar.sqrt() * clean) / (1 - abar).sqrt() - (1 - abar).sqrt() * pull * (modes - clean)
    moved = (z - (1 - abar).sqrt() * eps) / abar.sqrt()
    if prediction == "v_prediction":
        return abar.sqrt() * eps - (1 - abar).sqrt() * moved
    return {"epsilon": eps, "sample": moved}[prediction]
