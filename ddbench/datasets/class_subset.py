"""Some classes of a dataset as a dataset of its own, and of images the same. torch only when loading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ddbench.datasets.info import DataPaths, Split
from ddbench.datasets.lookup import ImageSource
from ddbench.datasets.name import DatasetName
from ddbench.utils.files import digest

if TYPE_CHECKING:
    from ddbench.types import Dataset, ImageSet


@dataclass(frozen=True)
class ClassSubset:
    """Some classes of a dataset; labels count from 0 in the dataset's order.

    whole: the dataset.
    labels: of the classes in `whole`, ascending.
    """

    whole: ImageSource
    labels: tuple[int, ...]

    @property
    def name(self) -> str:
        """The dataset's name with the labels: "ucm[0,3,7]"."""
        name = DatasetName.parse(self.whole.name)
        return str(replace(name, location=f"{name.location}[{','.join(map(str, self.labels))}]"))

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        return tuple(self.whole.classes[label] for label in self.labels)

    @property
    def readable(self) -> tuple[str, ...]:
        """The classes as words for prompts."""
        return tuple(self.whole.readable[label] for label in self.labels)

    @property
    def pixels(self) -> int:
        """Native side of an image, px."""
        return self.whole.pixels

    def describe(self, data_paths: DataPaths) -> Split:
        """Return the split of these classes. Raises DatasetError."""
        return self.of_split(self.whole.describe(data_paths))

    def of_split(self, split: Split) -> Split:
        """Return the part of the whole dataset's split that has these classes."""
        train, test = (tuple(side[label] for label in self.labels) for side in (split.train, split.test))
        fingerprint = digest([split.fingerprint, self.classes])
        return Split(f"{split.rule}; only {', '.join(self.classes)}", fingerprint, train, test)

    def load(self, data_paths: DataPaths, size: int) -> Dataset:
        """Return the images of these classes at size x size pixels, copied. Raises DatasetError."""
        data = self.whole.load(data_paths, size)
        train, test = (only_classes(side, self.labels) for side in (data.train, data.test))
        split = f"{data.split}; only {', '.join(self.classes)}"
        keys = {name: digest([getattr(data, name), self.classes]) for name in ("fingerprint", "content")}
        return replace(data, name=self.name, train=train, test=test, split=split, **keys)


def only_classes(images: ImageSet, labels: Sequence[int]) -> ImageSet:
    """Return a copy of the images of these classes, whose labels count from 0. labels: ascending."""
    import torch

    old_labels = torch.tensor(labels)
    chosen = images.rows(torch.isin(images.labels, old_labels).nonzero().flatten())
    return replace(
        chosen,
        labels=torch.searchsorted(old_labels, chosen.labels),
        classes=tuple(images.classes[label] for label in labels),
        readable=tuple(images.readable[label] for label in labels),
    )
