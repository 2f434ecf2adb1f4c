"""Decode image files to upright, square, 8-bit RGB. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from ddbench.datasets.processes import cores
from ddbench.utils.images import UnreadableImageError, open_image

T = TypeVar("T")

EIGHT_BIT = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"})
SIXTEEN_BIT = ("I;16", "I")  # the second: how Pillow opens some 16-bit PNG
FILTERS = {"lanczos": Image.Resampling.LANCZOS, "bilinear": Image.Resampling.BILINEAR}
BATCH = 32  # files per task: large enough that handing out tasks costs nothing


def read_rgb(path: str | Path) -> tuple[Image.Image, int]:
    """Return the first picture of a file in 8-bit RGB, upright, and the number of pictures in the file.

    Grey is repeated, alpha dropped, palettes and CMYK are looked up by Pillow; of 16 bits the upper 8 are kept; an EXIF
    orientation is applied. Raises UnreadableImageError for a damaged file, and for pixels of any other kind: they have
    no agreed range.
    """
    with open_image(path) as file:
        image, count = ImageOps.exif_transpose(file), getattr(file, "n_frames", 1)
        if image.mode.startswith(SIXTEEN_BIT):
            values = np.asarray(image).astype(np.int64)
            low, high = values.min(), values.max()
            if low < 0 or high > 0xFFFF:
                raise ValueError(f"pixels of mode {image.mode} from {low} to {high} are not 16-bit")
            if 0 < high < 256:
                raise ValueError(f"no 16-bit pixel is above {high}, so the image would be black: save it with 8 bits")
            image = Image.fromarray((values >> 8).astype(np.uint8))
        elif image.mode not in EIGHT_BIT:
            raise ValueError(f"pixels of mode {image.mode} are neither 8-bit nor 16-bit")
        elif image.mode in {"P", "PA"}:  # Pillow warns when a palette with transparency goes straight to RGB
            image = image.convert("RGBA")
        return image.convert("RGB"), count


def image_size(path: str) -> tuple[int, int] | None:
    """Read (width, height) in pixels from a file's header; None if it cannot be read."""
    try:
        with open_image(path) as image:
            return image.size
    except UnreadableImageError:
        return None


def square(image: Image.Image, size: int, resize: str = "lanczos") -> np.ndarray:
    """Scale the shorter side to `size` and crop the centre; leave an image of that size as it is.

    Lanczos (DPD's choice) or bilinear, widened by the reduction so that nothing aliases. Resizing and cropping are one
    step, exact to a fraction of a pixel. Returns uint8 (3, size, size).
    """
    width, height = image.size
    if (width, height) != (size, size):
        side = min(width, height)
        x, y = (width - side) / 2, (height - side) / 2
        image = image.resize((size, size), FILTERS[resize], box=(x, y, x + side, y + side))
    return np.asarray(image).transpose(2, 0, 1)


def map_images(
    work: Callable[[int, Image.Image], T], names: Sequence[str], paths: Mapping[str, str], desc: str, quiet: bool
) -> tuple[list[T | None], list[str], list[str]]:
    """Call `work(row, image)` for the image of each name, in a thread for each core.

    Threads: Pillow decodes and resizes without the interpreter's lock. Of large images that is nearly all of the work;
    for many small ones see `pack_writer`. Returns the results (None for an unreadable file), "name: reason" of
    unreadable files, and the names of files with several pictures.
    """
    results: list[T | None] = [None] * len(names)
    unreadable, several = {}, {}

    def run_batch(start: int) -> int:
        rows = range(start, min(start + BATCH, len(names)))
        for row in rows:
            try:
                image, count = read_rgb(paths[names[row]])
            except UnreadableImageError as error:
                unreadable[row] = f"{names[row]}: {error.reason}"
                continue
            if count > 1:
                several[row] = names[row]
            results[row] = work(row, image)
        return len(rows)

    with (
        ThreadPoolExecutor(cores()) as pool,
        tqdm(total=len(names), desc=desc, disable=quiet, leave=False, dynamic_ncols=True) as bar,
    ):
        for done in pool.map(run_batch, range(0, len(names), BATCH)):
            bar.update(done)
    return results, [unreadable[row] for row in sorted(unreadable)], [several[row] for row in sorted(several)]
