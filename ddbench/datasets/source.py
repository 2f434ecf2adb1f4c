"""Datasets in class folders, from files to tensors; `folder:PATH` for any such tree. torch only when loading."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ddbench.datasets.decode import image_size, read_rgb
from ddbench.datasets.folders import class_folders, entries, normalised_name, side_folders
from ddbench.datasets.info import (
    DataPaths,
    DatasetError,
    DatasetInfo,
    Split,
    check_encoding,
    describe_ignored,
    describe_left_out,
)
from ddbench.datasets.listing import FileListing, images_in_order, list_files
from ddbench.datasets.name import FOLDER, expand
from ddbench.datasets.pack import PackContent, make_pack, open_pack
from ddbench.datasets.pack_writer import write_squares
from ddbench.datasets.splits import split_files
from ddbench.utils.images import UnreadableImageError
from ddbench.utils.memory import gc_paused

if TYPE_CHECKING:
    from ddbench.datasets.verification import Report
    from ddbench.types import Dataset

log = logging.getLogger("ddbench")

VALIDATION = ("val", "valid", "validation")  # names of a third side
TRIED = 100  # images that are tried in order, and again as many of the rest, before a folder is refused


@dataclass(frozen=True)
class ClassFolders(DatasetInfo):
    """The source of a dataset with one folder of images per class."""

    def with_split(self, split: str) -> Self:
        """Return the same images with another split (`DatasetInfo.with_split`); of a tree with sides also "val".

        "val", "valid" or "validation" takes that folder as the test side. Raises DatasetError.
        """
        if self.sides and not self.registered and normalised_name(split) in VALIDATION:
            folder = Path(self.folders[0])
            if name := next((name for name in class_folders(folder) if normalised_name(name) in VALIDATION), ""):
                return replace(self, name=f"{self.name}@{split}", sides=(self.sides[0], name))
            raise DatasetError(f"{self.name}@{split}: {folder} has no folder {split}, but {', '.join(self.sides)}")
        return super().with_split(split)

    def describe(self, data_paths: DataPaths) -> Split:
        """List the files, check classes and counts, return the split. Raises DatasetError."""
        return self._list_and_split(data_paths)[1]

    def load(self, data_paths: DataPaths, size: int) -> Dataset:
        """Return the split images at size x size pixels, packed below data_paths.shared the first time.

        Raises DatasetError.
        """
        listing, split = self._list_and_split(data_paths, remember=True)
        content = PackContent(self.slug, size, self.classes, split, [listing.stamps, data_paths.resize])
        if listing.ignored:
            _warn_once(f"{self.name}: files that are not read: {describe_ignored(listing.ignored)}")

        if left_out := split.left_out(listing.files):
            _warn_once(f"{self.name}: {describe_left_out(left_out)}")

        def fill(raw: Path) -> None:
            write_squares(raw, content.names, listing.paths, size, data_paths)

        return open_pack(make_pack(content, data_paths.shared, fill), self.name, self.readable)

    def verify(self, data_paths: DataPaths) -> Report:
        """Decode every image and report. Raises DatasetError if folders or counts are wrong."""
        from ddbench.datasets.verification import verify_images  # imagehash, and with it scipy

        listing, split = self._list_and_split(data_paths)
        return verify_images(self, listing, split, data_paths.quiet)

    def sizes(self, data_paths: DataPaths) -> dict[tuple[int, int], int]:
        """Count the images by (width, height) in their files' headers, most frequent first. Raises DatasetError."""
        listing = list_files(self, data_paths)
        return dict(Counter(size for size in map(image_size, listing.paths.values()) if size).most_common())

    @gc_paused()
    def _list_and_split(self, data_paths: DataPaths, remember: bool = False) -> tuple[FileListing, Split]:
        """List the files and split them. remember: keep the fingerprint of the bytes (`split_files`)."""
        listing = list_files(self, data_paths)
        return listing, split_files(self, listing, data_paths, remember)


def folder_source(path: str | Path) -> ClassFolders:
    """Return the source `folder:PATH` of any tree with one folder of images per class.

    Classes are the folders in alphabetical order, `pixels` is the shorter side of the first image that can be read, and
    80 % of each class train. A tree of two folders, train and test (`side_folders`), each with the class folders, is
    split as it is. Raises DatasetError for fewer than two class folders, for one whose name is no UTF-8, for a link
    that leads nowhere in their place, and for a class that one side lacks.
    """
    folder = expand(str(path)).absolute()
    sides = side_folders(folder)
    parent = folder / sides[0] if sides else folder
    for entry in entries(parent):
        if entry.is_symlink() and not os.path.exists(entry.path):
            raise DatasetError(f"{entry.path} is a link to {os.readlink(entry.path)}, which leads nowhere: remove it")
    classes = tuple(class_folders(parent))
    if len(classes) < 2:
        deeper = ""
        if classes and len(class_folders(parent / classes[0])) > 1:
            deeper = f" Its folder {classes[0]} has several: name that one, if these are the classes."
        raise DatasetError(
            f"{FOLDER}{path} needs one folder of images per class, at least two; {parent} has {len(classes)}.{deeper}"
        )
    for name in classes:
        check_encoding(str(parent / name))
    pixels = _first_side(parent, classes)
    return ClassFolders(
        name=f"{FOLDER}{path}",
        title=f"images in {folder}",
        classes=classes,
        readable=tuple(split_words(name) for name in classes),
        counts=None,
        pixels=pixels,
        resolution="unknown",
        licence="unknown",
        homepage="",
        citation="",
        folders=(str(folder),),
        sides=sides,
    )


def _first_side(folder: Path, classes: tuple[str, ...]) -> int:
    """Return the shorter side of the first image that can be read, px. Raises DatasetError if none can."""
    errors = []
    for path in _tried(images_in_order(folder, classes)):
        try:
            return min(read_rgb(path)[0].size)
        except UnreadableImageError as error:
            errors.append(f"{path}: {error.reason}")
    if not errors:
        raise DatasetError(f"no image in the class folders of {folder} ({', '.join(classes)})")
    raise DatasetError(f"none of {len(errors)} images that were tried is read; the first is {errors[0]}")


def _tried(paths: Iterator[str]) -> Iterator[str]:
    """Yield the first TRIED paths, then about as many evenly from the rest: a damaged class is not the whole folder."""
    yield from islice(paths, TRIED)
    rest = list(paths)
    yield from rest[:: max(1, len(rest) // TRIED)]


@cache
def _warn_once(text: str) -> None:
    log.warning("%s", text)


def split_words(name: str) -> str:
    """Turn a folder's name into lower-case words: "SparseResidential", "sparse_residential" -> "sparse residential"."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return " ".join(re.split(r"[\s_\-]+", spaced.strip(" _-"))).lower()
