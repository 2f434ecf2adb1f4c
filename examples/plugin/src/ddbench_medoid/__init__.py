"""Medoids: the real images with the smallest sum of distances to all images of their class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F

from ddbench.config import param
from ddbench.context import Context
from ddbench.errors import UserError
from ddbench.types import DistilledSet, ImageSet


@dataclass(frozen=True)
class Medoid:
    """The images of each class with the smallest sum of distances to the others, in pixels of thumbnails."""

    name: ClassVar[str] = "medoid"
    version: ClassVar[int] = 1
    needs_ipc_images: ClassVar[bool] = True
    citation: ClassVar[str] = "example of a plugin, without a paper"

    side: int = param(8, "side of the thumbnails that are compared", "px, 1 or more")

    def __post_init__(self) -> None:
        if self.side < 1:
            raise ValueError(f"side must be 1 or more, not {self.side}")

    def distill(self, train: ImageSet, ipc: int, ctx: Context) -> DistilledSet:
        """Return the `ipc` most central images of each class, the most central first."""
        if few := train.fewer_than(ipc):
            raise UserError(f"medoid chooses {ipc} real images per class, but there are fewer: {', '.join(few)}")
        rows = torch.cat([self._most_central(train, label, ctx)[:ipc] for label in range(len(train.classes))])
        return train.distilled(train.images[rows], train.labels[rows])

    def _most_central(self, train: ImageSet, label: int, ctx: Context) -> torch.Tensor:
        """Return the rows of a class by their sum of distances, smallest first; equal ones in their order."""
        rows = train.of_class(label)
        images = train.images[rows].to(ctx.device).float()
        thumbnails = F.adaptive_avg_pool2d(images, self.side).flatten(1)
        order = torch.cdist(thumbnails, thumbnails).sum(1).argsort(stable=True)
        return rows[order.cpu()]
