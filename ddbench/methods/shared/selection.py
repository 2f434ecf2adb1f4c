"""What methods that choose real images share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ddbench.types import DistilledSet, ImageSet


def check_enough(train: ImageSet, ipc: int) -> None:
    """ValueError naming every class that has fewer than `ipc` images."""
    if few := train.fewer_than(ipc):
        raise ValueError(f"cannot choose {ipc} images per class: {', '.join(few)}")


def select(train: ImageSet, ipc: int, pick: Callable[[Tensor, int], Tensor]) -> DistilledSet:
    """The images that `pick(rows of the class, label)` returns, class after class.

    Raises ValueError naming every class that has fewer than `ipc` images.
    """
    check_enough(train, ipc)
    rows = torch.cat([pick(train.of_class(label), label) for label in range(len(train.classes))])
    names = tuple(train.names[i] for i in rows.tolist()) if train.names else ()
    return DistilledSet(train.images[rows], train.labels[rows], train.classes, train.readable, names)
