"""The page's pictures: a sheet of each distilled set, small enough for fifty of them. No torch."""

from __future__ import annotations

import base64
import io
import logging
from pathlib import Path

import numpy as np
from PIL import Image

from ddbench import distilled

log = logging.getLogger("ddbench")

ACROSS = 10  # images of a class
LARGEST = 96  # px of one
QUALITY = 85


def sheet(run: Path, budget: int) -> tuple[str, list[str]] | None:
    """A data address of the sheet, one row a class, of about `budget` bytes; the classes. None without images."""
    try:
        pictures = distilled.read(run / "distilled")
    except (OSError, ValueError) as error:
        log.warning("no pictures of %s: %s", run, error)
        return None
    image = _grid(pictures)
    data = _webp(image)
    while len(data) > budget and min(image.size) > 64:
        image = image.resize((image.width * 3 // 4, image.height * 3 // 4), Image.Resampling.LANCZOS)
        data = _webp(image)
    return address(data), list(pictures.classes)


def address(webp: bytes) -> str:
    """A picture as an address that holds it."""
    return f"data:image/webp;base64,{base64.b64encode(webp).decode()}"


def _grid(pictures: distilled.Pictures) -> Image.Image:
    """Images side by side without a gap; a class with fewer leaves white."""
    side = min(LARGEST, pictures.images.shape[1])
    across = min(ACROSS, max(pictures.counts))
    page = Image.new("RGB", (across * side, len(pictures.classes) * side), "white")
    for label in range(len(pictures.classes)):
        for place, index in enumerate(np.flatnonzero(pictures.labels == label)[:across]):
            tile = Image.fromarray(pictures.images[index])
            tile = tile if tile.width == side else tile.resize((side, side), Image.Resampling.LANCZOS)
            page.paste(tile, (place * side, label * side))
    return page


def _webp(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "WEBP", quality=QUALITY, method=4)
    return out.getvalue()
