"""Plain sampling, the control of all methods that sample a latent diffusion model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ddbench.methods.latent_diffusion.base_method import LatentDiffusionBaseline


@dataclass(frozen=True)
class Diffusion(LatentDiffusionBaseline):
    """Plain sampling of the fine-tuned base from pure noise, by text or by class: DPD without what DPD adds."""

    name: ClassVar[str] = "diffusion"
    citation: ClassVar[str] = "Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, CVPR 2022"
