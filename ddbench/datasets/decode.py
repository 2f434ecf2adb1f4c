"""Decode image files to upright, square, 8-bit RGB. No torch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin

from ddbench.datasets.processes import cores
from ddbench.utils.images import AmbiguousImageError, UnreadableImageError, UnsupportedImageError, open_image
from ddbench.utils.progress import progress_bar

logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)  # its line per file becomes an error here

T = TypeVar("T")

EIGHT_BIT = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"})
SIXTEEN_BIT = ("I;16", "I")  # the second: how Pillow opens some 16-bit PNG
DARK = 1 << 14  # 16-bit images whose brightest pixel is below are no 8-bit images: 12-bit cameras, reflectances
TOO_DARK = (
    f"16-bit pixels, none of them above {DARK - 1} of 65535 (reflectances, perhaps), so the image would be dark or "
    "black: scale them to 8 bits, by one rule for all images"
)
SUPPORTED = "read are grey or RGB of 8 or 16 bits: save three bands as 8-bit RGB, by one rule for all images"
DAMAGED, UNSUPPORTED, UNREAD = "damaged", "unsupported", "unread"  # kinds of remarks
SEVERAL = "several images in one file, the first is used"
BANDS = "a band behind the third, or behind grey (alpha, near infrared), is not read"
SAMPLES, BITS, FORMAT, PLANAR, OFFSETS, COUNTS, TILES, TILE_COUNTS = 277, 258, 339, 284, 273, 279, 324, 325  # TIFF tags
EXTRA, PREMULTIPLIED = 338, 1  # tag of the bands behind the colours, and its value for "associated alpha"
SCALED = (
    "a TIFF whose last band is marked as alpha by which the colours were multiplied; whether they were, cannot be "
    "seen: save three bands, or mark the band as unspecified"
)
FILTERS = {"lanczos": Image.Resampling.LANCZOS, "bilinear": Image.Resampling.BILINEAR}
BATCH = 32  # files per task: large enough that handing out tasks costs nothing


def read_rgb(path: str | Path) -> tuple[Image.Image, tuple[str, ...]]:
    """Return the first picture of a file in 8-bit RGB, upright, and what of the file is not read (SEVERAL, BANDS).

    Grey is repeated, alpha and any other band behind the third dropped, palettes and CMYK are looked up by Pillow; of
    16 bits the upper 8 are kept; an EXIF orientation is applied. Raises UnreadableImageError for a damaged file, and
    UnsupportedImageError for pixels of any other kind, and for 16-bit pixels that leave the two highest bits empty
    (reflectances): they have no agreed range.
    """
    try:
        with open_image(path) as file:
            # Pillow keeps the upper 8 bits of three bands by itself
            sixteen = any(";16" in str(tile) for tile in getattr(file, "tile", ()))
            image, unread = ImageOps.exif_transpose(file), []
            if getattr(file, "n_frames", 1) > 1:
                unread.append(SEVERAL)
            if image.mode not in EIGHT_BIT and not image.mode.startswith(SIXTEEN_BIT):
                raise UnsupportedImageError(path, f"{describe(path) or f'pixels of mode {image.mode}'}; {SUPPORTED}")
            if image.mode.startswith(SIXTEEN_BIT):
                image = _upper_bits(image, path)
            elif sixteen and 0 < np.asarray(image.convert("RGB")).max() < DARK >> 8:
                raise UnsupportedImageError(path, TOO_DARK)
            bands = image.getbands()
            tags = getattr(file, "tag_v2", {})
            fourth = bands[-1] in {"A", "a", "X"} and image.getextrema()[-1] != (255, 255)  # all 255 says nothing
            if fourth and PREMULTIPLIED in np.atleast_1d(tags.get(EXTRA, 0)):  # Pillow divides the colours by it
                raise UnsupportedImageError(path, SCALED)
            if fourth or tags.get(SAMPLES, 1) > len(bands):
                unread.append(BANDS)
            return to_rgb(image), tuple(unread)
    except (UnsupportedImageError, AmbiguousImageError):
        raise
    except UnreadableImageError:
        if what := describe(path):
            raise UnsupportedImageError(path, f"{what}; {SUPPORTED}") from None
        raise


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image of EIGHT_BIT in RGB: grey is repeated, alpha dropped, palettes and CMYK are looked up."""
    if image.mode in {"P", "PA"}:  # Pillow warns when a palette with transparency goes straight to RGB
        image = image.convert("RGBA")
    return image.convert("RGB")


def _upper_bits(image: Image.Image, path: str | Path) -> Image.Image:
    """Return the upper 8 of 16 bits. Raises UnsupportedImageError where pixels leave the two highest bits empty."""
    values = np.asarray(image).astype(np.int64)
    low, high = values.min(), values.max()
    if low < 0 or high > 0xFFFF:
        reason = f"pixels of mode {image.mode} outside 0 to 65535; {SUPPORTED}"
        raise UnsupportedImageError(path, reason)
    if 0 < high < DARK:
        raise UnsupportedImageError(path, TOO_DARK)
    return Image.fromarray((values >> 8).astype(np.uint8))


def describe(path: str | Path) -> str:
    """Describe the pixels of a whole TIFF file that Pillow does not decode: "a TIFF of 13 bands of uint16"; else ""."""
    if not Path(path).is_file():  # a pipe would be waited for
        return ""
    try:
        with open(path, "rb") as file:
            tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
            file.seek(tags.next)
            tags.load(file)
        bands, bits = tags.get(SAMPLES, 1), tags[BITS][0]
        kind = {1: "uint", 2: "int", 3: "float"}.get((tags.get(FORMAT) or (1,))[0], "unknown ")
        offsets, sizes = tags.get(OFFSETS) or tags[TILES], tags.get(COUNTS) or tags[TILE_COUNTS]
        if max(map(sum, zip(offsets, sizes, strict=True))) > Path(path).stat().st_size:
            return ""  # cut
    except Exception:  # the plugin raises many kinds, and this is no TIFF then
        return ""
    order = ", band after band" if tags.get(PLANAR, 1) == 2 and bands > 1 else ""
    return f"a TIFF of {bands} band{'s' if bands > 1 else ''} of {kind}{bits}{order}"


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


@dataclass(frozen=True)
class Remarks:
    """Files of a dataset that are not read, or not whole.

    damaged: "name: reason" of files that cannot be read.
    unsupported: names of whole images by the reason why they are not read.
    unread: names of images by what of them is not read (SEVERAL, BANDS).
    """

    damaged: tuple[str, ...] = ()
    unsupported: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unread: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def collect(cls, names: Sequence[str], rows: Iterable[tuple[int, str, str]]) -> Remarks:
        """Group (row, kind, text) of `read_with_remarks` by kind and text, in the order of the rows."""
        damaged: list[str] = []
        grouped: dict[str, dict[str, list[str]]] = {UNSUPPORTED: {}, UNREAD: {}}
        for row, kind, text in sorted(rows):
            if kind == DAMAGED:
                damaged.append(f"{names[row]}: {text}")
            else:
                grouped[kind].setdefault(text, []).append(names[row])
        unsupported, unread = ({text: tuple(n) for text, n in grouped[kind].items()} for kind in (UNSUPPORTED, UNREAD))
        return cls(tuple(damaged), unsupported, unread)

    @property
    def failures(self) -> int:
        """Files that are not read."""
        return len(self.damaged) + sum(map(len, self.unsupported.values()))


def read_with_remarks(path: str, row: int) -> tuple[Image.Image | None, list[tuple[int, str, str]]]:
    """Return the image in a file, None if it is not read, and (row, kind, text) of each remark on the file."""
    try:
        image, unread = read_rgb(path)
    except UnreadableImageError as error:
        return None, [(row, UNSUPPORTED if isinstance(error, UnsupportedImageError) else DAMAGED, error.reason)]
    return image, [(row, UNREAD, text) for text in unread]


def map_images(
    work: Callable[[int, Image.Image], T], names: Sequence[str], paths: Mapping[str, str], desc: str, quiet: bool
) -> tuple[list[T | None], Remarks]:
    """Call `work(row, image)` for the image of each name, in a thread for each core.

    Threads: Pillow decodes and resizes without the interpreter's lock. Of large images that is nearly all of the work;
    for many small ones see `pack_writer`. Returns the results, None for a file that is not read, and the remarks.
    """
    results: list[T | None] = [None] * len(names)
    remarks: list[tuple[int, str, str]] = []

    def run_batch(start: int) -> int:
        rows = range(start, min(start + BATCH, len(names)))
        for row in rows:
            image, of_file = read_with_remarks(paths[names[row]], row)
            remarks.extend(of_file)
            if image is not None:
                results[row] = work(row, image)
        return len(rows)

    with (
        ThreadPoolExecutor(cores()) as pool,
        progress_bar(total=len(names), desc=desc, hidden=quiet) as bar,
    ):
        for done in pool.map(run_batch, range(0, len(names), BATCH)):
            bar.update(done)
    return results, Remarks.collect(names, remarks)
