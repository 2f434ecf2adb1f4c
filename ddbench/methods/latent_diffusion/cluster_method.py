"""The base class of methods whose images start from the centres of a class's clusters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from ddbench.config import param
from ddbench.methods.latent_diffusion.base_method import LatentDiffusionBaseline
from ddbench.methods.latent_diffusion.latents import Latents
from ddbench.methods.latent_diffusion.prompts import class_prompts
from ddbench.methods.latent_diffusion.stages import Stages
from ddbench.methods.latent_diffusion.starts import StartLatents, cluster_centres, fixed_starts
from ddbench.methods.shared.selection import IMAGE_WEIGHTS, cluster_weights


@dataclass(frozen=True)
class ClusterCentreMethod(LatentDiffusionBaseline):
    """Methods whose images start from k-means' centres of a class's latents (not a method by itself)."""

    needs_ipc_images: ClassVar[bool] = True

    image_weights: bool = param(False, IMAGE_WEIGHTS, added_later=True)

    def _start_latents(self, stages: Stages, latents: Latents, ipc: int) -> StartLatents:
        prompts = class_prompts(self.prompt, stages.train.readable, stages.train.class_labels(ipc))
        progress = partial(stages.ctx.progress, desc="clusters")
        centres, sizes = cluster_centres(stages.train, latents, ipc, progress)
        return fixed_starts(centres, prompts, cluster_weights(sizes, ipc) if self.image_weights else None)
