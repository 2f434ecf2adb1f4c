"""Pictures of the page: sheets of images, small enough for fifty distilled sets. No torch."""

from __future__ import annotations

import base64
import io
import logging
from pathlib import Path

import numpy as np
from PIL import Image

from ddbench.report.plots import feature_plane
from ddbench.store import distilled_set
from ddbench.store.audits import read_quality
from ddbench.store.class_folders import read_image, read_images
from ddbench.store.records import distilled_digest

log = logging.getLogger("ddbench")

PER_CLASS = 10  # images of a class at most
MAX_SIDE = 96  # px of an image
QUALITY = 85


def distilled_images(run: Path) -> tuple[Image.Image, tuple[str, ...]] | None:
    """Return the distilled images of a run on one sheet, and the classes; None without readable images."""
    try:
        distilled = distilled_set.read(run / "distilled")
    except (OSError, ValueError) as error:
        log.warning("no images of %s on the page: %s", run, error)
        return None
    return _sheet(distilled), distilled.classes


def prototypes(images: Path, classes: tuple[str, ...]) -> Image.Image | None:
    """Return the real images that a run started from, in the layout of its own; None without the folder `images`."""
    if not images.is_dir():
        return None
    try:
        return _sheet(distilled_set.Pictures(*read_images(images, classes), classes))
    except (OSError, ValueError) as error:
        log.warning("no prototypes on the page: %s", error)
        return None


def audit_sheet(path: Path) -> Image.Image | None:
    """Return the sheet of closest pairs beside the file of an audit; None without a readable one."""
    try:
        return Image.fromarray(read_image(path.with_suffix(".png")))
    except (OSError, ValueError) as error:
        log.warning("no pairs on the page: %s", error)
        return None


def feature_maps(run: Path) -> list[Image.Image]:
    """Draw what `ddbench quality --metric map` measured of the present set, one map for each network."""
    try:
        return [feature_plane(measured["values"]) for measured in read_quality(run, "map", distilled_digest(run))]
    except (OSError, ValueError, KeyError) as error:
        log.warning("no map of %s on the page: %s", run, error)
        return []


def data_url(image: Image.Image, budget: int) -> str:
    """Return a picture as a data URL, made smaller until it has about `budget` bytes."""
    while True:
        out = io.BytesIO()
        image.save(out, "WEBP", quality=QUALITY, method=4)
        if out.tell() <= budget or min(image.size) <= 64:
            return f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode()}"
        image = image.resize((image.width * 3 // 4, image.height * 3 // 4), Image.Resampling.LANCZOS)


def _sheet(distilled: distilled_set.Pictures) -> Image.Image:
    """Set images class after class without a gap: one class to a line, or several where each has few images."""
    side = min(MAX_SIDE, distilled.images.shape[1])
    images_of_class = min(PER_CLASS, max(distilled.counts))
    classes_on_line = min(PER_CLASS // images_of_class, len(distilled.classes))
    lines = -(-len(distilled.classes) // classes_on_line)
    sheet = Image.new("RGB", (classes_on_line * images_of_class * side, lines * side), "white")
    for label in range(len(distilled.classes)):
        for place, index in enumerate(np.flatnonzero(distilled.labels == label)[:images_of_class]):
            tile = Image.fromarray(distilled.images[index])
            tile = tile if tile.width == side else tile.resize((side, side), Image.Resampling.LANCZOS)
            left = (label % classes_on_line * images_of_class + place) * side
            sheet.paste(tile, (left, label // classes_on_line * side))
    return sheet
