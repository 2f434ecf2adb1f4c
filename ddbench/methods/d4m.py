"""D4M: images sampled from the noised centres of a class's latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ddbench.config import param
from ddbench.methods.latent_diffusion.cluster_method import ClusterCentreMethod


@dataclass(frozen=True)
class D4M(ClusterCentreMethod):
    """Disentangled diffusion (Su et al., CVPR 2024, arXiv:2407.15138): sampled from noised centres of latents.

    Image k of a class starts at z_t = sqrt(abar_t) z_k + sqrt(1 - abar_t) eps, z_k the centre of cluster k and t at
    `strength` (`diffusion.sample`); its prompt is the class name. Nothing is fine-tuned unless asked for. k-means sees
    all latents of a class at once (the public code's mini-batches leave some out).
    """

    name: ClassVar[str] = "d4m"
    citation: ClassVar[str] = "Su et al., D4M: Dataset Distillation via Disentangled Diffusion Model, CVPR 2024"

    prompt: str = "{}"
    negative: str = "cartoon, anime, painting"
    weights: Literal["lora", "all", "none"] = "none"
    guidance: float = 8.0
    strength: float = param(
        0.7, "share of the noise schedule that is sampled, from the noised centre of a cluster", "above 0, up to 1"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.strength == 0:
            raise ValueError("strength must be above 0")
