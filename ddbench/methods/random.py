"""Random real images: the baseline that every other method must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ddbench.context import Context
from ddbench.methods.shared.selection import select
from ddbench.types import DistilledSet, ImageSet


@dataclass(frozen=True)
class Random:
    """`ipc` real training images per class, drawn without replacement."""

    name: ClassVar[str] = "random"
    version: ClassVar[int] = 1
    needs_ipc_images: ClassVar[bool] = True

    def distill(self, train: ImageSet, ipc: int, ctx: Context) -> DistilledSet:
        """Draw `ipc` images of every class, from a generator per class: no class's images depend on other classes."""

        def pick(rows: torch.Tensor, label: int) -> torch.Tensor:
            order = torch.randperm(len(rows), generator=ctx.generator("random", train.classes[label]))
            return rows[order[:ipc]]

        return select(train, ipc, pick)
