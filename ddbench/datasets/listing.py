"""Find a dataset's class folders, verify them, split their files. No torch, and no file is opened."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ddbench.datasets.facts import DatasetError, Facts, MissingDataError, Place, Split
from ddbench.files import IMAGES

SPLIT_SEED = 0
LEFT_BY_ARCHIVERS = "__MACOSX"


@dataclass(frozen=True)
class Listing:
    """folder: holds the class folders. files: relative names per class in label order, sorted.

    stamps: bytes and time of the last change (ns) by name.
    """

    folder: Path
    files: tuple[tuple[str, ...], ...]
    stamps: dict[str, tuple[int, int]]


def list_files(facts: Facts, place: Place) -> Listing:
    """The image files of `facts`; raises DatasetError unless classes and counts are those of the facts.

    Hidden files, and files whose suffix is not an image's, are ignored.
    """
    folder = _find(facts, place)
    _check_classes(facts, folder)
    per_class = [_images(folder, name) for name in facts.classes]
    _check_counts(facts, folder, [len(images) for images in per_class])
    stamps = {name: stamp for images in per_class for name, stamp in images.items()}
    return Listing(folder, tuple(tuple(sorted(images)) for images in per_class), stamps)


def split_files(facts: Facts, listing: Listing) -> Split:
    """Rank each class's files by SHA-256 of "seed/class/stem"; the first of them train, at least one is on each side.

    So it is stratified, and files added to one class never move those of another. The stem has no suffix: a TIFF and
    a JPEG copy of a dataset split alike. The fingerprint of images without known counts (folder:PATH) covers their
    bytes: two people's folders may be named alike.
    """
    train = tuple(_chosen(names, facts.train_fraction) for names in listing.files)
    test = tuple(tuple(sorted(set(names) - set(chosen))) for names, chosen in zip(listing.files, train, strict=True))
    sides = fingerprint(train, test)
    return Split(facts.split_rule, sides if facts.counts else _with_bytes(sides, listing), train, test)


def fingerprint(train: Sequence[Sequence[str]], test: Sequence[Sequence[str]]) -> str:
    """SHA-256 (hex) of the sorted lines "train|test, tab, class/file"."""
    lines = [f"train\t{name}" for names in train for name in names] + [
        f"test\t{name}" for names in test for name in names
    ]
    return hashlib.sha256("\n".join(sorted(lines)).encode(errors="surrogateescape")).hexdigest()


def _with_bytes(sides: str, listing: Listing) -> str:
    found = hashlib.sha256(sides.encode())
    for name in sorted(listing.stamps):
        found.update((listing.folder / name).read_bytes())
    return found.hexdigest()


def class_folders(folder: Path) -> list[str]:
    """Names of the folders in `folder` that can be classes, sorted."""
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if e.is_dir() and e.name[0] != "." and e.name != LEFT_BY_ARCHIVERS)
    except OSError as error:
        raise DatasetError(f"cannot list {folder}: {error.strerror}") from None


def first_image(folder: Path, classes: Sequence[str]) -> Path:
    """The alphabetically first image of the first class that has one; raises DatasetError when there is none."""
    for name in classes:
        if images := _images(folder, name):
            return folder / min(images)
    known = ", ".join(sorted(IMAGES))
    raise DatasetError(f"no image in the class folders of {folder} ({', '.join(classes)}); suffixes read: {known}")


def _images(folder: Path, name: str) -> dict[str, tuple[int, int]]:
    """Bytes and time of the last change of each image file of one class, by relative name."""
    try:
        with os.scandir(folder / name) as entries:
            return {f"{name}/{e.name}": (e.stat().st_size, e.stat().st_mtime_ns) for e in entries if _is_image(e)}
    except OSError as error:
        raise DatasetError(f"cannot list {folder / name}: {error.strerror}") from None


def _is_image(entry: os.DirEntry) -> bool:
    return entry.name[0] != "." and os.path.splitext(entry.name)[1].lower() in IMAGES and entry.is_file()


def _chosen(names: Sequence[str], fraction: float) -> tuple[str, ...]:
    count = min(max(round(len(names) * fraction), 1), len(names) - 1)
    return tuple(sorted(sorted(names, key=_rank)[:count]))


def _rank(name: str) -> tuple[bytes, str]:
    text = f"{SPLIT_SEED}/{os.path.splitext(name)[0]}"
    return hashlib.sha256(text.encode(errors="surrogateescape")).digest(), name


def _find(facts: Facts, place: Place) -> Path:
    """The candidate folder that holds most of the class folders."""
    if place.root is None and not all(os.path.isabs(f) for f in facts.folders):
        raise MissingDataError(f"{facts.name} needs a data root, and none was given.\n{_way_out(facts)}")
    candidates = [Path(place.root or "/", folder).absolute() for folder in facts.folders]
    held = [sum((folder / name).is_dir() for name in facts.classes) for folder in candidates]
    if not any(held):
        raise MissingDataError(_missing(facts, candidates))
    return candidates[held.index(max(held))]


def _missing(facts: Facts, candidates: Sequence[Path]) -> str:
    some = ", ".join(facts.classes[:3])
    looked = [f"  {f}  ({'none of them is in it' if f.is_dir() else 'no such folder'})" for f in candidates]
    head = f"{facts.name} ({facts.title}) was not found. Looked for its {len(facts.classes)} class folders"
    return "\n".join([f"{head} ({some}, ...) in", *looked, _way_out(facts)])


def _way_out(facts: Facts) -> str:
    layout = Path("DATA_ROOT", facts.folders[0], facts.classes[0])
    lines = [f"Expected layout: {layout}/*.tif, *.jpg or *.png, one folder per class."]
    if facts.address:
        checksum = f" ({facts.checksum})" if facts.checksum else ""
        lines += [f"Get it: download {facts.address}{checksum} and unpack it below DATA_ROOT. See {facts.homepage}"]
    return "\n".join([*lines, "Say where DATA_ROOT is with --data-root DIR or the environment variable DDBENCH_DATA."])


def _check_classes(facts: Facts, folder: Path) -> None:
    found = set(class_folders(folder))
    missing, extra = sorted(set(facts.classes) - found), sorted(found - set(facts.classes))
    sides = (("missing", missing), ("too many", extra))
    off = "; ".join(f"{len(names)} {word} ({', '.join(names)})" for word, names in sides if names)
    if off:
        raise DatasetError(
            f"{facts.name} has {len(facts.classes)} class folders, {folder} has {len(found)}: {off}.\n"
            "Restore the missing ones, move the others away."
        )


def _check_counts(facts: Facts, folder: Path, found: Sequence[int]) -> None:
    empty = [name for name, k in zip(facts.classes, found, strict=True) if k == 0]
    if empty:
        raise DatasetError(f"{facts.name}: no image in {len(empty)} class folder(s) of {folder}: {', '.join(empty)}")
    wanted = facts.expected or found
    off = [f"{c} {k} (expected {w})" for c, k, w in zip(facts.classes, found, wanted, strict=True) if k != w]
    if off:
        raise DatasetError(
            f"{facts.name} has {sum(wanted)} images, {folder} has {sum(found)}. Wrong counts: {', '.join(off)}.\n"
            "Unpack the archive again."
        )
    single = [name for name, k in zip(facts.classes, found, strict=True) if k < 2]
    if single:
        raise DatasetError(f"{facts.name}: a class needs two images, to train and to test; one in: {', '.join(single)}")
