"""CaO2: sampled images of which a classifier chooses, then polished until the base itself explains them best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ddbench.methods.latent_diffusion.base_method import LatentDiffusionBaseline


@dataclass(frozen=True)
class CaO2(LatentDiffusionBaseline):
    """Condition-aware optimisation with objective-guided sampling (Wang et al., ICCV 2025, arXiv:2506.22637).

    Selection: of `pool` times IPC plain samples of a class, those stay that a classifier of the real images gets right,
    the surest first (`pools.by_confidence`). Optimisation: Adam moves each of their latents z to lower
    MSE + 10 max |eps - eps_theta(z_t, t, c)| at little noise, for one eps (`polishing.Polishing`). Every other method
    that samples a diffusion model has the same settings: this one is `diffusion` with both switched on.

    The equations are those of the public code: the paper's text was not at hand.
    """

    name: ClassVar[str] = "cao2"
    citation: ClassVar[str] = (
        "Wang et al., CaO2: Rectifying Inconsistencies in Diffusion-Based Dataset Distillation, ICCV 2025"
    )
    version: ClassVar[int] = 1
    check_params: ClassVar[dict[str, Any]] = {
        **LatentDiffusionBaseline.check_params, "pool": 2, "pool_epochs": 1, "polish_steps": 2,
    }  # fmt: skip

    weights: Literal["lora", "all", "difffit", "none"] = "none"
    guidance: float = 2.7
    pool: int = 2
    polish_steps: int = 100
