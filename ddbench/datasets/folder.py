"""Datasets in class folders, from files to tensors; `folder:PATH` for any such tree. torch only when loading."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ddbench.datasets.facts import DatasetError, Facts, Place
from ddbench.datasets.images import Report, read_rgb, survey, write_squares
from ddbench.datasets.listing import class_folders, first_image, list_files, split_files
from ddbench.datasets.pack import Plan, flat, packed

if TYPE_CHECKING:
    from ddbench.types import Dataset


def load_folders(facts: Facts, place: Place, size: int) -> Dataset:
    """The split images of `facts` at size x size pixels; packed the first time. Raises DatasetError."""
    listing = list_files(facts, place)
    plan = Plan(facts.slug, size, facts.classes, split_files(facts, listing), listing.stamps)
    pack = packed(plan, place.shared, lambda raw: write_squares(raw, listing.folder, plan.names, size, place.quiet))
    from ddbench.datasets.tensors import open_pack  # after packing: what is wrong with the data is said without torch

    return open_pack(pack, facts.name, facts.readable)


def verify_folders(facts: Facts, place: Place) -> Report:
    """Decode every image; the report has the damaged files. Raises DatasetError when folders or counts are wrong."""
    listing = list_files(facts, place)
    sizes, unreadable = survey(listing.folder, flat(listing.files), place.quiet)
    counts = {name: len(files) for name, files in zip(facts.classes, listing.files, strict=True)}
    return Report(facts.name, str(listing.folder), counts, sizes, unreadable)


def folder_source(path: str | Path) -> Facts:
    """The source `folder:PATH` of any tree with one folder of images per class.

    Classes are the folders in alphabetical order, `pixels` is the shorter side of the alphabetically first image, 80
    % train. Raises DatasetError when there are not at least two class folders.
    """
    folder = Path(path).expanduser().absolute()
    classes = tuple(class_folders(folder))
    if len(classes) < 2:
        raise DatasetError(
            f"folder:{path} needs one folder of images per class, at least two; {folder} has {len(classes)}."
        )
    return Facts(
        name=f"folder:{path}",
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
