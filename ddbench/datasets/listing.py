"""List the image files in a dataset's class folders, check classes and counts. No torch, and no file is opened."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ddbench.datasets.folders import FoundFolders, entries, files_below, find_folders, is_folder
from ddbench.datasets.info import DataPaths, DatasetError, DatasetInfo, check_encoding
from ddbench.utils.files import has_image_suffix


@dataclass(frozen=True)
class FileListing:
    """The image files of a dataset.

    A name has the class's documented name, whatever its folder is called, so that copies of a dataset are split alike.
    With `DatasetInfo.sides` a name is "class/train/file" or "class/test/file", whatever the sides' folders are called.

    folder: the folder that holds all files.
    files: names "class/file" of each class in label order, sorted.
    paths: path by name.
    stamps: bytes and time of the last change (ns) by name.
    ignored: paths below `folder` of whatever else lies there and is not read: other suffixes, hidden files, links that
        lead nowhere, folders beside the sides of a split.
    """

    folder: Path
    files: tuple[tuple[str, ...], ...]
    paths: dict[str, str]  # not Path: to make one takes longer than to find the file
    stamps: dict[str, tuple[int, int]]
    ignored: tuple[str, ...] = ()


def list_files(info: DatasetInfo, data_paths: DataPaths) -> FileListing:
    """List the image files of a dataset; raises DatasetError unless classes and counts are those of `info`.

    Hidden files, and files without an image's suffix, are listed as ignored. An image's suffix on anything but a file
    (a broken link, a folder) is an error, and so is a folder with images inside a class folder.
    """
    found_folders = find_folders(info, data_paths)
    _check_classes(info, found_folders)
    ignored = found_folders.ignored
    images = [_images(label, found_folders.folders[label], ignored) for label in info.classes]
    _check_counts(info, found_folders.base, [len(of_class) for of_class in images])
    paths = {name: path for of_class in images for name, (path, _) in of_class.items()}
    stamps = {name: stamp for of_class in images for name, (_, stamp) in of_class.items()}
    files = tuple(tuple(sorted(of_class)) for of_class in images)
    below = tuple(sorted(os.path.relpath(path, found_folders.base) for path in ignored))
    return FileListing(found_folders.base, files, paths, stamps, below)


def images_in_order(folder: Path, classes: Sequence[str]) -> Iterator[str]:
    """Yield the paths of the images of each class in turn, in alphabetical order."""
    for name in classes:
        images = _images(name, [(folder / name, "")], [])
        yield from (images[key][0] for key in sorted(images))


def _images(
    label: str, folders: Sequence[tuple[Path, str]], ignored: list[str]
) -> dict[str, tuple[str, tuple[int, int]]]:
    """Map the name of each image of one class to its path and (bytes, time of the last change).

    Paths of everything else in the folders are added to `ignored`.
    """
    images: dict[str, tuple[str, tuple[int, int]]] = {}
    for folder, side in folders:
        for entry in entries(folder):
            if not has_image_suffix(entry.name):
                below = os.walk(entry.path) if entry.name[0] != "." and is_folder(entry) else ()
                if inner := [name for _, _, names in below for name in names if has_image_suffix(name)]:
                    problem = f"is inside a class folder and has images ({inner[0]})"
                    raise DatasetError(f"{entry.path} {problem}: move them into the class folder, or away")
                ignored += files_below(entry)
                continue
            check_encoding(entry.path)
            name = f"{label}/{side}{entry.name}"
            if name in images:
                raise DatasetError(
                    f"{images[name][0]} and {entry.path} have the same name {name}: move one of them away"
                )
            images[name] = entry.path, _stamp(entry)
    return images


def _stamp(entry: os.DirEntry) -> tuple[int, int]:
    """Return (bytes, time of the last change in ns); raises DatasetError for anything but a file."""
    try:
        if entry.is_file():
            state = entry.stat()
            return state.st_size, state.st_mtime_ns
    except OSError as error:
        raise DatasetError(f"{entry.path}: {error.strerror}") from None
    kind = f"a link to {os.readlink(entry.path)}, which is not a file" if entry.is_symlink() else "not a file"
    raise DatasetError(f"{entry.path} is {kind}: remove it or put the image in its place")


def _check_classes(info: DatasetInfo, found_folders: FoundFolders) -> None:
    missing, extra = sorted(set(info.classes) - set(found_folders.folders)), sorted(set(found_folders.others))
    sides = (("missing", missing), ("unknown", extra))
    differences = [f"{len(names)} {word} ({', '.join(names)})" for word, names in sides if names]
    if differences:
        count = len(found_folders.folders) + len(extra)
        raise DatasetError(
            f"{info.name} has {len(info.classes)} class folders, {found_folders.base} has {count}: "
            f"{'; '.join(differences)}.\nRestore the missing folders, move the unknown ones away."
        )


def _check_counts(info: DatasetInfo, folder: Path, counts: Sequence[int]) -> None:
    if empty := [name for name, count in zip(info.classes, counts, strict=True) if count == 0]:
        raise DatasetError(
            f"{info.name}: no image in {len(empty)} class folder(s) of {folder}: {', '.join(empty)}. Remove the "
            "folders, or put their images in"
        )
    expected = info.expected or counts
    rows = zip(info.classes, counts, expected, strict=True)
    wrong = [f"{name} {count} (expected {right})" for name, count, right in rows if count != right]
    if wrong or (info.total and info.total != sum(counts)):
        detail = f" Wrong counts: {', '.join(wrong)}." if wrong else ""
        raise DatasetError(
            f"{info.name} has {info.total or sum(expected)} images, {folder} has {sum(counts)}.{detail}\n"
            "Unpack the archive again."
        )
    if single := [name for name, count in zip(info.classes, counts, strict=True) if count < 2]:
        raise DatasetError(
            f"{info.name}: a class needs two images, to train and to test on. Classes with one: {', '.join(single)}"
        )
