"""Decode image files on all cores: to square uint8 RGB for a pack, or to see whether they can be read. No torch."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

log = logging.getLogger("ddbench")
T = TypeVar("T")

EIGHT_BIT = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"})
SIXTEEN_BIT = ("I;16", "I")  # the second: how Pillow opens some 16-bit PNG
LARGEST = 100_000_000  # pixels of a file that is believed: ten thousand to a side
FILTERS = {"lanczos": Image.Resampling.LANCZOS, "bilinear": Image.Resampling.BILINEAR}
BATCH = 32  # files per task: large enough that handing out tasks costs nothing
NAMED = 5  # files spelled out in a message


def read_rgb(path: str | Path) -> Image.Image:
    """The first picture of a file in 8-bit RGB, upright.

    Grey is repeated, alpha dropped, palettes and CMYK are looked up by Pillow; of 16 bits the upper 8 are kept; an EXIF
    orientation is applied. Raises what Pillow raises for a damaged file (OSError, SyntaxError, ...), ValueError for
    pixels of any other kind (they have no agreed range) and for more than LARGEST of them.
    """
    return _opened(path)[0]


def _opened(path: str | Path) -> tuple[Image.Image, int]:
    """The picture, and how many the file has."""
    with Image.open(path) as image:
        width, height = image.size
        if width * height > LARGEST:
            raise ValueError(
                f"{width}x{height} pixels are more than {LARGEST}: no such image is in a dataset of scenes"
            )
        count = getattr(image, "n_frames", 1)
        return _rgb(ImageOps.exif_transpose(image)), count


class Unreadable(Exception):
    """A file that is no image, is damaged, or has pixels of an unknown range: "name: reason"."""


def opened(name: str, path: str) -> tuple[Image.Image, int]:
    """The picture of a file, and how many it has; raises Unreadable."""
    try:
        return _opened(path)
    except Exception as error:  # Pillow's plugins raise many kinds
        raise Unreadable(f"{name}: {str(error).replace(path, 'the file')}") from None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(SIXTEEN_BIT):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError(f"pixels of mode {image.mode} from {values.min()} to {values.max()} are not 16-bit")
        if 0 < values.max() < 256:
            raise ValueError(f"16-bit pixels of which none is above {values.max()} would be black: save it in 8 bits")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode not in EIGHT_BIT:
        raise ValueError(f"pixels of mode {image.mode} are neither 8-bit nor 16-bit")
    # Pillow warns when a palette with transparency goes straight to RGB
    return image.convert("RGBA").convert("RGB") if image.mode in {"P", "PA"} else image.convert("RGB")


def size_of(path: str) -> tuple[int, int] | None:
    """(width, height) as the file's head says; None where it cannot be read."""
    try:
        with Image.open(path) as image:
            return image.size
    except Exception:  # Pillow's plugins raise many kinds
        return None


def square(image: Image.Image, size: int, resize: str = "lanczos") -> np.ndarray:
    """uint8 (3, size, size): shorter side to `size`, then the centre; untouched when it has that size.

    Lanczos (DPD's choice) or bilinear, widened by the reduction so that nothing aliases. Resizing and cropping are one
    step, exact to a fraction of a pixel.
    """
    width, height = image.size
    if (width, height) != (size, size):
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        image = image.resize((size, size), FILTERS[resize], box=(left, top, left + side, top + side))
    return np.asarray(image).transpose(2, 0, 1)


def writer(descriptor: int, size: int, resize: str) -> Callable[[int, Image.Image], None]:
    """Writes an image's square at its row of an open file."""
    return lambda row, image: write_row(descriptor, row, square(image, size, resize))


def each_image(
    work: Callable[[int, Image.Image], T], names: Sequence[str], paths: Mapping[str, str], desc: str, quiet: bool
) -> tuple[list[T | None], list[str], list[str]]:
    """`work(row, image)` for the image of each name, on all cores.

    What it gave (None for what cannot be read), "name: reason" of those, names of files with several pictures.
    """
    found: list[T | None] = [None] * len(names)
    bad, several = {}, {}

    def one(row: int) -> None:
        name = names[row]
        try:
            image, count = opened(name, paths[name])
        except Unreadable as error:
            bad[row] = str(error)
            return
        if count > 1:
            several[row] = name
        found[row] = work(row, image)

    _on_all_cores(one, len(names), desc, quiet)
    return found, [bad[row] for row in sorted(bad)], [several[row] for row in sorted(several)]


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


def _on_all_cores(work: Callable[[int], object], count: int, desc: str, quiet: bool) -> None:
    """`work(row)` for each of `count` rows, with a bar.

    Threads: Pillow decodes and resizes without the interpreter's lock. Of large images that is nearly all of the work;
    for many small ones see `pack_writer`.
    """

    def batch(start: int) -> int:
        rows = range(start, min(start + BATCH, count))
        for row in rows:
            work(row)
        return len(rows)

    with (
        ThreadPoolExecutor(cores()) as pool,
        tqdm(total=count, desc=desc, disable=quiet, leave=False, dynamic_ncols=True) as bar,
    ):
        for done in pool.map(batch, range(0, count, BATCH)):
            bar.update(done)
