"""Datasets in class folders, from files to tensors; `folder:PATH` for any such tree. torch only when loading."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ddbench.datasets.decode import image_size, read_rgb
from ddbench.datasets.info import DataPaths, DatasetError, DatasetInfo, Split
from ddbench.datasets.listing import class_folders, first_image, list_files, side_folders
from ddbench.datasets.name import FOLDER
from ddbench.datasets.pack import PackContent, make_pack, open_pack
from ddbench.datasets.pack_writer import write_squares
from ddbench.datasets.splits import cache_fingerprint, split_files
from ddbench.utils.images import UnreadableImageError

if TYPE_CHECKING:
    from ddbench.datasets.verification import Report
    from ddbench.types import Dataset


@dataclass(frozen=True)
class ClassFolders(DatasetInfo):
    """The source of a dataset with one folder of images per class."""

    def describe(self, data_paths: DataPaths) -> Split:
        """List the files, check classes and counts, return the split. Raises DatasetError."""
        return split_files(self, list_files(self, data_paths), data_paths)

    def load(self, data_paths: DataPaths, size: int) -> Dataset:
        """Return the split images at size x size pixels, packed below data_paths.shared the first time.

        Raises DatasetError.
        """
        listing = list_files(self, data_paths)
        split = split_files(self, listing, data_paths)
        content = PackContent(self.slug, size, self.classes, split, [listing.stamps, data_paths.resize])
        if not self.registered:
            cache_fingerprint(split, listing, data_paths)

        def fill(raw: Path) -> None:
            write_squares(raw, content.names, listing.paths, size, data_paths)

        return open_pack(make_pack(content, data_paths.shared, fill), self.name, self.readable)

    def verify(self, data_paths: DataPaths) -> Report:
        """Decode every image and report. Raises DatasetError if folders or counts are wrong."""
        from ddbench.datasets.verification import verify_images  # imagehash, and with it scipy

        listing = list_files(self, data_paths)
        return verify_images(self, listing, split_files(self, listing, data_paths), data_paths.quiet)

    def sizes(self, data_paths: DataPaths) -> dict[tuple[int, int], int]:
        """Count the images by (width, height) in their files' headers, most frequent first. Raises DatasetError."""
        listing = list_files(self, data_paths)
        return dict(Counter(size for size in map(image_size, listing.paths.values()) if size).most_common())


def folder_source(path: str | Path) -> ClassFolders:
    """Return the source `folder:PATH` of any tree with one folder of images per class.

    Classes are the folders in alphabetical order, `pixels` is the shorter side of the alphabetically first image, and
    80 % of each class train. A tree of two folders, train and test (`side_folders`), each with the class folders, is
    split as it is. Raises DatasetError for fewer than two class folders, and for a class that one side lacks.
    """
    folder = Path(path).expanduser().absolute()
    sides = side_folders(folder)
    parent = folder / sides[0] if sides else folder
    classes = tuple(class_folders(parent))
    if len(classes) < 2:
        raise DatasetError(
            f"{FOLDER}{path} needs one folder of images per class, at least two; {parent} has {len(classes)}."
        )
    first = first_image(parent, classes)
    try:
        pixels = min(read_rgb(first)[0].size)
    except UnreadableImageError as error:
        raise DatasetError(f"{first} cannot be read ({error.reason}). Replace it, then repeat the command.") from None
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


def split_words(name: str) -> str:
    """Turn a folder's name into lower-case words: "SparseResidential", "sparse_residential" -> "sparse residential"."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return " ".join(re.split(r"[\s_\-]+", spaced.strip(" _-"))).lower()
