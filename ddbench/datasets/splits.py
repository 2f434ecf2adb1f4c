"""Split images into train and test: by ratio, by number, by a published list or by the user's file. No torch."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ddbench.datasets.folders import SIDES
from ddbench.datasets.info import LISTS, DataPaths, DatasetError, DatasetInfo, Split, flatten
from ddbench.datasets.name import CSV
from ddbench.utils.files import digest_plain, read_bytes, write_bytes
from ddbench.utils.limits import LARGEST_LIST

if TYPE_CHECKING:
    from ddbench.datasets.listing import FileListing

SPLIT_SEED = 0

Side = tuple[tuple[str, ...], ...]  # names of each class


def split_files(info: DatasetInfo, listing: FileListing, data_paths: DataPaths, remember: bool = False) -> Split:
    """Split the files as `info` says. Raises DatasetError if a side has no image of a class.

    The fingerprint of an unregistered dataset (folder:PATH) also covers the bytes of its images: two people's folders
    may have the same name. It also covers the filter that resizes, unless that is the default: other pixels are another
    test.
    remember: write the fingerprint of the bytes below data_paths.shared, so that later commands need not read the
    files, as long as no file's size or date changes.
    """
    train, test = _sides(info, listing, data_paths)
    for side, names_by_class in (("train", train), ("test", test)):
        if empty := [c for c, names in zip(info.classes, names_by_class, strict=True) if not names]:
            raise DatasetError(
                f"{info.name}: the split leaves no image to {side} on in {', '.join(empty)}: every class needs one on "
                "each side"
            )
    rule, sha = info.split_rule, fingerprint(train, test)
    if not info.registered:
        key = digest_plain([sha, listing.paths, listing.stamps])[:16]
        cache = data_paths.shared / f"bytes-{key}.sha256"
        if cache.exists():
            sha = cache.read_text()
        else:
            with_bytes = hashlib.sha256(sha.encode())
            for name in sorted(listing.stamps):
                with_bytes.update(Path(listing.paths[name]).read_bytes())
            sha = with_bytes.hexdigest()
            if remember:
                write_bytes(cache, sha.encode())
    return split_as_resized(Split(rule, sha, train, test), data_paths)


def split_as_resized(split: Split, data_paths: DataPaths) -> Split:
    """Return the split with another rule and fingerprint, unless the filter that resizes is the default."""
    if data_paths.resize == DataPaths.resize:
        return split
    sha = digest_lines([split.fingerprint, data_paths.resize])
    return replace(split, rule=f"{split.rule}, resized by {data_paths.resize}", fingerprint=sha)


def fingerprint(train: Sequence[Sequence[str]], test: Sequence[Sequence[str]]) -> str:
    """Compute the SHA-256 (hex) of the sorted lines "train|test, tab, class/file"."""
    lines = [f"train\t{name}" for name in flatten(train)] + [f"test\t{name}" for name in flatten(test)]
    return digest_lines(sorted(lines))


def digest_lines(lines: Iterable[str]) -> str:
    """Compute the SHA-256 (hex) of lines of text."""
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


def _sides(info: DatasetInfo, listing: FileListing, data_paths: DataPaths) -> tuple[Side, Side]:
    """Return the training and the test side."""
    if info.split == LISTS:
        from ddbench.datasets.download import published_lists  # the network

        return _from_list(info, listing, list(published_lists(info, data_paths).items()), "the published lists")
    if info.split.endswith(CSV):
        return _from_list(info, listing, _read_csv(Path(info.split)), info.split)
    if info.sides and not info.split:
        return _choose_train(listing, lambda names: [name for name in names if name.split("/")[1] == SIDES[0]])
    if info.numbered and not info.split:
        return _choose_train(listing, lambda names: [name for name in names if _number(name) <= info.numbered])
    return _choose_train(listing, lambda names: _ranked_fraction(names, info.train_fraction))


def _choose_train(listing: FileListing, choose: Callable[[Sequence[str]], Sequence[str]]) -> tuple[Side, Side]:
    """Train on the names that `choose` returns for each class, test on the rest."""
    train = tuple(tuple(sorted(choose(names))) for names in listing.files)
    test = tuple(tuple(sorted(set(names) - set(part))) for names, part in zip(listing.files, train, strict=True))
    return train, test


def _ranked_fraction(names: Sequence[str], fraction: float) -> list[str]:
    """Return the first `fraction` of the names by SHA-256 of "seed/class/stem"; at least one is on each side.

    The choice is stratified, and files added to one class never move those of another. The stem has no suffix: a TIFF
    and a JPEG copy of a dataset are split alike.
    """

    def rank(name: str) -> tuple[bytes, str]:
        text = f"{SPLIT_SEED}/{_stem(name)}"
        return hashlib.sha256(text.encode(errors="surrogateescape")).digest(), name

    count = min(max(round(len(names) * fraction), 1), len(names) - 1)
    return sorted(names, key=rank)[:count]


def _number(name: str) -> int:
    """Return the last number in a file's name: 601 of "lake/lake_601.jpg"."""
    digits = re.findall(r"\d+", _stem(name.rpartition("/")[2]))
    if not digits:
        raise DatasetError(f"{name} has no number, and the split needs one: use a ratio (@50) instead")
    return int(digits[-1])


def _from_list(
    info: DatasetInfo, listing: FileListing, rows: Sequence[tuple[str, str]], origin: str
) -> tuple[Side, Side]:
    """Split as the rows (name, side) of a list say; images that are not in it are on neither side.

    A name is "class/file" or the file's name alone. One that names no file exactly may have another suffix: published
    lists write .jpg for a .tif. Backslashes count as slashes, composed and decomposed letters are equal. Raises
    DatasetError for an unknown name, an ambiguous one, and one on both sides.
    """
    by_name: dict[str, list[str]] = {}  # images by "class/file" and by "file"
    by_stem: dict[str, list[str]] = {}  # images by "class/stem" and by "stem"
    for name in flatten(listing.files):
        whole = unicodedata.normalize("NFC", name)
        for text in {whole, whole.rpartition("/")[2]}:
            by_name.setdefault(text, []).append(name)
            by_stem.setdefault(_stem(text), []).append(name)

    def matches(name: str) -> list[str]:
        text = unicodedata.normalize("NFC", name.replace("\\", "/")).removeprefix("./")
        return by_name.get(text) or by_stem.get(_stem(text), [])

    matching = {name: matches(name) for name, _ in rows}
    if unknown := sorted(name for name, _ in rows if not matching[name]):
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        example = next(iter(flatten(listing.files)))
        raise DatasetError(
            f"{origin}: {info.base} has no {', '.join(unknown[:3])}{more}; a name is CLASS/FILE, such as {example}"
        )
    if ambiguous := sorted(name for name, _ in rows if len(matching[name]) > 1):
        both = " or ".join(matching[ambiguous[0]][:2])
        raise DatasetError(f"{origin}: {ambiguous[0]} matches {both}: write CLASS/FILE with its suffix")
    side_of: dict[str, str] = {}
    for name, side in rows:
        if side_of.setdefault(matching[name][0], side) != side:
            raise DatasetError(f"{origin} has {name} on both sides")
    train, test = (
        tuple(tuple(name for name in names if side_of.get(name) == side) for names in listing.files) for side in SIDES
    )
    return train, test


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


def _read_csv(path: Path) -> list[tuple[str, str]]:
    """Read the user's file: a header with `file` and `split`, rows such as "beach/beach07.tif,train"."""
    try:
        text = read_bytes(path, LARGEST_LIST).decode("utf-8-sig")  # as Excel writes it
    except UnicodeDecodeError:
        raise DatasetError(f"the split {path} is not UTF-8: save it as CSV in UTF-8") from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"the split {path} cannot be read: {error}") from None
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except (ValueError, csv.Error) as error:
        raise DatasetError(f"the split {path} cannot be read: {error}") from None
    if not rows or not {"file", "split"} <= set(rows[0]):
        raise DatasetError(
            f"{path} needs a first line `file,split`, then one line per image, such as `beach/beach07.tif,train`"
        )
    if any(not row["file"] for row in rows):
        raise DatasetError(f"{path} has a line without a file")
    if odd := [row for row in rows if row["split"] not in SIDES]:
        raise DatasetError(f"{path}: the split of {odd[0]['file']} is '{odd[0]['split']}'; known: {', '.join(SIDES)}")
    return [(row["file"], row["split"]) for row in rows]
