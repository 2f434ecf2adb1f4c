"""Herding: real images whose mean feature follows the class mean (Welling, ICML 2009)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddbench.context import Context, seed_of
from ddbench.methods.selection import select
from ddbench.types import DistilledSet, ImageSet
from evaluators.students import build, features


@dataclass(frozen=True)
class Herding:
    """Greedy mean matching in the feature space of a network (Welling, ICML 2009; as in Rebuffi et al., CVPR 2017).

    embedding: the student whose penultimate features are used.
    trained: train it on the training split first (protocol quick@1), else keep its random initial weights.
    """

    name: ClassVar[str] = "herding"
    version: ClassVar[int] = 1
    check_params: ClassVar[dict[str, Any]] = {"trained": False}

    embedding: str = "convnet"
    trained: bool = True

    def distill(self, train: ImageSet, ipc: int, ctx: Context) -> DistilledSet:
        """The first `ipc` images of the greedy order of every class. Deterministic: the run's seed changes nothing."""
        folder = ctx.stage(
            "embedding", lambda into: self._embed(train, ctx, into), student=self.embedding, trained=self.trained
        )
        points = load_file(folder / "features.safetensors")["features"]
        return select(train, ipc, lambda rows, _: rows[greedy_order(points[rows], ipc)])

    def _embed(self, train: ImageSet, ctx: Context, folder: Path) -> None:
        net = self._network(train, ctx)
        save_file({"features": features(net, train.images, ctx.device)}, folder / "features.safetensors")

    def _network(self, train: ImageSet, ctx: Context) -> torch.nn.Module:
        classes, seed = len(train.classes), seed_of(0, "embedding") % 2**31
        if not self.trained:
            return build(self.embedding, train.images.shape[-1], classes, seed)
        from evaluators.protocols import protocol
        from evaluators.train import train_student

        return train_student(
            train.images, train.labels, student=self.embedding, protocol=protocol("quick@1"), num_classes=classes,
            seed=seed, device=ctx.device, progress=ctx.progress,
        )  # fmt: skip


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
