"""List a dataset's files, check classes and counts. No torch, and no file is opened."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ddbench.datasets.info import DatasetError, Facts, Place
from ddbench.datasets.layout import Layout, entries, find
from ddbench.utils.files import image_like


@dataclass(frozen=True)
class Listing:
    """folder: below which all files lie. files: names "class/file" per class in label order, sorted.

    A name has the class's documented name, whatever its folder is called: copies of a dataset are split alike. paths:
    where a file lies, by name. stamps: bytes and time of the last change (ns), by name.
    """

    folder: Path
    files: tuple[tuple[str, ...], ...]
    paths: dict[str, str]  # not Path: to make one takes longer than to find the file
    stamps: dict[str, tuple[int, int]]


def list_files(facts: Facts, place: Place) -> Listing:
    """The image files of `facts`; raises DatasetError unless classes and counts are those of the facts.

    Hidden files, and files whose suffix is not an image's, are ignored. What has an image's suffix and is no file (a
    link to nowhere, a folder) is an error, and so is a folder with images inside a class folder: nothing is left out
    silently.
    """
    layout = find(facts, place)
    _check_classes(facts, layout)
    found = [_images(label, layout.folders[label]) for label in facts.classes]
    _check_counts(facts, layout.base, [len(images) for images in found])
    paths = {name: path for images in found for name, (path, _) in images.items()}
    stamps = {name: stamp for images in found for name, (_, stamp) in images.items()}
    return Listing(layout.base, tuple(tuple(sorted(images)) for images in found), paths, stamps)


def first_image(folder: Path, classes: Sequence[str]) -> Path:
    """The alphabetically first image of the first class that has one; raises DatasetError when there is none."""
    for name in classes:
        if images := _images(name, [folder / name]):
            return Path(images[min(images)][0])
    raise DatasetError(f"no image in the class folders of {folder} ({', '.join(classes)})")


def _images(label: str, folders: Sequence[Path]) -> dict[str, tuple[str, tuple[int, int]]]:
    """Path and (bytes, time of the last change) of each image of one class, by its name."""
    images: dict[str, tuple[str, tuple[int, int]]] = {}
    for folder in folders:
        for entry in entries(folder):
            if not image_like(entry.name):
                _refuse_inner(entry)
                continue
            name = f"{label}/{entry.name}"
            if name in images:
                raise DatasetError(f"{images[name][0]} and {entry.path} are both {name}: move one of them away")
            images[name] = entry.path, _stamp(entry)
    return images


def _refuse_inner(entry: os.DirEntry) -> None:
    """DatasetError for a folder inside a class folder that has images: whose would they be?"""
    if entry.name[0] == "." or not entry.is_dir():
        return
    inner = next((name for _, _, files in os.walk(entry.path) for name in files if image_like(name)), None)
    if inner:
        raise DatasetError(f"{entry.path}, inside a class folder, has images ({inner}): move them into it, or away")


def _stamp(entry: os.DirEntry) -> tuple[int, int]:
    try:
        if entry.is_file():
            state = entry.stat()
            return state.st_size, state.st_mtime_ns
    except OSError as error:
        raise DatasetError(f"{entry.path}: {error.strerror}") from None
    what = f"a link to {os.readlink(entry.path)}, which is no file" if entry.is_symlink() else "no file"
    raise DatasetError(f"{entry.path} is {what}: remove it or put the image in its place")


def _check_classes(facts: Facts, layout: Layout) -> None:
    missing, extra = sorted(set(facts.classes) - set(layout.folders)), sorted(set(layout.others))
    sides = (("missing", missing), ("too many", extra))
    off = "; ".join(f"{len(names)} {word} ({', '.join(names)})" for word, names in sides if names)
    if off:
        has = len(layout.folders) + len(extra)
        raise DatasetError(
            f"{facts.name} has {len(facts.classes)} class folders, {layout.base} has {has}: {off}.\n"
            "Restore the missing ones, move the others away."
        )


def _check_counts(facts: Facts, folder: Path, found: Sequence[int]) -> None:
    empty = [name for name, k in zip(facts.classes, found, strict=True) if k == 0]
    if empty:
        raise DatasetError(f"{facts.name}: no image in {len(empty)} class folder(s) of {folder}: {', '.join(empty)}")
    wanted = facts.expected or found
    off = [f"{c} {k} (expected {w})" for c, k, w in zip(facts.classes, found, wanted, strict=True) if k != w]
    if off or (facts.total and facts.total != sum(found)):
        wrong = f" Wrong counts: {', '.join(off)}." if off else ""
        raise DatasetError(
            f"{facts.name} has {facts.total or sum(wanted)} images, {folder} has {sum(found)}.{wrong}\n"
            "Unpack the archive again."
        )
    single = [name for name, k in zip(facts.classes, found, strict=True) if k < 2]
    if single:
        raise DatasetError(f"{facts.name}: a class needs two images, to train and to test; one in: {', '.join(single)}")
