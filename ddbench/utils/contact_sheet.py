"""A contact sheet: one row per class, so that a person can look at what was distilled. No torch."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

TILE = 128  # px: smaller images are enlarged to about this
ACROSS = 12
GAP = 4
FONT = 16


def draw_sheet(images: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> Image.Image:
    """Up to ACROSS images of every class, class names on the left; small images are enlarged by a whole factor.

    images: uint8 (n, h, w, 3). labels: (n,), indices into `classes`.
    """
    tiles = [_tiles(images[labels == label]) for label in range(len(classes))]
    side = max((tile.width for row in tiles for tile in row), default=TILE)
    font = ImageFont.load_default(FONT)
    margin = int(max(font.getlength(name) for name in classes)) + 4 * GAP
    across = max(map(len, tiles))
    page = Image.new("RGB", (margin + across * (side + GAP), len(tiles) * (side + GAP) + GAP), "white")
    draw = ImageDraw.Draw(page)
    for number, (name, row) in enumerate(zip(classes, tiles, strict=True)):
        top = GAP + number * (side + GAP)
        draw.text((GAP, top + side // 2), name, fill="black", font=font, anchor="lm")
        for place, tile in enumerate(row):
            page.paste(tile, (margin + place * (side + GAP), top))
    return page


def render_png(images: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> bytes:
    """The sheet as a PNG file's content."""
    out = io.BytesIO()
    draw_sheet(images, labels, classes).save(out, format="PNG")
    return out.getvalue()


def _tiles(images: np.ndarray) -> list[Image.Image]:
    return [_enlarged(Image.fromarray(image)) for image in images[:ACROSS]]


def _enlarged(image: Image.Image) -> Image.Image:
    factor = max(1, round(TILE / image.width))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)
