"""Images chosen together: those from which a ridge classifier learns the training images best."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ddbench.context import generator_of
from ddbench.methods.shared.selection import drawn_rows

LAMBDA = 0.1  # of features of length 1
SWEEPS = 4
SAMPLE = 200  # training images of each class, at most, whose errors count


def ridge_choice(x: Tensor, labels: Tensor, slots: Sequence[Tensor]) -> Tensor:
    """Choose one image of every slot, so that together they teach a ridge classifier best; return their rows.

    The loss of a set S is that of kernel ridge regression (Nguyen et al., ICLR 2021, arXiv:2011.00050) with
    labels y, one-hot minus 1 / classes: the mean over SAMPLE other images t of each class of
    | y_t - K_tS (K_SS + lambda I)^-1 y_S |^2, K the products of features. Slot after slot takes its best image while
    the others stay, until none changes, or SWEEPS times.

    x: features of the training images, (n, d), of length 1. labels: int64 (n,).
    slots: rows of images, int64 (k,) each, that share none; the first of each is the start.
    """
    classes = int(labels.max()) + 1
    y = F.one_hot(labels, classes).double() - 1 / classes
    counted = drawn_rows(labels, SAMPLE, partial(generator_of, 0, "ridge"))
    own = torch.full_like(labels, -1)  # of an image: its number among those whose errors count, or -1
    own[counted] = torch.arange(len(counted))
    K = x[counted] @ x.T
    S = torch.stack([slot[0] for slot in slots])
    x_S, K_S = x[S], K[:, S].double()
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
            error = (y[counted] - K_S @ weights) * counts[:, None]

            # image j added: the prediction moves by u_j r_j
            b = (x_S @ x[slot].T).double()
            solved = without @ b
            s = x[slot].double().square().sum(1) + LAMBDA - (b * solved).sum(0)
            u = (K[:, slot].double() - K_S @ solved) * counts[:, None]
            r = (y[slot] - b.T @ weights) / s[:, None]
            losses = error.square().sum() - 2 * ((u.T @ error) * r).sum(1) + u.square().sum(0) * r.square().sum(1)
            o, j = own[slot], torch.arange(len(slot))
            losses = losses - (error[o] - u[o, j, None] * r).square().sum(1) * (o >= 0)
            best = int((losses / (counts.sum() - counts[o] * (o >= 0)).clamp(min=1)).argmin())

            S[i], x_S[i], K_S[:, i] = slot[best], x[slot[best]], K[:, slot[best]]
            v = -solved[:, best]
            v[i] = 1
            inverse = without + torch.outer(v, v) / s[best]
        if S.equal(before):
            break
    return S
