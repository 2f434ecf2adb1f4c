"""Images chosen together: those from which a ridge classifier learns the training images best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ddbench.methods.shared.selection import drawn_rows

LAMBDA = 0.1  # of features of length 1
SWEEPS = 4
SAMPLE = 200  # training images of each class, at most, whose errors count


@dataclass(frozen=True)
class LabelledFeatures:
    """Features of images.

    x: (n, d), of length 1. labels: int64 (n,).
    rows: int64 (n,), of each image, or of the one that it was made from, in the training split.
    """

    x: Tensor
    labels: Tensor
    rows: Tensor

    def at(self, numbers: Tensor) -> LabelledFeatures:
        """Return those of images by their numbers, int64 (k,)."""
        return LabelledFeatures(self.x[numbers], self.labels[numbers], self.rows[numbers])


def ridge_choice(pool: LabelledFeatures, real: LabelledFeatures, slots: Sequence[Tensor]) -> Tensor:
    """Choose one image of every slot, so that together they teach a ridge classifier best; return their indices.

    The loss of a set S is that of kernel ridge regression (Nguyen et al., ICLR 2021, arXiv:2011.00050, eq. 3) with
    labels y, one-hot minus 1 / classes: the mean over training images t of | y_t - K_tS (K_SS + lambda I)^-1 y_S |^2,
    K the products of features. Images whose rows are those of S do not count. Slot after slot takes its best image
    while the others stay, until none changes, or SWEEPS times.

    real: the training images that count. slots: indices of `pool`, int64 (k,) each, that share none; the first of each
    is the start.
    """
    classes = int(real.labels.max()) + 1
    y, y_real = (F.one_hot(of.labels, classes).double() - 1 / classes for of in (pool, real))
    K = real.x @ pool.x.T
    at = torch.full((int(max(pool.rows.max(), real.rows.max())) + 1,), -1)
    at[real.rows] = torch.arange(len(real.rows))
    own = at[pool.rows]  # of an image in the pool: its own number in `real`, or -1
    S = torch.stack([slot[0] for slot in slots])
    x_S, K_S = pool.x[S], K[:, S].double()
    for _ in range(SWEEPS):
        before = S.clone()
        inverse = torch.linalg.inv((x_S @ x_S.T).double() + LAMBDA * torch.eye(len(S)).double())
        for i, slot in enumerate(slots):
            # the classifier without slot i: row and column i of its inverse are zero
            without = inverse - torch.outer(inverse[:, i], inverse[i]) / inverse[i, i]
            counts = torch.ones(len(K)).double()
            of_others = own[S[torch.arange(len(S)) != i]]
            counts[of_others[of_others >= 0]] = 0
            weights = without @ y[S]
            error = (y_real - K_S @ weights) * counts[:, None]

            # image j added: the prediction moves by u_j r_j
            x = pool.x[slot]
            b = (x_S @ x.T).double()
            solved = without @ b
            s = x.double().square().sum(1) + LAMBDA - (b * solved).sum(0)
            u = (K[:, slot].double() - K_S @ solved) * counts[:, None]
            r = (y[slot] - b.T @ weights) / s[:, None]
            losses = error.square().sum() - 2 * ((u.T @ error) * r).sum(1) + u.square().sum(0) * r.square().sum(1)
            o, j = own[slot], torch.arange(len(slot))
            losses = losses - (error[o] - u[o, j, None] * r).square().sum(1) * (o >= 0)
            best = int((losses / (counts.sum() - counts[o] * (o >= 0)).clamp(min=1)).argmin())

            S[i], x_S[i], K_S[:, i] = slot[best], x[best], K[:, slot[best]]
            v = -solved[:, best]
            v[i] = 1
            inverse = without + torch.outer(v, v) / s[best]
        if S.equal(before):
            break
    return S


def real_sample(real: LabelledFeatures) -> LabelledFeatures:
    """Return at most SAMPLE drawn images of each class; the same for every seed."""
    return real.at(drawn_rows(real.labels, SAMPLE, "ridge"))
