"""Herding as a dynamical system on raw features (Welling, ICML 2009, eq. 3). For docs/calibration.md.

    ddbench run --method experiments/calibration/dynamic.py:Dynamic --dataset cifar10 --ipc 10 --size 32 \
        --student convnet --protocol dc-plain@1
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ddbench.context import Context
from ddbench.methods.shared.selection import real_features, select
from ddbench.types import DistilledSet, ImageSet


@dataclass(frozen=True)
class Dynamic:
    """x_t = argmax <w, phi(x)>, then w += mu - phi(x_t), from w = mu; features as they are, no image twice."""

    name: ClassVar[str] = "dynamic"
    version: ClassVar[int] = 1

    embedding: str = "convnet"
    trained: bool = True

    def distill(self, train: ImageSet, ipc: int, ctx: Context) -> DistilledSet:
        phi = real_features(train, ctx, self.embedding, self.trained).double()
        return select(train, ipc, lambda rows, _: rows[dynamic_order(phi[rows], ipc)])


def dynamic_order(phi: Tensor, count: int) -> Tensor:
    mu, order = phi.mean(0), []
    w, free = mu.clone(), torch.ones(len(phi), dtype=torch.bool)
    for _ in range(count):
        order.append(int((phi @ w).masked_fill(~free, -torch.inf).argmax()))
        free[order[-1]] = False
        w += mu - phi[order[-1]]
    return torch.tensor(order)
