"""Find a dataset's class folders, list their files, check classes and counts. No torch, and no file is opened.

Folder names match a class without regard to case, spaces, underscores, hyphens (a hub copy's "bare land" is
"BareLand"), or by another name that the facts know. Class folders may be nested in groups (RSI-CB256) and may be
several for one class (copies with a folder for each side of a split): their files are then one class's.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ddbench.datasets.info import DataPaths, DatasetError, DatasetInfo, MissingDataError
from ddbench.utils.files import MACOS_METADATA, has_image_suffix

DEPTH = 4  # folders between the place and a class folder


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


def list_files(info: DatasetInfo, data_paths: DataPaths) -> Listing:
    """The image files of `facts`; raises DatasetError unless classes and counts are those of the facts.

    Hidden files, and files whose suffix is not an image's, are ignored. What has an image's suffix and is no file (a
    link to nowhere, a folder) is an error, and so is a folder with images inside a class folder: nothing is left out
    silently.
    """
    layout = find(info, data_paths)
    _check_classes(info, layout)
    found = [_images(label, layout.folders[label]) for label in info.classes]
    _check_counts(info, layout.base, [len(images) for images in found])
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
            if not has_image_suffix(entry.name):
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
    inner = next((name for _, _, files in os.walk(entry.path) for name in files if has_image_suffix(name)), None)
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


def _check_classes(info: DatasetInfo, layout: Layout) -> None:
    missing, extra = sorted(set(info.classes) - set(layout.folders)), sorted(set(layout.others))
    sides = (("missing", missing), ("too many", extra))
    off = "; ".join(f"{len(names)} {word} ({', '.join(names)})" for word, names in sides if names)
    if off:
        has = len(layout.folders) + len(extra)
        raise DatasetError(
            f"{info.name} has {len(info.classes)} class folders, {layout.base} has {has}: {off}.\n"
            "Restore the missing ones, move the others away."
        )


def _check_counts(info: DatasetInfo, folder: Path, found: Sequence[int]) -> None:
    empty = [name for name, k in zip(info.classes, found, strict=True) if k == 0]
    if empty:
        raise DatasetError(f"{info.name}: no image in {len(empty)} class folder(s) of {folder}: {', '.join(empty)}")
    wanted = info.expected or found
    off = [f"{c} {k} (expected {w})" for c, k, w in zip(info.classes, found, wanted, strict=True) if k != w]
    if off or (info.total and info.total != sum(found)):
        wrong = f" Wrong counts: {', '.join(off)}." if off else ""
        raise DatasetError(
            f"{info.name} has {info.total or sum(wanted)} images, {folder} has {sum(found)}.{wrong}\n"
            "Unpack the archive again."
        )
    single = [name for name, k in zip(info.classes, found, strict=True) if k < 2]
    if single:
        raise DatasetError(f"{info.name}: a class needs two images, to train and to test; one in: {', '.join(single)}")


@dataclass
class Layout:
    """base: what was searched. folders: a class's, by its name. others: folders with images that are no class's."""

    base: Path
    folders: dict[str, list[Path]] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)


def find(info: DatasetInfo, data_paths: DataPaths) -> Layout:
    """The candidate folder in which most classes were found. Raises MissingDataError where none was."""
    if data_paths.root is None and not all(os.path.isabs(f) for f in info.folders):
        raise MissingDataError(f"{info.name} needs a data root, and none was given.\n{way_out(info)}")
    root = Path(data_paths.root or "/")
    named = _matching(info)
    found = [_searched(root / folder, named, folder != ".") for folder in candidates(info)]
    best = max(found, key=lambda layout: len(layout.folders))
    if not best.folders:
        raise MissingDataError(_missing(info, [layout.base for layout in found]))
    return best


def candidates(info: DatasetInfo) -> list[str]:
    """Where class folders may lie, below the data root; `data prepare` unpacks into the one that bears its name."""
    if info.given_by_path or os.path.isabs(info.folders[0]):
        return list(info.folders)
    return list(dict.fromkeys([*info.folders, info.base]))


def plain(name: str) -> str:
    """A name without what copies change: letters and digits, folded."""
    return "".join(c for c in unicodedata.normalize("NFC", name).casefold() if c.isalnum())


def class_folders(folder: Path) -> list[str]:
    """Names of the folders in `folder` that can be classes, sorted."""
    return sorted(e.name for e in entries(folder) if e.name[0] != "." and e.name != MACOS_METADATA and e.is_dir())


def entries(folder: Path) -> Iterator[os.DirEntry]:
    """What is in a folder; raises DatasetError where it cannot be listed."""
    try:
        with os.scandir(folder) as found:
            yield from found
    except OSError as error:
        raise DatasetError(f"cannot list {folder}: {error.strerror}") from None


def way_out(info: DatasetInfo) -> str:
    """How to get the data, and how to say where it lies."""
    layout = Path("DATA_ROOT", info.folders[0], info.classes[0])
    lines = [f"Expected layout: {layout}/*.tif, *.jpg or *.png, one folder per class."]
    if info.address:
        checksum = f" ({info.checksum})" if info.checksum else ""
        lines += [f"Get it: ddbench data prepare {info.base} downloads {info.address}{checksum}."]
    elif not info.given_by_path:
        lines += [
            f"Get it: from {info.source or info.homepage}, then "
            f"ddbench data prepare {info.base} --from ARCHIVE_OR_FOLDER. See {info.homepage}"
        ]
    return "\n".join([*lines, "Say where DATA_ROOT is with --data-root DIR or the environment variable DDBENCH_DATA."])


def _matching(info: DatasetInfo) -> Callable[[str], str | None]:
    """The class that a folder's name means: its own name first, then what copies make of it."""
    loose: dict[str, str] = {}
    twice = set()
    for name, label in [*((c, c) for c in info.classes), *info.also]:
        if loose.setdefault(plain(name), label) != label:
            twice.add(plain(name))
    exact = set(info.classes)
    return lambda name: name if name in exact else None if plain(name) in twice else loose.get(plain(name))


def _searched(base: Path, named: Callable[[str], str | None], nested: bool) -> Layout:
    layout = Layout(base.absolute())
    if base.is_dir():
        _search(base, named, DEPTH if nested else 0, layout)
    return layout


def _search(folder: Path, named: Callable[[str], str | None], depth: int, layout: Layout) -> None:
    for name in class_folders(folder):
        if label := named(name):
            layout.folders.setdefault(label, []).append(folder / name)
        elif any(has_image_suffix(entry.name) for entry in entries(folder / name)):
            layout.others.append(name)
        elif depth:
            _search(folder / name, named, depth - 1, layout)


def _missing(info: DatasetInfo, looked_in: Sequence[Path]) -> str:
    some = ", ".join(info.classes[:3])
    looked = [f"  {f}  ({'none of them is in it' if f.is_dir() else 'no such folder'})" for f in looked_in]
    head = f"{info.name} ({info.title}) was not found. Looked for its {len(info.classes)} class folders"
    return "\n".join([f"{head} ({some}, ...) in", *looked, way_out(info)])
