"""Contact sheets: images on one page, one row per class. No torch."""

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
    """Draw up to ACROSS images of every class, with class names on the left; enlarge small ones by a whole factor.

    images: uint8 (n, h, w, 3). labels: (n,), indices into `classes`.
    """
    rows = []
    for label in range(len(classes)):
        tiles = [Image.fromarray(image) for image in images[labels == label][:ACROSS]]
        factors = [max(1, round(TILE / tile.width)) for tile in tiles]
        rows.append([
            tile.resize((tile.width * factor, tile.height * factor), Image.Resampling.BICUBIC)
            for tile, factor in zip(tiles, factors, strict=True)
        ])  # fmt: skip
    side = max((tile.width for row in rows for tile in row), default=TILE)
    font = ImageFont.load_default(FONT)
    margin = int(max(font.getlength(name) for name in classes)) + 4 * GAP
    across = max(map(len, rows))
    page = Image.new("RGB", (margin + across * (side + GAP), len(rows) * (side + GAP) + GAP), "white")
    draw = ImageDraw.Draw(page)
    for number, (name, row) in enumerate(zip(classes, rows, strict=True)):
        top = GAP + number * (side + GAP)
        draw.text((GAP, top + side // 2), name, fill="black", font=font, anchor="lm")
        for column, tile in enumerate(row):
            page.paste(tile, (margin + column * (side + GAP), top))
    return page


def render_png(images: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> bytes:
    """Return the sheet as the content of a PNG file."""
    out = io.BytesIO()
    draw_sheet(images, labels, classes).save(out, format="PNG")
    return out.getvalue()
