"""k-center: real images such that every other one is near one of them (Sener & Savarese, ICLR 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ddbench.config import param
from ddbench.context import Context
from ddbench.methods.shared.selection import real_features, row_blocks, select
from ddbench.types import DistilledSet, ImageSet


@dataclass(frozen=True)
class KCenter:
    """The greedy 2-approximation, class by class (Sener & Savarese 2018, arXiv:1708.00489, algorithm 1)."""

    name: ClassVar[str] = "kcenter"
    citation: ClassVar[str] = "Sener & Savarese, Active Learning for CNNs: A Core-Set Approach, ICLR 2018"
    version: ClassVar[int] = 2
    needs_ipc_images: ClassVar[bool] = True
    check_params: ClassVar[dict[str, Any]] = {"trained": False}

    embedding: Literal["convnet", "resnet18", "vit_tiny"] = param(
        "convnet", "student whose penultimate features are used"
    )
    trained: bool = param(
        True,
        "train it on the training split first (AdamW 2e-3, batches of 32, 300 steps, the symmetries of a square), else "
        "keep its random initial weights",
    )
    first: Literal["mean", "random"] = param("mean", "first image: the one nearest the class mean, or a random one")

    def distill(self, train: ImageSet, ipc: int, ctx: Context) -> DistilledSet:
        """Return `ipc` images per class, in greedy order. The run's seed changes only a random first image."""
        features = real_features(train, ctx, self.embedding, self.trained)

        def pick(rows: Tensor, label: int) -> Tensor:
            x = features[rows]
            if self.first == "random":
                numbers = ctx.generator("kcenter", train.classes[label])
                first = int(torch.randint(len(x), (), generator=numbers))
            else:
                first = int((x - x.mean(0)).norm(dim=1).argmin())
            return rows[farthest_first(x, ipc, first)]

        return select(train, ipc, pick)


def farthest_first(x: Tensor, count: int, first: int) -> Tensor:
    """Return indices (count,) into the points x (n, d): `first`, then always argmax_i min_(j in s) || x_i - x_j ||.

    s: the indices so far. No index occurs twice.
    """
    blocks = row_blocks(x)

    def distances(j: int) -> Tensor:
        return torch.cat([(part - x[j]).norm(dim=1) for part in blocks])

    s = [first]
    nearest = distances(first)
    while len(s) < count:
        nearest[s[-1]] = -1  # a copy of a chosen point may still follow
        s.append(int(nearest.argmax()))
        nearest = nearest.minimum(distances(s[-1]))
    return torch.tensor(s)
