"""Which images train and which test: a ratio, a release's rule, a published list, a file of the user's. No torch."""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from ddbench.datasets.info import CSV, LISTS, DataPaths, DatasetError, DatasetInfo, Split
from ddbench.datasets.listing import Listing
from ddbench.utils.files import digest, write_bytes

SPLIT_SEED = 0
SIDES = ("train", "test")

Sides = tuple[tuple[tuple[str, ...], ...], tuple[tuple[str, ...], ...]]  # train, test: names per class


def split_files(info: DatasetInfo, listing: Listing, data_paths: DataPaths) -> Split:
    """The split that the facts ask for, with its fingerprint. Raises DatasetError where a side has no image of a class.

    The fingerprint of images without known counts (folder:PATH) covers their bytes: two people's folders may be named
    alike. It also changes with the way of resizing, unless that is the usual one: other pixels are another test.
    """
    train, test = _sides(info, listing, data_paths)
    for word, side in zip(SIDES, (train, test), strict=True):
        if empty := [c for c, names in zip(info.classes, side, strict=True) if not names]:
            raise DatasetError(f"{info.name}: the split leaves no image to {word} in {', '.join(empty)}")
    sides = fingerprint(train, test)
    rule, found = info.split_rule, _with_bytes(sides, listing, data_paths) if info.given_by_path else sides
    if data_paths.resize != DataPaths.resize:
        rule, found = f"{rule}, resized by {data_paths.resize}", digest_of([found, data_paths.resize])
    return Split(rule, found, train, test)


def fingerprint(train: Sequence[Sequence[str]], test: Sequence[Sequence[str]]) -> str:
    """SHA-256 (hex) of the sorted lines "train|test, tab, class/file"."""
    lines = [f"train\t{name}" for names in train for name in names] + [
        f"test\t{name}" for names in test for name in names
    ]
    return digest_of(sorted(lines))


def digest_of(lines: Iterable[str]) -> str:
    """SHA-256 (hex) of lines of text."""
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


def _sides(info: DatasetInfo, listing: Listing, data_paths: DataPaths) -> Sides:
    if info.split == LISTS:
        from ddbench.datasets.download import published  # the network

        return _told(info, listing, list(published(info, data_paths).items()), "the published lists")
    if info.split.endswith(CSV):
        return _told(info, listing, _read(Path(info.split)), info.split)
    if info.numbered and not info.split:
        return _parted(listing, lambda names: [name for name in names if _number(name) <= info.numbered])
    return _parted(listing, lambda names: _chosen(names, info.train_fraction))


def _parted(listing: Listing, choose: Callable[[Sequence[str]], Sequence[str]]) -> Sides:
    train = tuple(tuple(sorted(choose(names))) for names in listing.files)
    return train, tuple(
        tuple(sorted(set(names) - set(chosen))) for names, chosen in zip(listing.files, train, strict=True)
    )


def _chosen(names: Sequence[str], fraction: float) -> list[str]:
    """Ranked by SHA-256 of "seed/class/stem", the first train, at least one is on each side.

    So it is stratified, and files added to one class never move those of another. The stem has no suffix: a TIFF and
    a JPEG copy of a dataset split alike.
    """
    count = min(max(round(len(names) * fraction), 1), len(names) - 1)
    return sorted(names, key=_rank)[:count]


def _rank(name: str) -> tuple[bytes, str]:
    text = f"{SPLIT_SEED}/{os.path.splitext(name)[0]}"
    return hashlib.sha256(text.encode(errors="surrogateescape")).digest(), name


def _number(name: str) -> int:
    """The last number in a file's name: 601 of "lake/lake_601.jpg"."""
    found = re.findall(r"\d+", os.path.splitext(name.rpartition("/")[2])[0])
    if not found:
        raise DatasetError(f"{name} has no number, by which its dataset is split: ask for a ratio (@50) instead")
    return int(found[-1])


def _told(info: DatasetInfo, listing: Listing, sides: Sequence[tuple[str, str]], where: str) -> Sides:
    """As a list says: "train" or "test" by "class/file", or by the file's name alone. What it leaves out is in neither.

    Suffixes do not count: the published lists say .jpg of what is a .tif.
    """
    names = [name for per_class in listing.files for name in per_class]
    meant = _meant(names)
    _check_told(info, [said for said, _ in sides], meant, where)
    found: dict[str, str] = {}
    for said, side in sides:
        if found.setdefault(meant[_stem(said)][0], side) != side:
            raise DatasetError(f"{where} has {said} on both sides")
    train, test = (
        tuple(tuple(name for name in per_class if found.get(name) == side) for per_class in listing.files)
        for side in SIDES
    )
    return train, test


def _meant(names: Sequence[str]) -> dict[str, list[str]]:
    """The images that may be meant by "class/stem" or by a stem."""
    meant: dict[str, list[str]] = {}
    for name in names:
        for word in (_stem(name), _stem(name.rpartition("/")[2])):
            meant.setdefault(word, []).append(name)
    return meant


def _check_told(info: DatasetInfo, names: Iterable[str], meant: Mapping[str, Sequence[str]], where: str) -> None:
    unknown = sorted(said for said in names if _stem(said) not in meant)
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        raise DatasetError(f"{where}: {info.base} has no {', '.join(unknown[:3])}{more}")
    if several := sorted(said for said in names if len(meant[_stem(said)]) > 1):
        both = " or ".join(meant[_stem(several[0])][:2])
        raise DatasetError(f"{where}: {several[0]} may be {both}: write class/file")


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


def _read(path: Path) -> list[tuple[str, str]]:
    """The user's file: a header with `file` and `split`, rows such as "beach/beach07.tif,train"."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as lines:  # as Excel writes it
            rows = list(csv.DictReader(lines))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"the split {path} cannot be read: {error}") from None
    if not rows or not {"file", "split"} <= set(rows[0]):
        raise DatasetError(
            f"{path} needs a line `file,split` and one for each image, such as `beach/beach07.tif,train`"
        )
    if any(not row["file"] for row in rows):
        raise DatasetError(f"{path} has a line without a file")
    if odd := [row for row in rows if row["split"] not in SIDES]:
        raise DatasetError(f"{path}: the split of {odd[0]['file']} is '{odd[0]['split']}'; known: {', '.join(SIDES)}")
    return [(row["file"], row["split"]) for row in rows]


def _with_bytes(sides: str, listing: Listing, data_paths: DataPaths) -> str:
    """SHA-256 (hex) of the sides and of all files' bytes; read once as long as no file's size or date changes."""
    kept = _kept(sides, listing, data_paths)
    if kept.exists():
        return kept.read_text()
    found = hashlib.sha256(sides.encode())
    for name in sorted(listing.stamps):
        found.update(Path(listing.paths[name]).read_bytes())
    return found.hexdigest()


def keep(split: Split, listing: Listing, data_paths: DataPaths) -> None:
    """Write the fingerprint of a folder's bytes below data_paths.shared, so that later commands need not read them."""
    plain = fingerprint(split.train, split.test)
    if data_paths.resize == DataPaths.resize and not (kept := _kept(plain, listing, data_paths)).exists():
        write_bytes(kept, split.fingerprint.encode())


def _kept(sides: str, listing: Listing, data_paths: DataPaths) -> Path:
    return data_paths.shared / f"bytes-{digest([sides, listing.paths, listing.stamps])[:16]}.sha256"
