"""Open image files; convert images between NumPy arrays and tensors; turn them. No torch at import."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from ddbench.utils.image_checks import check_image
from evaluators.model_checks import is_pointer

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = 100_000_000  # pixels of a file that is decoded: ten thousand to a side


class UnreadableImageError(ValueError):
    """A file is no image or is damaged. reason: the error without the file's path."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path} is not a readable image ({reason})")
        self.reason = reason.replace(str(path), "the file")


class UnsupportedImageError(UnreadableImageError):
    """A whole image, but with pixels of an unknown range or with other bands. reason: a sentence for all such files."""


class AmbiguousImageError(UnreadableImageError):
    """A file that decoders read to different pixels, because it is damaged or because of its kind."""


@contextmanager
def open_image(path: str | Path) -> Iterator[Image.Image]:
    """Open an image file at its first picture, not yet decoded.

    Any error in the body of `with` becomes an UnreadableImageError, and so do more than LARGEST pixels, a pipe or a
    device, and files that Pillow would decode to other pixels than other decoders (`check_image`).
    """
    try:
        state = os.stat(path)
        if not stat.S_ISREG(state.st_mode):
            raise ValueError("it is a pipe or a device, not a file")
        if not state.st_size:
            raise ValueError("it is empty")
        with Image.open(path) as image:
            try:
                check_image(image, Path(path))
            except Exception as error:
                raise AmbiguousImageError(path, str(error)) from None
        with Image.open(path) as image:
            width, height = image.size
            if width * height > LARGEST:
                raise ValueError(f"{width}x{height} pixels are more than {LARGEST}")
            yield image
    except UnreadableImageError:
        raise
    except FileNotFoundError:
        where = f"a link to {os.readlink(path)}, which leads nowhere" if os.path.islink(path) else "not there"
        raise UnreadableImageError(path, f"it is {where}") from None
    except UnidentifiedImageError:
        pointer = "it is a pointer of git-lfs, not the file: `git lfs pull` fetches it"
        unknown = "it begins like no image of a known format"
        raise UnreadableImageError(path, pointer if is_pointer(path) else unknown) from None
    except Exception as error:  # Pillow's plugins raise many kinds
        raise UnreadableImageError(path, str(error)) from None


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


def turn(images: Tensor, view: int) -> Tensor:
    """Return images (n, c, h, h) in one of eight views: 0 as they are, 1 mirrored, 2 and 3 turned by 90 degrees, ..."""
    around = images.rot90(view // 2, (2, 3))
    return (around.flip(3) if view % 2 else around).contiguous()
