"""VLCP: D4M's centres without outliers, each with a caption that represents its cluster."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from ddbench.config import param
from ddbench.context import Context
from ddbench.errors import UserError
from ddbench.methods.latent_diffusion.base_method import LatentDiffusionBaseline
from ddbench.methods.latent_diffusion.captions import caption_all, captioner_identity, check_captioner
from ddbench.methods.latent_diffusion.latents import Latents
from ddbench.methods.latent_diffusion.model import LatentModel
from ddbench.methods.latent_diffusion.prompts import Prompts, caption_prompts, representative_captions
from ddbench.methods.latent_diffusion.stages import Stages
from ddbench.methods.latent_diffusion.starts import StartLatents, fixed_starts, k_means
from ddbench.methods.shared.validation import at_least, check_enough
from ddbench.types import ImageSet
from ddbench.utils.files import digest


@dataclass(frozen=True)
class VLCP(LatentDiffusionBaseline):
    """Vision-language category prototypes (Zou et al., ICCV 2025, arXiv:2506.23580).

    The base is fine-tuned on every image's own caption. The class precedes the caption in the prompt, as in `dpd`.
    """

    name: ClassVar[str] = "vlcp"
    citation: ClassVar[str] = "Zou et al., Dataset Distillation via Vision-Language Category Prototype, ICCV 2025"
    check_params: ClassVar[dict] = {**LatentDiffusionBaseline.check_params, "captioner": "palette", "neighbours": 3}

    version: ClassVar[int] = 3
    needs_ipc_images: ClassVar[bool] = True

    negative: str = "cartoon, anime, painting"
    weights: Literal["lora", "all", "none"] = "all"
    tune_rate: float = 1e-5
    tune_weight: Literal["min-snr", "even"] = "even"
    guidance: float = 10.0
    tune_parts: int = param(
        1,
        "parts of a step's batch whose gradients are taken one after the other and summed: less memory, the same step",
        added_later=True,
    )
    captioner: str = param(
        "llava-hf/llava-1.5-7b-hf",
        "captions of the training images: the colours and texture of the pixels (palette), or a vision-language model "
        "(a hub id or folder of any AutoModelForImageTextToText)",
    )
    outliers: float = param(
        0.1, "share of a class's latents that the local outlier factor keeps out of the clusters", "0 to 0.5"
    )
    neighbours: int = param(10, "neighbours in the local outlier factor")
    strength: float = param(
        0.7, "share of the noise schedule that is sampled, from the noised centre of a cluster", "above 0, up to 1"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, neighbours=1, tune_parts=1)
        if not 0 <= self.outliers <= 0.5 or self.strength == 0:
            raise ValueError("outliers must be in 0..0.5, strength above 0")

    def identity(self) -> str:
        """Return a digest of the weights of base and captioner. Raises UserError when there is no such model."""
        return digest([super().identity(), captioner_identity(self.captioner)])[:16]

    def check_models(self, readable: Sequence[str]) -> None:
        """Raise UserError if base or captioner is not whole, or two classes have one condition."""
        super().check_models(readable)
        check_captioner(self.captioner)

    def _check(self, model: LatentModel, train: ImageSet, ctx: Context) -> None:
        super()._check(model, train, ctx)
        if model.text is None:
            raise UserError("vlcp needs a text-conditioned base; this one is conditioned by class")

    def _start_latents(self, stages: Stages, latents: Latents, ipc: int) -> StartLatents:
        """Return the centres of each class's clusters without outliers, each with the caption of its cluster."""
        train = stages.train
        check_enough(train, ipc, "clusters")
        captions = caption_all(self.captioner, train, stages.ctx, self.batch)
        centres, chosen = [], []
        for label, readable in stages.ctx.progress(list(enumerate(train.readable)), "clusters", len(train.classes)):
            rows = train.of_class(label)
            points = latents.means(rows).flatten(1).numpy()
            class_centres, inliers, owner = cluster_inliers(points, ipc, self.outliers, self.neighbours)
            class_captions = [captions[int(rows[i])] for i in inliers]
            chosen += [
                class_captions[i] for i in representative_captions(class_captions, owner.tolist(), readable, ipc)
            ]
            centres.append(class_centres)
        z = torch.cat(centres).view(-1, *latents.mean.shape[1:])
        return fixed_starts(z, caption_prompts(self.prompt, train.readable, train.class_labels(ipc), chosen))

    def _image_prompts(self, stages: Stages) -> Prompts:
        train = stages.train
        captions = caption_all(self.captioner, train, stages.ctx, self.batch)
        return caption_prompts(self.prompt, train.readable, train.labels, captions)


def cluster_inliers(
    points: np.ndarray, count: int, outliers: float, neighbours: int
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Cluster points (n, d) without a share `outliers` of them, the largest local outlier factors.

    Returns k-means' centres (count, d), the indices of the inliers (m,) and the cluster of each (m,). All points are
    inliers where fewer than `count` would remain.
    """
    from sklearn.neighbors import LocalOutlierFactor

    inliers = np.arange(len(points))
    if outliers and len(points) > neighbours:
        factor = LocalOutlierFactor(n_neighbors=neighbours, contamination=outliers)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Duplicate values", UserWarning)  # equal images: their factor is 1
            inside = np.flatnonzero(factor.fit_predict(points) == 1)
        inliers = inside if len(inside) >= count else inliers
    centres, owner = k_means(points[inliers], count)
    return centres, inliers, owner
