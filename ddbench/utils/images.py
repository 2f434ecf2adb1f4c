"""Open image files; convert images between NumPy arrays and tensors. No torch at import."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = 100_000_000  # pixels of a file that is decoded: ten thousand to a side
GIF_EXTENSION, GIF_PICTURE, GIF_END = b"!,;"  # first bytes of the blocks of a GIF
SHORT = 3  # the type of 16-bit numbers in EXIF


class UnreadableImageError(ValueError):
    """A file is no image or is damaged. reason: the error without the file's path."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path} is not a readable image ({reason})")
        self.reason = reason.replace(str(path), "the file")


class UnsupportedImageError(UnreadableImageError):
    """A whole image, but with pixels of an unknown range or with other bands. reason: a sentence for all such files."""


@contextmanager
def open_image(path: str | Path) -> Iterator[Image.Image]:
    """Open an image file at its first picture, not yet decoded.

    Any error in the body of `with` becomes an UnreadableImageError, and so do more than LARGEST pixels, a pipe or a
    device, and files that Pillow would decode to other pixels than other decoders: a PNG whose checksums are wrong, a
    GIF that is no chain of blocks up to its end, an EXIF orientation that is not one number of 16 bits.
    """
    try:
        state = os.stat(path)
        if not stat.S_ISREG(state.st_mode):
            raise ValueError("it is a pipe or a device, not a file")
        if not state.st_size:
            raise ValueError("it is empty")
        with Image.open(path) as image:
            if image.format == "PNG":
                image.verify()
            elif image.format == "GIF":
                check_blocks(Path(path).read_bytes())
            check_orientation(image.info.get("exif", b""))
        with Image.open(path) as image:
            width, height = image.size
            if width * height > LARGEST:
                raise ValueError(f"{width}x{height} pixels are more than {LARGEST}")
            yield image
    except UnreadableImageError:
        raise
    except Exception as error:  # Pillow's plugins raise many kinds
        raise UnreadableImageError(path, str(error)) from None


def check_blocks(gif: bytes) -> None:
    """Raise ValueError unless a GIF is a chain of blocks up to its end.

    Pillow looks for the next block that it knows, and so takes another picture or other colours. Source: GIF89a
    specification, W3C, sections 18 to 27.
    """
    try:
        position = 13 + _colours(gif[10])
        while gif[position] != GIF_END:
            if gif[position] == GIF_PICTURE:
                position += 11 + _colours(gif[position + 9])
            elif gif[position] == GIF_EXTENSION:
                position += 2
            else:
                raise ValueError(f"it is a damaged GIF: no block begins with {gif[position]}, as at byte {position}")
            while gif[position]:  # parts of the block, each behind its length
                position += 1 + gif[position]
            position += 1
    except IndexError:
        raise ValueError("it is a GIF that is cut, or damaged") from None


def _colours(flags: int) -> int:
    """Return the bytes of the table of colours that a GIF's flags announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def check_orientation(exif: bytes) -> None:
    """Raise ValueError for an EXIF orientation that is not one number of 16 bits: decoders turn such an image unlike.

    Data that are no EXIF pass. Source: CIPA DC-008 (EXIF 2.32), sections 4.6.2 and 4.6.4.
    """
    table = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(table[:2], "")
    with suppress(struct.error):  # cut
        start = struct.unpack_from(f"{order}I", table, 4)[0] if order else len(table)
        for index in range(struct.unpack_from(f"{order}H", table, start)[0]):
            tag, kind, count = struct.unpack_from(f"{order}HHI", table, start + 2 + 12 * index)
            if tag == ExifTags.Base.Orientation and (kind, count) != (SHORT, 1):
                raise ValueError("its EXIF orientation is damaged: save it again, upright")


def to_tensor(images: np.ndarray) -> Tensor:
    """Convert an array (n, h, w, 3) into a contiguous tensor (n, 3, h, w) of the same type."""
    import torch

    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def to_array(images: Tensor) -> np.ndarray:
    """Convert a tensor (n, 3, h, w) on any device into a contiguous array (n, h, w, 3) of the same type."""
    return images.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def resize(images: Tensor, size: int) -> Tensor:
    """Resize images in [-1, 1], (n, 3, h, w), to `size` px (bicubic, antialiased); 0 or their size: as they are."""
    if size in (0, images.shape[-1]):
        return images
    from torch.nn import functional as F

    return F.interpolate(images.float(), (size, size), mode="bicubic", antialias=True).clamp(-1, 1)


def to_float(images: Tensor) -> Tensor:
    """Map uint8 0..255 to float32 [-1, 1]."""
    return images.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Map float [-1, 1] to the nearest uint8 0..255; values outside are clipped."""
    import torch

    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
