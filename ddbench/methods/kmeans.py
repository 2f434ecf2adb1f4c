"""k-means: one real image of each cluster of a class; with latents and the margin rule, DPD's prototypes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ddbench.config import param
from ddbench.context import Context, global_seed, seed_of
from ddbench.methods.latent_diffusion.model import check_base, load_model
from ddbench.methods.latent_diffusion.model_files import find_model, model_identity
from ddbench.methods.latent_diffusion.prototypes import (
    CHOICE,
    Choice,
    check_choice,
    prototypes_in_space,
    rows_of,
    stored_prototypes,
)
from ddbench.methods.latent_diffusion.stages import Stages
from ddbench.methods.shared.selection import IMAGE_WEIGHTS, cluster_weights, subset
from ddbench.methods.shared.spaces import FEATURES, check_space, feature_space
from ddbench.methods.shared.validation import at_least
from ddbench.types import DistilledSet, ImageSet

BATCH = 64  # images encoded at once, as DPD does by default


@dataclass(frozen=True)
class KMeans:
    """One real image of each of a class's clusters, as many clusters as images per class.

    It follows no paper, so no accuracy is published. With features=latents and choice=margin the images are DPD's
    prototypes.
    """

    name: ClassVar[str] = "kmeans"
    version: ClassVar[int] = 2
    needs_ipc_images: ClassVar[bool] = True
    check_params: ClassVar[dict[str, Any]] = {"trained": False}

    features: Literal["network", "few-shot", "latents"] = param(
        "network",
        f"space of the clusters, vectors of length 1: {FEATURES}, or latents of a base model's autoencoder, pooled to "
        "8x8, as for DPD (latents)",
    )
    choice: Choice = param("nearest", CHOICE)
    embedding: Literal["convnet", "resnet18", "vit_tiny"] = param(
        "convnet", "student whose features are used, with features=network"
    )
    trained: bool = param(
        True,
        "train the student on the training split first, as herding does, else keep its random initial weights; with "
        "features=network",
    )
    base: str = param(
        "lcybuaa/Text2Earth",
        "a hub id or a pipeline folder of the Stable Diffusion family or of DiT, or tiny (embedded), with "
        "features=latents; only its autoencoder counts",
    )
    alpha: float = param(1.0, "weight of the distance to the own centre, with choice=margin")
    image_weights: bool = param(False, IMAGE_WEIGHTS, added_later=True)

    def __post_init__(self) -> None:
        at_least(self, alpha=0)
        check_choice(self.features, self.choice)

    def identity(self) -> str:
        """Return a digest of the autoencoder's weights, empty without latents. Raises UserError without a base."""
        return model_identity(self.base, find_model(self.base) / "vae", "") if self.features == "latents" else ""

    def models(self) -> dict[str, str]:
        """Return the base by the setting that names it, with features=latents."""
        return {"base": self.base} if self.features == "latents" else {}

    def check_models(self, readable: Sequence[str]) -> None:
        """Raise UserError if the base is not whole."""
        if self.features == "latents":
            check_base(self.base)

    def distill(self, train: ImageSet, ipc: int, ctx: Context) -> DistilledSet:
        """Choose `ipc` images per class and record their prototypes. The run's seed changes nothing."""
        check_space(self.features, ipc)
        if self.features == "latents":
            with global_seed(seed_of(0, "kmeans"), ctx.device):  # loading draws from the global generators
                model = load_model(self.base, ctx.device)
            model.check_size(train.images.shape[-1])
            stages = Stages(model, train, ctx, BATCH)
            prototypes, _ = stored_prototypes(stages, stages.latents(), ipc, self.alpha, self.choice)
        else:
            space = feature_space(self.features, train, ctx, self.embedding, self.trained)
            prototypes, _ = prototypes_in_space(train, space, ipc, self.alpha, self.choice, ctx.progress)
        weights = cluster_weights([p.size for p in prototypes], ipc) if self.image_weights else None
        return subset(train, rows_of(prototypes), {"prototypes": [p.record() for p in prototypes]}, weights)
