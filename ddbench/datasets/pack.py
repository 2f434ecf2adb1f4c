"""Packs: a split dataset at one size as one file of pixels, made once, mapped into memory by every run. No torch.

`<shared>/packed-<slug><size>-<16 hex>/images.u8` holds uint8 (n, 3, size, size), training images first, each side
class by class; `index.json` says what every row is, and the SHA-256 of the pixels. A pack is mapped, not read.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddbench.datasets.info import DatasetError, Split, flat
from ddbench.utils.files import Stopwatch, digest, make_once, read_json, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from ddbench.types import Dataset

log = logging.getLogger("ddbench")

PACK_VERSION = 2  # goes up when the pixels of a pack may change: decoding, resizing, layout


@dataclass(frozen=True)
class Plan:
    """What a pack holds. origin: JSON value that changes whenever the original pixels may have."""

    slug: str
    size: int
    classes: tuple[str, ...]
    split: Split
    origin: Any

    @property
    def names(self) -> list[str]:
        """One per row: training images first, each side class by class."""
        return flat(self.split.train) + flat(self.split.test)

    @property
    def labels(self) -> list[int]:
        """One per row."""
        return [
            label for side in (self.split.train, self.split.test) for label, names in enumerate(side) for _ in names
        ]

    @property
    def key(self) -> str:
        """SHA-256 (hex) of all that decides the pixels and their order."""
        return digest([PACK_VERSION, self.size, self.classes, self.split.fingerprint, self.origin])


def packed(plan: Plan, shared: Path, fill: Callable[[Path], None]) -> Path:
    """The folder of the pack, made now if there is none; `fill(raw)` writes every row of an existing file of zeros.

    An error leaves no pixels behind; what a killed process left is never taken for a pack.
    """
    folder = shared / f"packed-{plan.slug}{plan.size}-{plan.key[:16]}"
    watch = Stopwatch()
    if make_once(folder, lambda partial: _write(partial, plan, fill)):
        log.info(
            "%s: packed %d images at %d px in %.1f s: %s", plan.slug, len(plan.names), plan.size, watch.seconds, folder
        )
    return folder


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with open(path, "rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def _write(partial: Path, plan: Plan, fill: Callable[[Path], None]) -> None:
    raw = partial / "images.u8"
    with open(raw, "wb") as out:
        out.truncate(len(plan.names) * 3 * plan.size**2)
    try:
        fill(raw)
    except BaseException as error:
        raw.unlink()
        if isinstance(error, OSError) and error.filename is None:  # of a descriptor: a disk that is full
            raise OSError(error.errno, error.strerror, str(raw)) from None
        raise
    write_json(partial / "index.json", _index(plan, sha256_of(raw)))


def _index(plan: Plan, sha256: str) -> dict[str, Any]:
    index = {"version": PACK_VERSION, "name": plan.slug, "size": plan.size, "classes": plan.classes}
    index |= {
        "split": plan.split.rule,
        "fingerprint": plan.split.fingerprint,
        "sha256": sha256,
        "origin": digest(plan.origin),
    }
    return index | {"train": len(flat(plan.split.train)), "names": plan.names, "labels": plan.labels}


def open_pack(folder: Path, name: str, readable: tuple[str, ...]) -> Dataset:
    """The dataset in a pack; both sides' images are views of the mapped file, paged in when touched.

    The map is private: writing to a tensor changes this process's copy, never the file. Raises DatasetError when the
    file does not have the size its index says.
    """
    import torch

    from ddbench.types import Dataset, ImageSet

    try:
        index = read_json(folder / "index.json")
    except (OSError, ValueError) as error:
        raise DatasetError(f"{folder} is no pack ({error}): delete it and run again") from None
    images = _map(folder / "images.u8", len(index["names"]), index["size"])
    labels, names, cut = torch.tensor(index["labels"]), tuple(index["names"]), index["train"]
    classes = tuple(index["classes"])
    train = ImageSet(images[:cut], labels[:cut], classes, readable, names[:cut])
    test = ImageSet(images[cut:], labels[cut:], classes, readable, names[cut:])
    return Dataset(name, train, test, index["split"], index["fingerprint"], index["sha256"])


def _map(raw: Path, count: int, size: int) -> Tensor:
    import torch

    length = count * 3 * size * size
    found = raw.stat().st_size if raw.exists() else 0
    if found != length:
        raise DatasetError(
            f"{raw} has {found} bytes, not {length}: somebody changed it. Delete {raw.parent} and run again."
        )
    return torch.from_file(str(raw), shared=False, size=length, dtype=torch.uint8).view(count, 3, size, size)
