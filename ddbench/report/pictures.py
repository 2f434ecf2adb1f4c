"""The page's pictures: sheets of images, small enough for fifty distilled sets. No torch."""

from __future__ import annotations

import base64
import io
import logging
from pathlib import Path

import numpy as np
from PIL import Image

from ddbench.report.plots import plane
from ddbench.store import distilled_set
from ddbench.store.records import distilled_digest
from ddbench.utils.files import read_json

log = logging.getLogger("ddbench")

ACROSS = 10  # images of a class
LARGEST = 96  # px of one
QUALITY = 85


def sheet(run: Path) -> tuple[Image.Image, tuple[str, ...]] | None:
    """The distilled set of a run, class after class, and the classes; None without images."""
    try:
        pictures = distilled_set.read(run / "distilled")
    except (OSError, ValueError) as error:
        log.warning("no pictures of %s: %s", run, error)
        return None
    return _grid(pictures), pictures.classes


def prototypes(images: Path, classes: tuple[str, ...]) -> Image.Image | None:
    """The real images that a run's own were made from, laid out as they are; None where there is no such folder."""
    if not images.is_dir():
        return None
    try:
        return _grid(distilled_set.Pictures(*distilled_set.read_images(images, classes), classes))
    except (OSError, ValueError) as error:
        log.warning("no prototypes: %s", error)
        return None


def maps(run: Path) -> list[Image.Image]:
    """Of the set that is there now, one for each network that `ddbench quality --metric map` asked."""
    try:
        found = [read_json(path) for path in sorted(run.glob("quality/map-*.json"))]
        content = distilled_digest(run) if found else ""
        return [plane(one["values"]) for one in found if one["content"] == content]
    except (OSError, ValueError, KeyError) as error:
        log.warning("no map of %s: %s", run, error)
        return []


def address(image: Image.Image, budget: int) -> str:
    """A picture as an address that holds it, made smaller until it is of about `budget` bytes."""
    data = _webp(image)
    while len(data) > budget and min(image.size) > 64:
        image = image.resize((image.width * 3 // 4, image.height * 3 // 4), Image.Resampling.LANCZOS)
        data = _webp(image)
    return f"data:image/webp;base64,{base64.b64encode(data).decode()}"


def _grid(pictures: distilled_set.Pictures) -> Image.Image:
    """Images without a gap, class after class: one to a line, or several where each has few; white where one lacks."""
    side = min(LARGEST, pictures.images.shape[1])
    wide = min(ACROSS, max(pictures.counts))  # images of a class
    beside = min(ACROSS // wide, len(pictures.classes))  # classes on a line
    page = Image.new("RGB", (beside * wide * side, -(-len(pictures.classes) // beside) * side), "white")
    for label in range(len(pictures.classes)):
        for place, index in enumerate(np.flatnonzero(pictures.labels == label)[:wide]):
            tile = Image.fromarray(pictures.images[index])
            tile = tile if tile.width == side else tile.resize((side, side), Image.Resampling.LANCZOS)
            page.paste(tile, ((label % beside * wide + place) * side, label // beside * side))
    return page


def _webp(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "WEBP", quality=QUALITY, method=4)
    return out.getvalue()
