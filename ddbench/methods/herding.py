"""Herding: real images whose mean feature follows the class mean (Welling, ICML 2009)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddbench.context import Context, seed_of
from ddbench.methods.selection import select
from ddbench.types import DistilledSet, ImageSet
from evaluators.recipes import Augment, Protocol, Recipe

SYMMETRIES = Augment(flip_x=0.5, flip_y=0.5, transpose=0.5)


@dataclass(frozen=True)
class Herding:
    """Greedy mean matching in the feature space of a network (Welling, ICML 2009; as in Rebuffi et al., CVPR 2017).

    embedding: the student whose penultimate features are used.
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
        folder = ctx.stage(
            "embedding", lambda into: self._embed(train, ctx, into), student=self.embedding, trained=self.trained
        )
        points = load_file(folder / "features.safetensors")["features"]
        return select(train, ipc, lambda rows, _: rows[greedy_order(points[rows], ipc)])

    def _embed(self, train: ImageSet, ctx: Context, folder: Path) -> None:
        from evaluators.students import features  # torchvision: seconds that a finished run need not wait for

        net = self._network(train, ctx)
        save_file({"features": features(net, train.images, ctx.device)}, folder / "features.safetensors")

    def _network(self, train: ImageSet, ctx: Context) -> torch.nn.Module:
        from evaluators.students import build
        from evaluators.train import train_student

        classes, seed = len(train.classes), seed_of(0, "embedding") % 2**31
        if not self.trained:
            return build(self.embedding, train.images.shape[-1], classes, seed)
        return train_student(
            train.images, train.labels, student=self.embedding, protocol=self._row(), num_classes=classes,
            seed=seed, device=ctx.device, progress=ctx.progress,
        )  # fmt: skip

    def _row(self) -> Protocol:
        recipe = Recipe("adamw", lr=2e-3, weight_decay=0.01, batch=32, epochs=10, min_steps=300, max_steps=1000)
        rows = {self.embedding: replace(recipe, augment=SYMMETRIES)}
        return Protocol("herding-embedding", 1, rows, source="our choice")


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
