"""Spaces of image features in which real images are clustered and drawn ones compared with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ddbench.context import Context
from ddbench.methods.shared.few_shot import SAMPLE, few_shot_features, few_shot_features_like
from ddbench.methods.shared.selection import features_like, real_features
from ddbench.types import ImageSet

FEATURES = (  # meaning of the setting that chooses one of them
    "the penultimate features of a network trained on the training split, as for herding (network), or those of four "
    "convnets that learn ten images of each class, as students of a distilled set do, at half the size; at most "
    f"{SAMPLE} images of each class are looked at (few-shot)"
)


@dataclass(frozen=True)
class FeatureSpace:
    """Features of training images.

    x: float32 (n, d), of length 1. rows: int64 (n,), ascending, of the images in the training split.
    like: images uint8 (m, 3, h, w) -> their features, float32 (m, d), of length 1.
    """

    x: Tensor
    rows: Tensor
    like: Callable[[Tensor], Tensor]

    def at(self, rows: Tensor) -> Tensor:
        """Return the features of images by their rows in the training split, int64 (k,), all of them in `rows`."""
        return self.x[torch.searchsorted(self.rows, rows)]


def check_space(features: str, ipc: int) -> None:
    """Raise ValueError for more images per class than the space has features of."""
    if features == "few-shot" and ipc > SAMPLE:
        raise ValueError(f"features=few-shot looks at {SAMPLE} images of each class, fewer than {ipc}: --ipc {SAMPLE}")


def feature_space(
    features: str, train: ImageSet, ctx: Context, student: str = "convnet", trained: bool = True
) -> FeatureSpace:
    """Return the space named network or few-shot.

    student, trained: of `real_features`, with network. `like` has the trained network's features.
    """
    if features == "few-shot":
        real = few_shot_features(train, ctx)
        return FeatureSpace(real.x, real.rows, partial(few_shot_features_like, real=real, train=train, ctx=ctx))
    x = F.normalize(real_features(train, ctx, student, trained), dim=1)
    like = lambda images: F.normalize(features_like(images, train, ctx, student), dim=1)  # noqa: E731
    return FeatureSpace(x, torch.arange(len(x)), like)
