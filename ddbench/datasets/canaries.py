"""A dataset with half of its audited training images, some of them relabelled: canaries. torch only when loading.

Everything is drawn by SHA-256 of names, so it is the same on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

from ddbench.datasets.info import DataPaths, Split
from ddbench.datasets.lookup import ImageSource
from ddbench.datasets.name import DatasetName
from ddbench.errors import UserError
from ddbench.utils.files import digest

if TYPE_CHECKING:
    from ddbench.types import Dataset, ImageSet


@dataclass(frozen=True)
class AuditedImages:
    """The audited training images of a dataset. The first half are canaries: their label is another class, at random.

    names: file names, as of a split.
    labels: those that they train with.
    """

    names: tuple[str, ...]
    labels: tuple[int, ...]

    @property
    def canaries(self) -> int:
        """Number of canaries, the first images."""
        return len(self.names) // 2

    def rows(self, names: Sequence[str]) -> tuple[int, ...]:
        """Return which of the audited images are among `names`, ascending."""
        among = set(names)
        return tuple(row for row, name in enumerate(self.names) if name in among)


def audited_images(split: Split, number: int, seed: int) -> AuditedImages:
    """Draw `number` training images to audit. Raises UserError where the split has fewer than twice as many."""
    label_of = {name: label for label, names in enumerate(split.train) for name in names}
    if number > len(label_of) // 2:
        most = len(label_of) // 8 * 4
        raise UserError(f"{number} of {len(label_of)} training images are too many to audit: at most half, {most}")
    names = sorted(label_of, key=lambda name: _key("audited", seed, name))[:number]
    labels = [label_of[name] for name in names]
    for row in range(number // 2):
        step = 1 + int(_key("label", seed, names[row]), 16) % (len(split.train) - 1)
        labels[row] = (labels[row] + step) % len(split.train)
    return AuditedImages(tuple(names), tuple(labels))


def _key(purpose: str, seed: int, name: str) -> str:
    return hashlib.sha256(f"{purpose} {seed}\0{name}".encode()).hexdigest()


@dataclass(frozen=True)
class CanaryHalf:
    """A dataset whose training images are those that are not audited, and half of the audited ones.

    whole: the dataset.
    audited: number of audited images, a multiple of 4.
    seed: of the draw of images, labels and halves.
    half: number of the half, from 0; 2j + 1 has the audited images that 2j lacks.
    """

    whole: ImageSource
    audited: int
    seed: int
    half: int

    @property
    def name(self) -> str:
        """The dataset's name with the half: "ucm[500 audited, seed 0, half 3]"."""
        name = DatasetName.parse(self.whole.name)
        part = f"[{self.audited} audited, seed {self.seed}, half {self.half}]"
        return str(replace(name, location=f"{name.location}{part}"))

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        return self.whole.classes

    @property
    def readable(self) -> tuple[str, ...]:
        """The classes as words for prompts."""
        return self.whole.readable

    @property
    def pixels(self) -> int:
        """Native side of an image, px."""
        return self.whole.pixels

    def images(self, split: Split) -> AuditedImages:
        """Return the audited images. split: of the whole dataset."""
        return audited_images(split, self.audited, self.seed)

    def members(self, images: AuditedImages) -> tuple[int, ...]:
        """Return the rows of the audited images that train, ascending: half of the canaries, half of the others."""
        pair, second = divmod(self.half, 2)
        chosen: list[int] = []
        for rows in (range(images.canaries), range(images.canaries, len(images.names))):
            order = sorted(rows, key=lambda row: _key(f"half {pair}", self.seed, images.names[row]))
            chosen += order[len(order) // 2 :] if second else order[: len(order) // 2]
        return tuple(sorted(chosen))

    def describe(self, data_paths: DataPaths) -> Split:
        """Return the split of this half. Raises DatasetError, and UserError for too few images."""
        return self.of_split(self.whole.describe(data_paths))

    def of_split(self, split: Split) -> Split:
        """Return the whole dataset's split without the other half of the audited images, canaries in their class."""
        images = self.images(split)
        audited = set(images.names)
        train = [[name for name in names if name not in audited] for names in split.train]
        for row in self.members(images):
            train[images.labels[row]].append(images.names[row])
        sides = tuple(tuple(sorted(names)) for names in train)
        return Split(self._rule(split.rule), digest([split.fingerprint, sides]), sides, split.test)

    def load(self, data_paths: DataPaths, size: int) -> Dataset:
        """Return the images of this half at size x size pixels, copied; all test images. Raises DatasetError."""
        data, split = self.whole.load(data_paths, size), self.describe(data_paths)
        content = digest([data.content, split.fingerprint])
        train = _of_names(data.train, split.train)
        return replace(
            data, name=self.name, train=train, split=split.rule, fingerprint=split.fingerprint, content=content
        )

    def load_audited(self, data_paths: DataPaths, size: int) -> tuple[AuditedImages, ImageSet]:
        """Return the audited images and their pixels, in this order, with the labels that they train with."""
        import torch

        data, images = self.whole.load(data_paths, size), self.images(self.whole.describe(data_paths))
        row_of = {name: row for row, name in enumerate(data.train.names)}
        chosen = data.train.rows(torch.tensor([row_of[name] for name in images.names]))
        return images, replace(chosen, labels=torch.tensor(images.labels))

    def _rule(self, rule: str) -> str:
        return f"{rule}; without half {self.half ^ 1} of {self.audited} audited images, half of which are relabelled"


def _of_names(images: ImageSet, names: Sequence[Sequence[str]]) -> ImageSet:
    """Return a copy of the images of these names, class by class, with these classes as labels."""
    import torch

    row_of = {name: row for row, name in enumerate(images.names)}
    chosen = images.rows(torch.tensor([row_of[name] for name in chain.from_iterable(names)]))
    counts = torch.tensor([len(of_class) for of_class in names])
    return replace(chosen, labels=torch.arange(len(names)).repeat_interleave(counts))
