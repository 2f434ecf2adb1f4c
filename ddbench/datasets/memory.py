"""Two torch datasets as a dataset: `memory:NAME`, identified by its pixels and labels. torch only when loading.

An item is (image, label), or a dict with the keys "image" and "label" (torchgeo). An image is

    a Pillow image of 8 bits            grey, palette, RGB, CMYK; alpha is dropped
    an array (h, w), (h, w, 1 or 3)     values as of a tensor
    a tensor (h, w), (1 or 3, h, w)     integers 0..255, floats 0..1 (torchvision), floats 0..255 (torchgeo)
"""

from __future__ import annotations

import hashlib
import logging
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from ddbench.datasets.decode import EIGHT_BIT, square, to_rgb
from ddbench.datasets.folders import SIDES
from ddbench.datasets.info import DataPaths, DatasetError, Split
from ddbench.datasets.name import MEMORY, DatasetName, is_folder_name
from ddbench.datasets.pack import PackContent, make_pack, open_pack, write_row
from ddbench.datasets.source import split_words
from ddbench.datasets.splits import split_as_resized
from ddbench.utils.files import MACOS_METADATA, digest
from ddbench.utils.progress import progress_bar

if TYPE_CHECKING:
    from ddbench.types import Dataset

log = logging.getLogger("ddbench")

RULE = "train/test pair of torch datasets"
EXAMPLE = 'name the classes in the order of their labels, classes=["beach", "forest"]'


class Items(Protocol):
    """A torch dataset that has a length: items by number."""

    def __len__(self) -> int:
        """Return the number of items."""
        ...

    def __getitem__(self, index: int, /) -> Any:
        """Return (image, label), or a dict with "image" and "label"."""
        ...


@dataclass
class _Contents:
    """The items of both sides, in their order.

    hashes: SHA-256 (hex) of the pixels and label of each item, by side.
    labels: label of each item, by side.
    sizes: (width, height) of each image, training images first.
    """

    hashes: dict[str, list[str]] = field(default_factory=lambda: {side: [] for side in SIDES})
    labels: dict[str, list[int]] = field(default_factory=lambda: {side: [] for side in SIDES})
    sizes: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class MemoryDataset:
    """The source of two torch datasets. The first use reads all items once; a missing pack reads them once more.

    train, test: both sides; the images of each class stay in their order.
    classes: class names in label order; they become folders of distilled sets.
    title: the name in tables.
    quiet: no progress bar.
    """

    train: Items
    test: Items
    classes: tuple[str, ...]
    title: str
    quiet: bool = True

    @property
    def name(self) -> str:
        """memory:TITLE."""
        return f"{MEMORY}{self.title}"

    @property
    def readable(self) -> tuple[str, ...]:
        """The classes as words for prompts."""
        return tuple(split_words(name) for name in self.classes)

    @property
    def pixels(self) -> int:
        """Shorter side of the first training image, px."""
        return min(self._contents.sizes[0])

    def describe(self, data_paths: DataPaths) -> Split:
        """Return the split; its fingerprint covers class names, pixels and labels. Raises DatasetError."""
        contents = self._contents
        hashes = [self._by_class(side, contents.hashes[side]) for side in SIDES]
        train, test = (
            self._by_class(side, (self._name(side, *item) for item in enumerate(contents.labels[side])))
            for side in SIDES
        )
        return split_as_resized(Split(RULE, digest([self.classes, *hashes]), train, test), data_paths)

    def load(self, data_paths: DataPaths, size: int) -> Dataset:
        """Return the images at size x size pixels, packed below data_paths.shared the first time.

        Raises DatasetError, also for an item that is another one when it is read again.
        """
        slug = DatasetName.parse(self.name).slug
        content = PackContent(slug, size, self.classes, self.describe(data_paths), data_paths.resize)
        rows = {name: row for row, name in enumerate(content.names)}

        def fill(raw: Path) -> None:
            with open(raw, "r+b") as out:
                for side, index, image, label in self._read():
                    if _hash(image, label) != self._contents.hashes[side][index]:
                        raise DatasetError(
                            f"{self.name}: item {index} to {side} on is another one when it is read again: leave out "
                            "random transforms; methods and protocols augment by themselves"
                        )
                    row = rows[self._name(side, index, label)]
                    write_row(out.fileno(), row, square(image, size, data_paths.resize))

        return open_pack(make_pack(content, data_paths.shared, fill), self.name, self.readable)

    @cached_property
    def _contents(self) -> _Contents:
        """All items, read once. Raises DatasetError for a class without an image on one side."""
        contents = _Contents()
        for side, _, image, label in self._read():
            contents.hashes[side].append(_hash(image, label))
            contents.labels[side].append(label)
            contents.sizes.append(image.size)
        for side in SIDES:
            numbers = set(contents.labels[side])
            if empty := [name for label, name in enumerate(self.classes) if label not in numbers]:
                raise DatasetError(f"{self.name}: no image to {side} on in {', '.join(empty)}")
        if both := len(set(contents.hashes["train"]) & set(contents.hashes["test"])):
            log.warning("%s: %d training images are test images too", self.name, both)
        return contents

    def _name(self, side: str, index: int, label: int) -> str:
        """Return the name of an item, "beach/train/0000012"."""
        return f"{self.classes[label]}/{side}/{index:07d}"

    def _by_class(self, side: str, values: Iterable[str]) -> tuple[tuple[str, ...], ...]:
        """Sort one value per item of a side by class."""
        by_class: list[list[str]] = [[] for _ in self.classes]
        for label, value in zip(self._contents.labels[side], values, strict=True):
            by_class[label].append(value)
        return tuple(map(tuple, by_class))

    def _read(self) -> Iterator[tuple[str, int, Image.Image, int]]:
        """Yield side, number, RGB image and label of each item. Raises DatasetError."""
        float_range = _FloatRange()  # one for both sides
        for side, items in zip(SIDES, (self.train, self.test), strict=True):
            numbers = range(len(items))
            for index in progress_bar(numbers, desc=f"reading {side}", hidden=self.quiet):
                item = items[index]
                try:
                    image, label = _image_and_label(item)
                    yield side, index, _to_image(image, float_range), _to_label(label, len(self.classes))
                except (TypeError, ValueError) as error:
                    raise DatasetError(f"{self.name}: item {index} to {side} on: {error}") from None


def pair_source(
    train: Items, test: Items, classes: Sequence[str] | None = None, title: str = "", quiet: bool = True
) -> MemoryDataset:
    """Return the source of two torch datasets.

    classes: names in label order; None for the `classes` of the datasets.
    title: name in tables; empty for the class of the training dataset.

    Raises DatasetError for a dataset without a length, and for one without names of classes that can be folders.
    """
    for side, items in zip(SIDES, (train, test), strict=True):
        if not (hasattr(items, "__len__") and hasattr(items, "__getitem__")):
            raise DatasetError(f"{type(items).__name__}, to {side} on, has no length or no items by number")
    owners = [_owner(items) for items in (train, test)]
    if classes is None:
        classes, others = (getattr(owner, "classes", None) for owner in owners)
        if classes is None:
            raise DatasetError(f"{type(owners[0]).__name__} has no attribute classes: {EXAMPLE}")
        if others is not None and list(others) != list(classes):
            raise DatasetError(f"the classes are {list(classes)} to train on, {list(others)} to test on: {EXAMPLE}")
    if odd := [name for name in classes if not isinstance(name, str) or not _can_be_folder(name)]:
        raise DatasetError(f"{odd[0]!r} cannot be the name of a folder: {EXAMPLE}")
    if len(set(classes)) < max(2, len(classes)):
        raise DatasetError(f"{list(classes)} are not two or more different names: {EXAMPLE}")
    if not title.isprintable():
        raise DatasetError(f"{title!r} cannot be the name of a dataset: leave out line breaks and control characters")
    return MemoryDataset(train, test, tuple(classes), title or type(owners[0]).__name__, quiet)


def _owner(items: Any) -> Any:
    """Return the dataset that a `torch.utils.data.Subset` is a part of, or the dataset itself."""
    while not hasattr(items, "classes") and hasattr(items, "dataset"):
        items = items.dataset
    return items


def _can_be_folder(name: str) -> bool:
    return is_folder_name(name) and "\\" not in name and name != MACOS_METADATA


def _image_and_label(item: Any) -> tuple[Any, Any]:
    if isinstance(item, Mapping):
        if not {"image", "label"} <= item.keys():
            raise ValueError(f"it has {', '.join(map(str, item))}, not image and label")
        return item["image"], item["label"]
    if not isinstance(item, tuple | list) or len(item) < 2:
        raise ValueError(f"it is a {type(item).__name__}, not (image, label) or a dict of image and label")
    return item[0], item[1]


def _to_label(label: Any, classes: int) -> int:
    """Return a label as int. Raises TypeError for another type, ValueError outside 0 to classes - 1."""
    number = operator.index(label)
    if not 0 <= number < classes:
        raise ValueError(f"its label is {number}; the labels of {classes} classes are 0 to {classes - 1}")
    return number


def _hash(image: Image.Image, label: int) -> str:
    """Return the SHA-256 (hex) of an item."""
    return hashlib.sha256(f"{image.size} {label}".encode() + image.tobytes()).hexdigest()


class _FloatRange:
    """The range of the float images of a dataset, 0..1 or 0..255: the first that tells decides."""

    def __init__(self) -> None:
        self.highest = 0  # 1 or 255; 0 while all images were black

    def to_uint8(self, values: np.ndarray) -> np.ndarray:
        """Return grey values. Raises ValueError for an image that has another range."""
        low, high, is_whole = values.min(), values.max(), bool((values == np.rint(values)).all())
        if not 0 <= low <= high <= 255 or (1 < high <= 2 and not is_whole and self.highest != 255):
            raise ValueError(
                f"its floats are from {low:.4g} to {high:.4g}; expected 0 to 1, or 0 to 255: leave out normalisation, "
                "and scale another range to uint8 by one rule for all images"
            )
        if high > 1:
            highest = 255
        elif not is_whole:
            highest = 1
        else:  # zeros and ones
            highest = self.highest or int(high)
        if self.highest not in (0, highest):
            raise ValueError(f"its floats are in 0..{highest}, those of an image before it in 0..{self.highest}")
        self.highest = highest
        return np.rint(values if highest == 255 else 255 * values).astype(np.uint8)


def _to_image(image: Any, float_range: _FloatRange) -> Image.Image:
    """Return an image as 8-bit RGB. Raises ValueError or TypeError for what is no such image."""
    if isinstance(image, Image.Image):
        if image.mode not in EIGHT_BIT:
            raise ValueError(f"its image has the mode {image.mode}, not 8 bits: convert it by one rule for all images")
        return to_rgb(image)
    is_tensor = hasattr(image, "detach")
    values = image.detach().cpu().numpy() if is_tensor else np.asarray(image)
    if is_tensor and values.ndim == 3:
        values = values.transpose(1, 2, 0)
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in (1, 3)) or not values.size:
        shapes = "(3, h, w) or (1, h, w)" if is_tensor else "(h, w, 3) or (h, w)"
        raise ValueError(f"its image has the shape {tuple(image.shape)}, not {shapes}: choose three bands")
    if values.dtype.kind == "f":
        values = float_range.to_uint8(values)
    elif values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255:
        raise ValueError(f"its image is {values.dtype} from {values.min()} to {values.max()}, not grey values 0 to 255")
    values = values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
    return Image.fromarray(np.ascontiguousarray(values, dtype=np.uint8)).convert("RGB")
