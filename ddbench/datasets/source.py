"""Datasets in class folders, from files to tensors; `folder:PATH` for any such tree. torch only when loading."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ddbench.datasets.decode import read_rgb, size_of
from ddbench.datasets.info import FOLDER, DataPaths, DatasetError, DatasetInfo, Split
from ddbench.datasets.listing import class_folders, first_image, list_files
from ddbench.datasets.pack import Plan, open_pack, packed
from ddbench.datasets.pack_writer import write_squares
from ddbench.datasets.splits import keep, split_files

if TYPE_CHECKING:
    from ddbench.datasets.verification import Report
    from ddbench.types import Dataset


@dataclass(frozen=True)
class ClassFolders(DatasetInfo):
    """A dataset with one folder of images per class, as a source."""

    def describe(self, data_paths: DataPaths) -> Split:
        """List the files, verify the classes and their counts, split. Raises DatasetError."""
        return split_files(self, list_files(self, data_paths), data_paths)

    def load(self, data_paths: DataPaths, size: int) -> Dataset:
        """Return the split images at size x size pixels, packed below data_paths.shared the first time.

        Raises DatasetError.
        """
        listing = list_files(self, data_paths)
        origin = [listing.stamps, data_paths.resize]
        plan = Plan(self.slug, size, self.classes, split_files(self, listing, data_paths), origin)
        if self.given_by_path:
            keep(plan.split, listing, data_paths)
        fill = lambda raw: write_squares(raw, plan.names, listing.paths, size, data_paths)  # noqa: E731
        pack = packed(plan, data_paths.shared, fill)
        return open_pack(pack, self.name, self.readable)

    def verify(self, data_paths: DataPaths) -> Report:
        """Decode every image and report. Raises DatasetError when folders or counts are wrong."""
        from ddbench.datasets.verification import verify_images  # imagehash, and with it scipy

        listing = list_files(self, data_paths)
        return verify_images(self, listing, split_files(self, listing, data_paths), data_paths.quiet)

    def sizes(self, data_paths: DataPaths) -> dict[tuple[int, int], int]:
        """How many images have a size (width, height), as their files' heads say; most frequent first.

        Raises DatasetError.
        """
        listing = list_files(self, data_paths)
        return dict(Counter(size for size in map(size_of, listing.paths.values()) if size).most_common())


def folder_source(path: str | Path) -> ClassFolders:
    """The source `folder:PATH` of any tree with one folder of images per class.

    Classes are the folders in alphabetical order, `pixels` is the shorter side of the alphabetically first image, 80
    % train. Raises DatasetError when there are not at least two class folders.
    """
    folder = Path(path).expanduser().absolute()
    classes = tuple(class_folders(folder))
    if len(classes) < 2:
        raise DatasetError(
            f"{FOLDER}{path} needs one folder of images per class, at least two; {folder} has {len(classes)}."
        )
    return ClassFolders(
        name=f"{FOLDER}{path}",
        title=f"images in {folder}",
        classes=classes,
        readable=tuple(words(name) for name in classes),
        counts=None,
        pixels=_pixels(first_image(folder, classes)),
        resolution="unknown",
        licence="unknown",
        homepage="",
        citation="",
        folders=(str(folder),),
    )


def words(name: str) -> str:
    """A folder's name as lower-case words: "SparseResidential", "sparse_residential" -> "sparse residential"."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return " ".join(re.split(r"[\s_\-]+", spaced.strip(" _-"))).lower()


def _pixels(path: Path) -> int:
    try:
        return min(read_rgb(path).size)
    except Exception as error:  # Pillow's plugins raise many kinds
        raise DatasetError(f"{path} cannot be read ({error}). Replace it, then run again.") from None
