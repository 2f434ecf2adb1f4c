"""Checks of image files that Pillow decodes without a word to other pixels than other decoders. No torch."""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from PIL import ExifTags, Image

GIF_EXTENSION, GIF_PICTURE, GIF_END = b"!,;"  # first bytes of the blocks of a GIF
SHORT = 3  # the type of 16-bit numbers in EXIF
COMPRESSION, PHOTOMETRIC, PLANAR, OFFSETS, COUNTS, TILES, TILE_COUNTS = 259, 262, 284, 273, 279, 324, 325  # TIFF tags
PIXELS = frozenset({256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 338, 339})
MOST_TAGS = 1 << 16
UNCOMPRESSED, DEFLATE = 1, {8, 32946}  # of COMPRESSION
WHITE_IS_ZERO, YCBCR = 0, 6  # of PHOTOMETRIC
CHUNK = 1 << 20  # bytes that are inflated at once


def check_image(image: Image.Image, path: Path) -> None:
    """Check the file of an image that was opened, and not yet decoded; afterwards it may not be decoded any more.

    Raises ValueError, or SyntaxError of Pillow, for: a PNG whose checksums are wrong; a GIF that is no chain of blocks
    up to its end; a TIFF whose tags have no meaning that decoders share, or whose Deflate checksums are wrong; an EXIF
    orientation that is not one number of 16 bits.
    """
    if image.format == "PNG":
        image.verify()
    elif image.format == "GIF":
        check_blocks(path.read_bytes())
    elif image.format == "TIFF":
        check_tags(image, path)
    check_orientation(image.info.get("exif", b""))


def check_tags(image: Image.Image, path: Path) -> None:
    """Raise ValueError for a TIFF that decoders read unlike. Source: TIFF 6.0, sections 3, 8, 21, and its supplement 2.

    Pillow passes over tags whose values lie outside the file, does not invert 16-bit pixels whose white is 0, takes
    subsampled YCbCr as if it were not, and any order of bands but 2 for 1. libtiff uses what it inflated, whatever the
    checksum says.
    """
    with path.open("rb") as file:
        declared = read_tags(file)
    if unread := sorted(tag for tag in declared & PIXELS if tag not in image.tag_v2):  # type: ignore[attr-defined]
        raise ValueError(f"the values of its TIFF tags {unread} lie outside the file")
    tags = image.tag_v2  # type: ignore[attr-defined]  # of TIFF files
    photometric, compression = tags.get(PHOTOMETRIC), tags.get(COMPRESSION, UNCOMPRESSED)
    if tags.get(PLANAR, 1) not in (1, 2):
        raise ValueError(f"its planar configuration is {tags[PLANAR]}, not 1 or 2")
    if photometric == WHITE_IS_ZERO and image.mode.startswith("I"):
        raise ValueError("it is a 16-bit TIFF whose white is 0: save it with black as 0")
    if photometric == YCBCR and compression == UNCOMPRESSED:
        raise ValueError("it is a TIFF of YCbCr without compression: save it as RGB")
    if compression in DEFLATE:
        with path.open("rb") as file:
            starts, sizes = (tags.get(one) or tags[other] for one, other in ((OFFSETS, TILES), (COUNTS, TILE_COUNTS)))
            for start, size in zip(starts, sizes, strict=True):
                file.seek(start)
                check_deflate(file.read(size))


def read_tags(file: BinaryIO) -> set[int]:
    """Return the numbers of the tags in the first directory of a TIFF or BigTIFF; raises ValueError if it is cut."""
    try:
        head = file.read(16)
        order, big = "<" if head[:2] == b"II" else ">", 43 in head[2:4]
        (start,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", head, 8 if big else 4)
        file.seek(start)
        (count,) = struct.unpack(f"{order}{'Q' if big else 'H'}", file.read(8 if big else 2))
        size = 20 if big else 12
        entries = file.read(size * min(count, MOST_TAGS))
        return {struct.unpack_from(f"{order}H", entries, size * index)[0] for index in range(count)}
    except struct.error:
        raise ValueError("the directory of its TIFF tags is cut") from None


def check_deflate(data: bytes) -> None:
    """Raise zlib.error for data that are cut or whose checksum is wrong."""
    stream = zlib.decompressobj()
    while not stream.eof:
        if not stream.decompress(data, CHUNK) and not stream.eof:
            raise zlib.error("Deflate data are cut")
        data = stream.unconsumed_tail


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
