"""Packs: a split dataset at one size as one file of pixels, made once, mapped into memory by every run. No torch.

`<shared>/packed-<slug><size>-<16 hex>/images.u8` holds uint8 (n, 3, size, size), training images first, each side
class by class; `index.json` says what every row is, and the SHA-256 of the pixels.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from ddbench.datasets.info import Split
from ddbench.utils.files import Stopwatch, digest, make_once, write_json

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


def flat(per_class: Sequence[Sequence[str]]) -> list[str]:
    """All names, class by class."""
    return list(chain.from_iterable(per_class))


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
