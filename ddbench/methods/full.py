"""Every real training image: the upper bound for a distilled set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ddbench.context import Context
from ddbench.types import DistilledSet, ImageSet


@dataclass(frozen=True)
class Full:
    """The whole training split. Takes no --ipc; `--protocol real` has rows for as many images.

    Its run holds a PNG copy of every image, as every run holds the images that students are trained on.
    """

    name: ClassVar[str] = "full"
    version: ClassVar[int] = 1
    whole: ClassVar[bool] = True

    def distill(self, train: ImageSet, ipc: int, ctx: Context) -> DistilledSet:
        """Return all of `train`. The run's seed changes nothing."""
        return train.distilled(train.images, train.labels, names=train.names)
