"""Decode image files on all cores: to square uint8 RGB for a pack, or to see whether they can be read. No torch."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ddbench.datasets.facts import DatasetError

EIGHT_BIT = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"})
BATCH = 32  # files per task: large enough that handing out tasks costs nothing
NAMED = 5  # unreadable files spelled out in an error


@dataclass(frozen=True)
class Report:
    """What decoding every image found.

    counts: images per class, by folder name. sizes: how many images have a size (width, height). unreadable: "file:
    reason".
    """

    name: str
    folder: str
    counts: dict[str, int]
    sizes: dict[tuple[int, int], int]
    unreadable: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.unreadable


def read_rgb(path: Path) -> Image.Image:
    """The first picture of a file in 8-bit RGB: grey is repeated, alpha dropped, palettes and CMYK looked up by Pillow.

    Raises what Pillow raises for a damaged file (OSError, SyntaxError, ...), ValueError for pixels that are not
    8-bit: they have no agreed range.
    """
    with Image.open(path) as image:
        if image.mode not in EIGHT_BIT:
            raise ValueError(f"pixels of mode {image.mode} are not 8-bit")
        # Pillow warns when a palette with transparency goes straight to RGB
        return image.convert("RGBA").convert("RGB") if image.mode in {"P", "PA"} else image.convert("RGB")


def square(image: Image.Image, size: int) -> np.ndarray:
    """uint8 (3, size, size): shorter side to `size`, then the centre; untouched when it has that size.

    Lanczos, widened by the reduction so that nothing aliases: DPD's choice. Resizing and cropping are one step, exact
    to a fraction of a pixel.
    """
    width, height = image.size
    if (width, height) != (size, size):
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        image = image.resize((size, size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))
    return np.asarray(image).transpose(2, 0, 1)


def write_squares(raw: Path, folder: Path, names: Sequence[str], size: int, quiet: bool) -> None:
    """Fill the file `raw` with one square per name, in order; raises DatasetError that counts every unreadable file.

    Written in place, file by file: memory does not grow with the dataset.
    """
    with open(raw, "r+b") as out:

        def pack(row: int) -> None:
            write_row(out.fileno(), row, square(_read(folder, names[row]), size))

        bad = [outcome for outcome in _on_all_cores(pack, len(names), "packing", quiet) if isinstance(outcome, str)]
    if bad:
        raise DatasetError(unreadable_text(bad, len(names), folder))


def survey(folder: Path, names: Sequence[str], quiet: bool) -> tuple[dict[tuple[int, int], int], tuple[str, ...]]:
    """Decode every file: how many have each size (width, height), and "file: reason" of those that cannot be read."""
    outcomes = list(_on_all_cores(lambda row: _read(folder, names[row]).size, len(names), "verifying", quiet))
    sizes = Counter(outcome for outcome in outcomes if not isinstance(outcome, str))
    return dict(sizes.most_common()), tuple(outcome for outcome in outcomes if isinstance(outcome, str))


def unreadable_text(bad: Sequence[str], total: int, folder: Path) -> str:
    """The error for unreadable files: how many, the first few, the way out."""
    more = [f"  and {len(bad) - NAMED} more"] if len(bad) > NAMED else []
    head = f"{len(bad)} of {total} images in {folder} cannot be read:"
    return "\n".join([head, *(f"  {line}" for line in bad[:NAMED]), *more, "Replace them, then run again."])


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write_row(descriptor: int, row: int, pixels: np.ndarray) -> None:
    """Write one image at its place in an open file of equal images. Processes and threads may do so at once."""
    data = memoryview(pixels.tobytes())
    start = row * len(data)
    while data:  # a disk that fills up may take a part before it says so
        written = os.pwrite(descriptor, data, start)
        data, start = data[written:], start + written


class _Unreadable(Exception):
    """A file that is no image, or is damaged."""


def _read(folder: Path, name: str) -> Image.Image:
    try:
        return read_rgb(folder / name)
    except Exception as error:  # Pillow's plugins raise many kinds
        raise _Unreadable(f"{name}: {str(error).replace(str(folder / name), 'the file')}") from None


def _on_all_cores(work: Callable[[int], object], count: int, desc: str, quiet: bool) -> Iterator[object]:
    """`work(row)` for each of `count` rows, in order, with a bar; a str "file: reason" where the file cannot be read.

    Threads: Pillow decodes and resizes without the interpreter's lock (measured as fast as processes).
    """

    def batch(start: int) -> list[object]:
        return [_attempt(work, row) for row in range(start, min(start + BATCH, count))]

    with (
        ThreadPoolExecutor(cores()) as pool,
        tqdm(total=count, desc=desc, disable=quiet, leave=False, dynamic_ncols=True) as bar,
    ):
        for outcomes in pool.map(batch, range(0, count, BATCH)):
            bar.update(len(outcomes))
            yield from outcomes


def _attempt(work: Callable[[int], object], row: int) -> object:
    try:
        return work(row)
    except _Unreadable as error:
        return str(error)
