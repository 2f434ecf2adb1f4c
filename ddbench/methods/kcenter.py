"""k-center: real images such that every other one is near one of them (Sener & Savarese, ICLR 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ddbench.context import Context
from ddbench.methods.shared.selection import check_enough, embedded, select
from ddbench.types import DistilledSet, ImageSet


@dataclass(frozen=True)
class KCenter:
    """The greedy 2-approximation, class by class (Sener & Savarese 2018, arXiv:1708.00489, algorithm 1).

    embedding: the student whose penultimate features are used. trained: train it on the training split first (AdamW
    2e-3, batches of 32, ten passes but 300 to 1000 steps, the symmetries of a square), else keep its random initial
    weights. first: "mean" begins with the image nearest the class mean, "random" with any.
    """

    name: ClassVar[str] = "kcenter"
    citation: ClassVar[str] = "Sener & Savarese, Active Learning for CNNs: A Core-Set Approach, ICLR 2018"
    version: ClassVar[int] = 1
    check_params: ClassVar[dict[str, Any]] = {"trained": False}

    embedding: Literal["convnet", "resnet18", "vit_tiny"] = "convnet"
    trained: bool = True
    first: Literal["mean", "random"] = "mean"

    def distill(self, train: ImageSet, ipc: int, ctx: Context) -> DistilledSet:
        """`ipc` images per class, in the order they were chosen. Deterministic, but for a random first one."""
        check_enough(train, ipc)  # before the network is trained
        points = embedded(train, ctx, self.embedding, self.trained)

        def pick(rows: Tensor, label: int) -> Tensor:
            return rows[farthest_first(points[rows], ipc, self._first(points[rows], train.classes[label], ctx))]

        return select(train, ipc, pick)

    def _first(self, points: Tensor, name: str, ctx: Context) -> int:
        if self.first == "random":
            return int(torch.randint(len(points), (), generator=ctx.generator("kcenter", name)))
        return int((points - points.mean(0)).norm(dim=1).argmin())


def farthest_first(points: Tensor, count: int, first: int) -> Tensor:
    """Indices (count,) into `points` (n, d): the first, then always the one farthest from all that are chosen."""
    chosen = [first]
    nearest = (points - points[first]).norm(dim=1)
    while len(chosen) < count:
        nearest[chosen[-1]] = -1  # a copy of a chosen one may still follow, itself may not
        chosen.append(int(nearest.argmax()))
        nearest = nearest.minimum((points - points[chosen[-1]]).norm(dim=1))
    return torch.tensor(chosen)
