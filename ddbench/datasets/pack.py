"""Packs: a split dataset at one size as one file of pixels, made once, mapped into memory by every run. No torch.

`<shared>/packed-<slug><size>-<16 hex>/images.u8` holds uint8 (n, 3, size, size), training images first, each side
class by class; `index.json` names every row and has the SHA-256 of the pixels. A pack is mapped, not read.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ddbench.datasets.info import DatasetError, Split, flatten
from ddbench.utils.files import Stopwatch, digest_plain, make_once, read_json, write_json
from ddbench.utils.limits import LARGEST_INDEX

if TYPE_CHECKING:
    from ddbench.types import Dataset

log = logging.getLogger("ddbench")

PACK_VERSION = 3  # goes up when the pixels of a pack may change: decoding, resizing, layout


@dataclass(frozen=True)
class PackContent:
    """The rows of a pack.

    slug: the dataset's name as a part of a path.
    size: px, side of an image.
    classes: in label order.
    split: file names of both sides.
    origin: texts and whole numbers, in lists and dicts, that change whenever the original pixels may have changed.
    """

    slug: str
    size: int
    classes: tuple[str, ...]
    split: Split
    origin: Any

    @property
    def names(self) -> list[str]:
        """File name of each row: training images first, each side class by class."""
        return flatten(self.split.train) + flatten(self.split.test)

    @property
    def labels(self) -> list[int]:
        """Label of each row."""
        sides = (self.split.train, self.split.test)
        return [label for side in sides for label, names in enumerate(side) for _ in names]

    @property
    def key(self) -> str:
        """SHA-256 (hex) of everything that decides the pixels and their order."""
        return digest_plain([PACK_VERSION, self.size, self.classes, self.split.fingerprint, self.origin])


def make_pack(content: PackContent, shared: Path, fill: Callable[[Path], None]) -> Path:
    """Return the folder of a pack, made now if there is none; `fill(raw)` writes every row of a file of zeros.

    An error leaves no pixels behind, and an unfinished pack of a killed process is never used.
    """
    folder = shared / f"packed-{content.slug}{content.size}-{content.key[:16]}"
    watch = Stopwatch()

    def make(partial: Path) -> None:
        raw = partial / "images.u8"
        with open(raw, "wb") as out:
            out.truncate(len(content.names) * 3 * content.size**2)
        try:
            fill(raw)
        except BaseException as error:
            raw.unlink()
            if isinstance(error, OSError):
                error.filename = error.filename or str(raw)  # of a descriptor: a disk that is full
            raise
        index = {
            "version": PACK_VERSION,
            "name": content.slug,
            "size": content.size,
            "classes": content.classes,
            "split": content.split.rule,
            "fingerprint": content.split.fingerprint,
            "sha256": sha256_of(raw),
            "origin": digest_plain(content.origin),
            "train": len(flatten(content.split.train)),
            "names": content.names,
            "labels": content.labels,
        }
        write_json(partial / "index.json", index)

    if make_once(folder, make):
        text = "%s: packed %d images at %d px in %.1f s: %s"
        log.info(text, content.slug, len(content.names), content.size, watch.seconds, folder)
    return folder


def write_row(descriptor: int, row: int, pixels: np.ndarray) -> None:
    """Write one image at its row of an open file of equal images. Processes and threads may do so at once."""
    data = memoryview(pixels.tobytes())
    start = row * len(data)
    while data:  # a disk that fills up may take a part first
        written = os.pwrite(descriptor, data, start)
        data, start = data[written:], start + written


def sha256_of(path: Path) -> str:
    """Compute the SHA-256 (hex) of a file."""
    with open(path, "rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def open_pack(folder: Path, name: str, readable: tuple[str, ...]) -> Dataset:
    """Return the dataset in a pack; the images of both sides are views of the mapped file, paged in when touched.

    The map is private: writing to a tensor changes this process's copy, never the file. Raises DatasetError when the
    index cannot be read, or the file does not have the size that its index gives.
    """
    import torch

    from ddbench.types import Dataset, ImageSet

    try:
        index = read_json(folder / "index.json", LARGEST_INDEX)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{folder} is not a pack ({error}): delete it, then repeat the command") from None
    count, size, raw = len(index["names"]), index["size"], folder / "images.u8"
    expected, actual = count * 3 * size * size, raw.stat().st_size if raw.exists() else 0
    if actual != expected:
        raise DatasetError(
            f"{raw} was changed: it has {actual} bytes, not {expected}. Delete {folder}, then repeat the command."
        )
    images = torch.from_file(str(raw), shared=False, size=expected, dtype=torch.uint8).view(count, 3, size, size)
    labels, names, cut = torch.tensor(index["labels"]), tuple(index["names"]), index["train"]
    classes = tuple(index["classes"])
    train = ImageSet(images[:cut], labels[:cut], classes, readable, names[:cut])
    test = ImageSet(images[cut:], labels[cut:], classes, readable, names[cut:])
    return Dataset(name, train, test, index["split"], index["fingerprint"], index["sha256"])
