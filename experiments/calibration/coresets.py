"""Rules and networks of coresets that the published ones may have used. For docs/calibration.md.

    ddbench run --method experiments/calibration/coresets.py:Coreset --set rule=nearest --dataset cifar10 --ipc 10 \
        --size 32 --student convnet --protocol dc-plain@1
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ddbench.config import param
from ddbench.context import Context
from ddbench.methods.herding import greedy_order
from ddbench.methods.kcenter import farthest_first
from ddbench.methods.shared.selection import real_features, select
from ddbench.types import DistilledSet, ImageSet


@dataclass(frozen=True)
class Coreset:
    """Real images chosen by a rule on the penultimate features of a ConvNet."""

    name: ClassVar[str] = "coreset"
    version: ClassVar[int] = 1

    rule: Literal["herding", "nearest", "dynamic", "kcenter"] = param(
        "herding",
        "herding and kcenter: as the methods; nearest: nearest the class's mean feature, all of length 1; "
        "dynamic: Welling's recursion on raw features (ICML 2009, eq. 3)",
    )
    epochs: int = param(
        0,
        "passes of the network over the training split (AdamW 2e-3, batches of 32); 0: the 300 steps of the methods",
    )

    def distill(self, train: ImageSet, ipc: int, ctx: Context) -> DistilledSet:
        x = real_features(train, ctx, "convnet", trained=True, epochs=self.epochs)
        return select(train, ipc, lambda rows, _: rows[self._order(x[rows], ipc)])

    def _order(self, x: Tensor, count: int) -> Tensor:
        phi = normalize(x.double(), dim=1)
        if self.rule == "herding":
            return greedy_order(x, count)
        if self.rule == "nearest":
            return (phi - phi.mean(0)).norm(dim=1).argsort()[:count]
        if self.rule == "kcenter":
            return farthest_first(x, count, int((x - x.mean(0)).norm(dim=1).argmin()))
        return dynamic_order(x.double(), count)


def dynamic_order(phi: Tensor, count: int) -> Tensor:
    """x_t = argmax <w, phi(x)>, then w += mu - phi(x_t), from w = mu; no image twice."""
    mu, order = phi.mean(0), []
    w, free = mu.clone(), torch.ones(len(phi), dtype=torch.bool)
    for _ in range(count):
        order.append(int((phi @ w).masked_fill(~free, -torch.inf).argmax()))
        free[order[-1]] = False
        w += mu - phi[order[-1]]
    return torch.tensor(order)
