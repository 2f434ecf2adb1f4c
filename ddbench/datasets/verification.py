"""Decode every image of a dataset; find equal files and nearly equal pictures. No torch."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image

from ddbench.datasets.decode import map_images
from ddbench.datasets.info import DatasetInfo, Split, flatten
from ddbench.datasets.listing import FileListing

BITS = 12  # bits of 64 in which the hashes of two pictures may differ before their thumbnails are compared
SIDE = 32  # px of a thumbnail
NEAR = 0.95  # the least correlation of two near pictures
ROWS, COLUMNS = 64, 1024  # hashes that are compared at once: their differences stay in a core's cache


@dataclass(frozen=True)
class Trace:
    """The properties of an image that duplicates are found by.

    size: (width, height) in pixels.
    sha256: digest of the file, or of the pixels of an image that has none.
    perceptual: 64-bit pHash.
    thumbnail: uint8 (SIDE, SIDE, 3).
    """

    size: tuple[int, int]
    sha256: bytes
    perceptual: int
    thumbnail: np.ndarray


@dataclass(frozen=True)
class Pair:
    """Two equal or near images.

    one, other: their names.
    similarity: correlation of their thumbnails, 1 for equal files.
    leak: one of them trains and the other tests.
    """

    one: str
    other: str
    similarity: float
    leak: bool

    @property
    def crossing(self) -> bool:
        """True if the two images are of two classes."""
        return self.one.split("/")[0] != self.other.split("/")[0]


@dataclass(frozen=True)
class Duplicates:
    """Images that a dataset has twice.

    exact: pairs of equal files.
    near: other pairs of near pictures.
    """

    exact: tuple[Pair, ...]
    near: tuple[Pair, ...]


def trace(image: Image.Image, content: bytes) -> Trace:
    """Compute the trace of an image whose file has this content.

    The hash is pHash: for each of the lowest 8 x 8 cosines of a thumbnail, whether it is above their median.
    """
    bits = imagehash.phash(image).hash.ravel()
    thumbnail = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))
    return Trace(image.size, hashlib.sha256(content).digest(), int(np.packbits(bits).view(">u8")[0]), thumbnail)


def duplicates(traces: Mapping[str, Trace], split: Split) -> Duplicates:
    """Find all pairs of equal files, and all near pairs: hashes differ in at most BITS, thumbnails correlate by NEAR.

    Thumbnails are compared because hashes of flat images (water, desert) are noise. Copies in another format and
    copies shifted by a few hundredths of the image are found; rotated and mirrored ones are not.
    """
    train, test = ({name for names in side for name in names} for side in (split.train, split.test))

    def pair(one: str, other: str, similarity: float) -> Pair:
        return Pair(one, other, similarity, (one in train and other in test) or (one in test and other in train))

    by_digest = defaultdict(list)
    for name, image in traces.items():
        by_digest[image.sha256].append(name)
    exact = tuple(pair(names[0], other, 1.0) for names in by_digest.values() for other in names[1:])
    near, names = [], list(traces)
    for i, j in close_pairs([image.perceptual for image in traces.values()]):
        one, other = traces[names[i]], traces[names[j]]
        if one.sha256 != other.sha256 and (value := similarity(one.thumbnail, other.thumbnail)) >= NEAR:
            near.append(pair(names[i], names[j], value))
    return Duplicates(exact, tuple(near))


def close_pairs(hashes: Sequence[int], bits: int = BITS) -> Iterator[tuple[int, int]]:
    """Find indices (i, j), i < j, of 64-bit hashes that differ in at most `bits`; sorted."""
    values = np.array(hashes, dtype=np.uint64)
    for start in range(0, len(values), ROWS):
        rows, of_block = values[start : start + ROWS, None], []
        for first in range(start, len(values), COLUMNS):
            near = np.bitwise_count(rows ^ values[None, first : first + COLUMNS]) <= bits
            places = np.flatnonzero(near)  # of two dimensions, nonzero takes as long as all else
            if len(places):
                row, column = np.divmod(places, near.shape[1])
                of_block.append((start + row) * len(values) + first + column)
        for pair in np.sort(np.concatenate(of_block)).tolist():
            i, j = divmod(pair, len(values))
            if i < j:
                yield i, j


def similarity(one: np.ndarray, other: np.ndarray) -> float:
    """Compute the correlation of two thumbnails, -1 to 1, over the colours' deviations from each picture's mean."""
    first, second = (pixels - pixels.mean((0, 1)) for pixels in (one, other))
    scale = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / scale if scale else 0.0


@dataclass(frozen=True)
class Report:
    """The result of decoding every image.

    name: of the dataset.
    folder: where its files lie.
    counts: images per class, by folder name.
    sizes: images by (width, height) in pixels.
    unreadable: "file: reason" of damaged files.
    unsupported, unread: see `decode.Remarks`.
    ignored: paths below the folder of files, and of links that lead nowhere, that are no images to the listing.
    left_out: names of images on neither side of the split.
    duplicates: None if they were not searched for.
    """

    name: str
    folder: str
    counts: dict[str, int]
    sizes: dict[tuple[int, int], int]
    unreadable: tuple[str, ...]
    unsupported: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unread: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    duplicates: Duplicates | None = None

    @property
    def ok(self) -> bool:
        return not self.unreadable and not self.unsupported


def verify_images(info: DatasetInfo, listing: FileListing, split: Split, quiet: bool = False) -> Report:
    """Decode every image of a listing; report unreadable files and duplicates. quiet: no progress bar."""
    names = flatten(listing.files)
    traces, remarks = map_images(
        lambda row, image: trace(image, Path(listing.paths[names[row]]).read_bytes()),
        names, listing.paths, "verifying", quiet,
    )  # fmt: skip
    by_name = {name: image for name, image in zip(names, traces, strict=True) if image is not None}
    return Report(
        name=info.name,
        folder=str(listing.folder),
        counts={name: len(files) for name, files in zip(info.classes, listing.files, strict=True)},
        sizes=dict(Counter(image.size for image in by_name.values()).most_common()),
        unreadable=remarks.damaged,
        unsupported=remarks.unsupported,
        unread=remarks.unread,
        ignored=listing.ignored,
        left_out=split.left_out(listing.files),
        duplicates=duplicates(by_name, split),
    )
