"""Contact sheets: images on one page, one row per class. No torch."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

TILE = 128  # px: smaller images are enlarged to about this
ACROSS = 12
GAP = 4
FONT = 16
FONT_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "/Library/Fonts", "/System/Library/Fonts")
FONT_SUFFIXES = (".ttc", ".otf", ".ttf")
MISSING = "\uffff"  # no font has it: it is drawn as a character that is not there


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
    names = [choose_font(name) for name in classes]
    margin = int(max(font.getlength(name) for name, font in names)) + 4 * GAP
    across = max(map(len, rows))
    page = Image.new("RGB", (margin + across * (side + GAP), len(rows) * (side + GAP) + GAP), "white")
    draw = ImageDraw.Draw(page)
    for number, ((name, font), row) in enumerate(zip(names, rows, strict=True)):
        top = GAP + number * (side + GAP)
        draw.text((GAP, top + side // 2), name, fill="black", font=font, anchor="lm")
        for column, tile in enumerate(row):
            page.paste(tile, (margin + column * (side + GAP), top))
    return page


def choose_font(text: str) -> tuple[str, ImageFont.FreeTypeFont]:
    """Return a text and a font that has its characters; one that no font has becomes "U+" and its number."""
    fonts = load_fonts()
    for font in fonts:
        if not lacking(text, font):
            return text, font
    font = min(fonts, key=lambda font: len(lacking(text, font)))
    return replace_lacking(text, font), font


def replace_lacking(text: str, font: ImageFont.FreeTypeFont) -> str:
    """Write the characters that a font lacks as numbers: "U+6D77 "."""
    missing = lacking(text, font)
    return "".join(f"U+{ord(c):04X} " if c in missing else c for c in text).strip()


def lacking(text: str, font: ImageFont.FreeTypeFont) -> set[str]:
    """Return the characters that a font draws as boxes."""
    box = bytes(font.getmask(MISSING))
    return {c for c in set(text) if not c.isascii() and not c.isspace() and bytes(font.getmask(c)) in (box, b"")}


@cache
def load_fonts() -> list[ImageFont.FreeTypeFont]:
    """Return Pillow's font, then matplotlib's DejaVu Sans, then the system's fonts for Chinese, Japanese, Korean."""
    fonts = [ImageFont.load_default(FONT)]
    spec = find_spec("matplotlib")
    paths = [Path(spec.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"] if spec and spec.origin else []
    for folder in FONT_FOLDERS:
        paths += sorted(path for path in Path(folder).rglob("*CJK*Regular*") if path.suffix in FONT_SUFFIXES)[:1]
    for path in paths:
        try:
            fonts.append(ImageFont.truetype(str(path), FONT))
        except OSError:
            continue
    return [font for font in fonts if isinstance(font, ImageFont.FreeTypeFont)]


def render_png(images: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> bytes:
    """Return the sheet as the content of a PNG file."""
    out = io.BytesIO()
    draw_sheet(images, labels, classes).save(out, format="PNG")
    return out.getvalue()
