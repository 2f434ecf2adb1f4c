"""VLCP: D4M's centres without outliers, each with a caption that stands for its cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from ddbench.errors import UserError
from ddbench.methods.latent_diffusion.base_method import LatentDiffusionMethod, StartLatents, check_clusters, k_means
from ddbench.methods.latent_diffusion.captions import caption_all, captioner_identity
from ddbench.methods.latent_diffusion.latents import Latents
from ddbench.methods.latent_diffusion.model import LatentModel
from ddbench.methods.latent_diffusion.prompts import Prompts, aggregate, own_prompts
from ddbench.methods.latent_diffusion.stages import Stages
from ddbench.methods.shared.validation import at_least
from ddbench.types import ImageSet
from ddbench.utils.files import digest


@dataclass(frozen=True)
class VLCP(LatentDiffusionMethod):
    """Vision-language category prototypes (Zou et al., ICCV 2025, arXiv:2506.23580).

    captioner: who describes each training image: the colours and texture of its pixels (palette), or a vision-language
        model (a hub id or folder of any AutoModelForImageTextToText).
    outliers: share of a class's latents that the local outlier factor leaves out of the clusters.
    neighbours: of that factor.
    strength: share of the noise schedule that is sampled, from the noised centre of a cluster.

    The base is fine-tuned on every image's own caption. An image's class is said before its caption, as in `dpd`.
    """

    name: ClassVar[str] = "vlcp"
    citation: ClassVar[str] = "Zou et al., Dataset Distillation via Vision-Language Category Prototype, ICCV 2025"
    check_params: ClassVar[dict] = {**LatentDiffusionMethod.check_params, "captioner": "palette", "neighbours": 3}

    version: ClassVar[int] = 2

    negative: str = "cartoon, anime, painting"
    weights: Literal["lora", "all", "none"] = "all"
    tune_rate: float = 1e-5
    tune_weight: Literal["min-snr", "even"] = "even"
    guidance: float = 10.0
    captioner: str = "llava-hf/llava-1.5-7b-hf"
    outliers: float = 0.1
    neighbours: int = 10
    strength: float = 0.7  # type: ignore[misc]  # a constant of the base class, a field here

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, neighbours=1)
        if not 0 <= self.outliers <= 0.5 or self.strength == 0:
            raise ValueError("outliers must be in 0..0.5, strength above 0")

    def identity(self) -> str:
        """A digest of the weights of base model and captioner; UserError at once when there is no such model."""
        return digest([super().identity(), captioner_identity(self.captioner)])[:16]

    def _check(self, model: LatentModel, train: ImageSet) -> None:
        super()._check(model, train)
        if model.text is None:
            raise UserError("vlcp says captions, and this base, conditioned by class, reads no text; try another")

    def _start_latents(self, stages: Stages, latents: Latents, ipc: int) -> StartLatents:
        train = stages.train
        check_clusters(train, ipc)  # before the hours that captions take
        captions = caption_all(self.captioner, train, stages.ctx, self.batch)
        found, said = [], []
        for label, readable in stages.ctx.progress(list(enumerate(train.readable)), "clusters", len(train.classes)):
            rows = train.of_class(label)
            centres, kept, owner = clusters(latents.means(rows).flatten(1).numpy(), ipc, self.outliers, self.neighbours)
            own = [captions[int(rows[i])] for i in kept]
            said += [own[i] for i in aggregate(own, owner.tolist(), readable, ipc)]
            found.append(centres)
        labels = torch.arange(len(train.classes)).repeat_interleave(ipc)
        z = torch.cat(found).view(-1, *latents.mean.shape[1:])
        return StartLatents(z, own_prompts(self.prompt, train.readable, labels, said))

    def _image_prompts(self, stages: Stages) -> Prompts:
        train: ImageSet = stages.train
        captions = caption_all(self.captioner, train, stages.ctx, self.batch)
        return own_prompts(self.prompt, train.readable, train.labels, captions)


def clusters(points: np.ndarray, count: int, outliers: float, neighbours: int) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """k-means' centres (count, d) of the points (n, d) that are no outliers; which those are; the cluster of each.

    Nothing is left out where that would leave fewer points than clusters.
    """
    from sklearn.neighbors import LocalOutlierFactor

    kept = np.arange(len(points))
    if outliers and len(points) > neighbours:
        factor = LocalOutlierFactor(n_neighbors=neighbours, contamination=outliers)
        inside = np.flatnonzero(factor.fit_predict(points) == 1)
        kept = inside if len(inside) >= count else kept
    centres, owner = k_means(points[kept], count)
    return centres, kept, owner
