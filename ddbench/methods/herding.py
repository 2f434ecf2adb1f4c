"""Herding: real images whose mean feature follows the class mean (Welling, ICML 2009)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ddbench.context import Context
from ddbench.methods.shared.selection import check_enough, embedded, select
from ddbench.types import DistilledSet, ImageSet


@dataclass(frozen=True)
class Herding:
    """Greedy mean matching in the feature space of a network (Welling, ICML 2009; as in Rebuffi et al., CVPR 2017).

    embedding: the student whose penultimate features are used, each divided by its length (as iCaRL has it).
    trained: train it on the training split first (AdamW 2e-3, batches of 32, ten passes but 300 to 1000 steps, the
    symmetries of a square), else keep its random initial weights.
    """

    name: ClassVar[str] = "herding"
    citation: ClassVar[str] = "Welling, Herding dynamical weights to learn, ICML 2009"
    version: ClassVar[int] = 1
    check_params: ClassVar[dict[str, Any]] = {"trained": False}

    embedding: Literal["convnet", "resnet18", "vit_tiny"] = "convnet"
    trained: bool = True

    def distill(self, train: ImageSet, ipc: int, ctx: Context) -> DistilledSet:
        """The first `ipc` images of the greedy order of every class. Deterministic: the run's seed changes nothing."""
        check_enough(train, ipc)  # before the network is trained
        points = embedded(train, ctx, self.embedding, self.trained)
        return select(train, ipc, lambda rows, _: rows[greedy_order(points[rows], ipc)])


def greedy_order(points: Tensor, count: int) -> Tensor:
    """Indices (count,) into `points` (n, d), greedily nearest to the class mean as a set.

    Step k takes the point that brings the mean of the first k nearest to the mean of all: the smallest
    ||mu - (sum of the taken + x) / k|| (Welling 2009, eq. 4; algorithm 4 of iCaRL). No point is taken twice.
    """
    points = torch.nn.functional.normalize(points.double(), dim=1)
    mean, total, taken = points.mean(0), torch.zeros_like(points[0]), []
    free = torch.ones(len(points), dtype=torch.bool)
    for k in range(1, count + 1):
        gaps = (mean - (total + points) / k).norm(dim=1).masked_fill(~free, torch.inf)
        best = int(gaps.argmin())
        taken.append(best)
        free[best] = False
        total = total + points[best]
    return torch.tensor(taken)
