"""Contact sheets and figures: images on one page, one row per class. No torch."""

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
COLUMN_GAP = 12
FONT = 16
FONT_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "/Library/Fonts", "/System/Library/Fonts")
FONT_SUFFIXES = (".ttc", ".otf", ".ttf")
MISSING = "\uffff"  # no font has it: it is drawn as a character that is not there


def draw_sheet(images: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> Image.Image:
    """Draw up to ACROSS images of every class, with class names on the left; enlarge small ones by a whole factor.

    images: uint8 (n, h, w, 3). labels: (n,), indices into `classes`.
    """
    return draw_columns([("", [images[labels == label][:ACROSS] for label in range(len(classes))])], classes)


def draw_columns(columns: Sequence[tuple[str, Sequence[np.ndarray]]], classes: Sequence[str]) -> Image.Image:
    """Draw columns of images side by side, with their heads above them and class names on the left.

    columns: (head, for each class its images, uint8 (k, h, w, 3)). Small images are enlarged by a whole factor.
    """
    tiles = [[list(map(_tile, images)) for images in of_class] for _, of_class in columns]
    side = max((tile.width for rows in tiles for row in rows for tile in row), default=TILE)
    names = [choose_font(name) for name in classes]
    margin = int(max(font.getlength(name) for name, font in names)) + 4 * GAP
    widths = [max(map(len, rows)) * (side + GAP) for rows in tiles]
    heads = [_wrap(head, width) for (head, _), width in zip(columns, widths, strict=True)]
    above = max(map(len, heads)) * (FONT + GAP)
    wide = margin + sum(widths) + COLUMN_GAP * (len(columns) - 1)
    page = Image.new("RGB", (wide, above + len(classes) * (side + GAP) + GAP), "white")
    draw = ImageDraw.Draw(page)
    for number, (name, font) in enumerate(names):
        middle = above + GAP + number * (side + GAP) + side // 2
        draw.text((GAP, middle), name, fill="black", font=font, anchor="lm")
    left = margin
    for lines, rows, width in zip(heads, tiles, widths, strict=True):
        for number, line in enumerate(lines):
            text, font = choose_font(line)
            draw.text((left, GAP + number * (FONT + GAP)), text, fill="black", font=font)
        for number, row in enumerate(rows):
            for place, tile in enumerate(row):
                page.paste(tile, (left + place * (side + GAP), above + GAP + number * (side + GAP)))
        left += width + COLUMN_GAP
    return page


def _tile(image: np.ndarray) -> Image.Image:
    """Return an image, enlarged to about TILE pixels if it is smaller."""
    tile = Image.fromarray(image)
    factor = max(1, round(TILE / tile.width))
    return tile.resize((tile.width * factor, tile.height * factor), Image.Resampling.BICUBIC)


def _wrap(text: str, width: int) -> list[str]:
    """Break a text between words into lines of at most `width` pixels; a longer word stays whole."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and choose_font(longer)[1].getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


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
    alone = _without_joining(font)  # else a sign that has no letter is drawn beside a circle, as another box
    box = bytes(alone.getmask(MISSING))
    return {c for c in set(text) if not c.isascii() and not c.isspace() and bytes(alone.getmask(c)) in (box, b"")}


@cache
def _without_joining(font: ImageFont.FreeTypeFont) -> ImageFont.FreeTypeFont:
    return font.font_variant(layout_engine=ImageFont.Layout.BASIC)


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
    return to_png(draw_sheet(images, labels, classes))


def to_png(image: Image.Image) -> bytes:
    """Return an image as the content of a PNG file."""
    out = io.BytesIO()
    image.save(out, format="PNG")
    return out.getvalue()
