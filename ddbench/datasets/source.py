"""Datasets in class folders, from files to tensors; `folder:PATH` for any such tree. torch only when loading."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ddbench.datasets.decode import each_image, read_rgb, size_of, write_squares
from ddbench.datasets.info import FOLDER, DatasetError, Facts, Place
from ddbench.datasets.layout import class_folders
from ddbench.datasets.listing import first_image, list_files
from ddbench.datasets.pack import Plan, flat, packed
from ddbench.datasets.splits import keep, split_files
from ddbench.datasets.verification import Duplicates, duplicates, trace

if TYPE_CHECKING:
    from ddbench.datasets.verification import Duplicates
    from ddbench.types import Dataset


@dataclass(frozen=True)
class Report:
    """What decoding every image found.

    counts: images per class, by folder name. sizes: how many images have a size (width, height). unreadable: "file:
    reason". several: files with more than one picture. duplicates: None where nobody looked.
    """

    name: str
    folder: str
    counts: dict[str, int]
    sizes: dict[tuple[int, int], int]
    unreadable: tuple[str, ...]
    several: tuple[str, ...] = ()
    duplicates: Duplicates | None = None

    @property
    def ok(self) -> bool:
        return not self.unreadable


def load_folders(facts: Facts, place: Place, size: int) -> Dataset:
    """The split images of `facts` at size x size pixels; packed the first time. Raises DatasetError."""
    listing = list_files(facts, place)
    origin = [listing.stamps, place.resize]
    plan = Plan(facts.slug, size, facts.classes, split_files(facts, listing, place), origin)
    if facts.given_by_path:
        keep(plan.split, listing, place)
    pack = packed(plan, place.shared, lambda raw: write_squares(raw, plan.names, listing.paths, size, place))
    from ddbench.datasets.tensors import open_pack  # after packing: what is wrong with the data is said without torch

    return open_pack(pack, facts.name, facts.readable)


def verify_folders(facts: Facts, place: Place) -> Report:
    """Decode every image; the report has the damaged files and those that are alike.

    Raises DatasetError when folders or counts are wrong.
    """

    listing = list_files(facts, place)
    split, names = split_files(facts, listing, place), flat(listing.files)
    traces, bad, several = each_image(
        lambda row, image: trace(image, listing.paths[names[row]]), names, listing.paths, "verifying", place.quiet
    )
    read = {name: found for name, found in zip(names, traces, strict=True) if found is not None}
    sizes = Counter(found.size for found in read.values())
    counts = {name: len(files) for name, files in zip(facts.classes, listing.files, strict=True)}
    return Report(
        facts.name, str(listing.folder), counts, dict(sizes.most_common()), tuple(bad), tuple(several),
        duplicates(read, split),
    )  # fmt: skip


def sizes_of(facts: Facts, place: Place) -> dict[tuple[int, int], int]:
    """How many images have a size (width, height), as their files' heads say; most frequent first."""
    listing = list_files(facts, place)
    return dict(Counter(size for size in map(size_of, listing.paths.values()) if size).most_common())


def folder_source(path: str | Path) -> Facts:
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
    return Facts(
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
