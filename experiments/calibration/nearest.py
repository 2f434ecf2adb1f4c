"""The images nearest the mean feature of their class: what some call herding. For docs/calibration.md.

    ddbench run --method experiments/calibration/nearest.py:Nearest --dataset cifar10 --ipc 10 --size 32 \
        --student convnet --protocol dc-plain@1
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch.nn.functional import normalize

from ddbench.context import Context
from ddbench.methods.shared.selection import real_features, select
from ddbench.types import DistilledSet, ImageSet


@dataclass(frozen=True)
class Nearest:
    """The `ipc` images of every class whose features, each of length 1, are nearest the class's mean."""

    name: ClassVar[str] = "nearest"
    version: ClassVar[int] = 1

    embedding: str = "convnet"
    trained: bool = True

    def distill(self, train: ImageSet, ipc: int, ctx: Context) -> DistilledSet:
        phi = normalize(real_features(train, ctx, self.embedding, self.trained).double(), dim=1)
        return select(train, ipc, lambda rows, _: rows[(phi[rows] - phi[rows].mean(0)).norm(dim=1).argsort()[:ipc]])
