"""Every real training image: what a distilled set falls short of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ddbench.context import Context
from ddbench.types import DistilledSet, ImageSet


@dataclass(frozen=True)
class Full:
    """The whole training split. Takes no --ipc; `--protocol real` has rows for as many images.

    Its run holds a PNG copy of every one of them, as any run holds what was judged.
    """

    name: ClassVar[str] = "full"
    version: ClassVar[int] = 1
    whole: ClassVar[bool] = True

    def distill(self, train: ImageSet, ipc: int, ctx: Context) -> DistilledSet:
        """All of `train`. Deterministic: the run's seed changes nothing."""
        return DistilledSet(train.images, train.labels, train.classes, train.readable, train.names)
