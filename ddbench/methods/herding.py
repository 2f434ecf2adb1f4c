"""Herding: real images whose mean feature follows the class mean (Welling, ICML 2009)."""

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
class Herding:
    """Greedy mean matching in the feature space of a network (Welling, ICML 2009; as in Rebuffi et al., CVPR 2017)."""

    name: ClassVar[str] = "herding"
    citation: ClassVar[str] = "Welling, Herding dynamical weights to learn, ICML 2009"
    version: ClassVar[int] = 2
    needs_ipc_images: ClassVar[bool] = True
    check_params: ClassVar[dict[str, Any]] = {"trained": False}

    embedding: Literal["convnet", "resnet18", "vit_tiny"] = param(
        "convnet", "student whose penultimate features are used, each divided by its length (as iCaRL has it)"
    )
    trained: bool = param(
        True,
        "train it on the training split first (AdamW 2e-3, batches of 32, 300 steps, the symmetries of a square), else "
        "keep its random initial weights",
    )

    def distill(self, train: ImageSet, ipc: int, ctx: Context) -> DistilledSet:
        """Return the first `ipc` images of every class's greedy order. The run's seed changes nothing."""
        features = real_features(train, ctx, self.embedding, self.trained)
        return select(train, ipc, lambda rows, _: rows[greedy_order(features[rows], ipc)])


def greedy_order(features: Tensor, count: int) -> Tensor:
    """Return indices (count,) into `features` (n, d), so that the mean of the first k is near the mean of all.

    p_k = argmin over x of || mu - (phi(p_1) + ... + phi(p_(k-1)) + phi(x)) / k ||, phi of length 1, no image twice
    (Welling 2009, eq. 4; algorithm 4 of iCaRL).
    """
    phi = torch.empty(features.shape, dtype=torch.float64)
    blocks = row_blocks(phi)
    for rows, part in zip(blocks, row_blocks(features), strict=True):
        rows.copy_(torch.nn.functional.normalize(part.double(), dim=1))
    mu, total, order = phi.mean(0), torch.zeros_like(phi[0]), []
    free = torch.ones(len(phi), dtype=torch.bool)
    for k in range(1, count + 1):
        distances = torch.cat([(mu - (total + part) / k).norm(dim=1) for part in blocks])
        p_k = int(distances.masked_fill(~free, torch.inf).argmin())
        order.append(p_k)
        free[p_k] = False
        total = total + phi[p_k]
    return torch.tensor(order)
