"""Decode every image of a dataset; find those that are in it twice, as bytes or nearly the same picture. No torch."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image

from ddbench.datasets.decode import each_image
from ddbench.datasets.info import DatasetInfo, Split, flat
from ddbench.datasets.listing import Listing

BITS = 12  # of 64 that may differ between the hashes of pictures that are then compared
SIDE = 32  # px of their thumbnails
ALIKE = 0.95  # the least correlation of two that are called near
ROWS = 256  # hashes compared with all others at once


@dataclass(frozen=True)
class Trace:
    """What is kept of an image. size: (width, height). sha256: of the file. perceptual: its hash, 64 bits.

    thumbnail: uint8 (SIDE, SIDE, 3).
    """

    size: tuple[int, int]
    sha256: bytes
    perceptual: int
    thumbnail: np.ndarray


@dataclass(frozen=True)
class Pair:
    """Two images that are alike. similarity: correlation of their thumbnails, 1 for equal files.

    leak: one of them trains and the other tests. crossing: they are of two classes.
    """

    one: str
    other: str
    similarity: float
    leak: bool

    @property
    def crossing(self) -> bool:
        return self.one.split("/")[0] != self.other.split("/")[0]


@dataclass(frozen=True)
class Duplicates:
    """exact: pairs of equal files. near: other pairs that look alike."""

    exact: tuple[Pair, ...]
    near: tuple[Pair, ...]


def trace(image: Image.Image, path: str) -> Trace:
    """The hash is pHash: the lowest 8 x 8 cosines of a thumbnail, above their median or not."""
    bits = imagehash.phash(image).hash.ravel()
    thumbnail = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))
    sha256 = hashlib.sha256(Path(path).read_bytes()).digest()
    return Trace(image.size, sha256, int(np.packbits(bits).view(">u8")[0]), thumbnail)


def duplicates(traces: Mapping[str, Trace], split: Split) -> Duplicates:
    """All pairs of equal files; of pictures whose hashes differ in at most BITS and that are ALIKE to a second look.

    The second look is at the pixels: hashes of flat images (water, desert) are noise. Found are copies saved otherwise,
    and shifted by a few hundredths of the image; not turned or mirrored ones.
    """
    side = {name: word for word, names in (("train", split.train), ("test", split.test)) for c in names for name in c}

    def pair(one: str, other: str, similarity: float) -> Pair:
        return Pair(one, other, similarity, {side.get(one), side.get(other)} == {"train", "test"})

    names = list(traces)
    exact = tuple(pair(one, other, 1.0) for one, other in _equal(traces))
    close = ((names[i], names[j]) for i, j in close_pairs([found.perceptual for found in traces.values()]))
    other_bytes = ((a, b) for a, b in close if traces[a].sha256 != traces[b].sha256)
    compared = ((a, b, similarity(traces[a].thumbnail, traces[b].thumbnail)) for a, b in other_bytes)
    return Duplicates(exact, tuple(pair(*found) for found in compared if found[2] >= ALIKE))


def close_pairs(hashes: Sequence[int], bits: int = BITS) -> Iterator[tuple[int, int]]:
    """Indices (i, j), i < j, of 64-bit hashes that differ in at most `bits`."""
    words = np.array(hashes, dtype=np.uint64)
    for start in range(0, len(words), ROWS):
        apart = np.bitwise_count(words[start : start + ROWS, None] ^ words[None, start:])
        for row, column in zip(*np.nonzero(apart <= bits), strict=True):
            if row < column:
                yield start + int(row), start + int(column)


def similarity(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation of two thumbnails, -1 to 1: of the colours' deviations from each picture's own mean."""
    first, second = (found - found.mean((0, 1)) for found in (one, other))
    scale = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / scale if scale else 0.0


def _equal(traces: Mapping[str, Trace]) -> Iterator[tuple[str, str]]:
    """Pairs of equal files, in the order of the names: every one with the first of them."""
    groups = defaultdict(list)
    for name, found in traces.items():
        groups[found.sha256].append(name)
    for names in groups.values():
        yield from ((names[0], other) for other in names[1:])


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


def verify_images(info: DatasetInfo, listing: Listing, split: Split, quiet: bool = False) -> Report:
    """Decode every image; the report has the damaged files and those that are alike.

    listing, split: of the dataset's files.
    """
    names = flat(listing.files)
    traces, bad, several = each_image(
        lambda row, image: trace(image, listing.paths[names[row]]), names, listing.paths, "verifying", quiet
    )
    read = {name: found for name, found in zip(names, traces, strict=True) if found is not None}
    sizes = Counter(found.size for found in read.values())
    counts = {name: len(files) for name, files in zip(info.classes, listing.files, strict=True)}
    return Report(
        info.name, str(listing.folder), counts, dict(sizes.most_common()), tuple(bad), tuple(several),
        duplicates(read, split),
    )  # fmt: skip
