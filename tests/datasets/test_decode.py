"""Damaged files that Pillow would decode to other pixels than other decoders do are refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddbench.datasets.decode import read_rgb
from ddbench.utils.images import UnreadableImageError


@pytest.fixture
def gif(tmp_path, picture):
    """Write a GIF of two pictures, without a table of colours of its own for the second."""
    path = tmp_path / "image.gif"
    first, second = (picture(kind, 16, 16).quantize(16) for kind in ("noise", "gradient"))
    first.save(path, save_all=True, append_images=[second])
    return path


def test_a_gif_is_read_up_to_its_end(gif):
    whole = gif.read_bytes()
    image, _ = read_rgb(gif)
    gif.write_bytes(whole + b"anything")  # behind the end
    assert np.array_equal(read_rgb(gif)[0], image)


@pytest.mark.parametrize(
    ("start", "stop", "new"),
    [
        (20, 21, b""),  # a colour lacks a byte, so that all that follow change
        (13 + 48, 13 + 48, b"\0"),  # before the first block
        (-1, None, b""),  # without an end
        (-40, None, b""),  # cut within the second picture
        (0, None, b"GIF89a"),
    ],
)
def test_a_gif_that_is_no_chain_of_blocks_is_refused(gif, start, stop, new):
    whole = gif.read_bytes()
    end = len(whole) if stop is None else stop
    gif.write_bytes(whole[:start] + new + whole[end:])
    with pytest.raises(UnreadableImageError):
        read_rgb(gif)


def exif(kind: int, count: int, value: bytes, entries: int = 1) -> bytes:
    """Return EXIF data with an orientation of a type, a count and a value."""
    entry = struct.pack(">HHI", 0x0112, kind, count) + value
    return b"Exif\0\0MM\0*" + struct.pack(">IH", 8, entries) + entry * entries + bytes(4)


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".png"])
def test_an_orientation_turns_the_image(tmp_path, picture, suffix):
    path = tmp_path / f"image{suffix}"
    picture("gradient", 16, 8).save(path, exif=exif(3, 1, b"\0\6\0\0"))
    assert read_rgb(path)[0].size == (8, 16)


@pytest.mark.filterwarnings("ignore:Tag data larger than file")
@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".png"])
@pytest.mark.parametrize(
    ("kind", "count", "entries"), [(3, 0x4001, 1), (3, 0, 1), (3, 2, 1), (4, 1, 1), (1, 1, 1), (0, 1, 1), (4, 1, 2)]
)
def test_an_orientation_that_decoders_read_unlike_is_refused(tmp_path, picture, suffix, kind, count, entries):
    """Pillow passes over a value of a wrong length; others take it."""
    path = tmp_path / f"image{suffix}"
    picture("gradient", 16, 8).save(path, exif=exif(kind, count, b"\0\6\0\0", entries))
    with pytest.raises(UnreadableImageError, match="its EXIF orientation is damaged: save it again, upright"):
        read_rgb(path)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("data", [b"", b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", exif(3, 1, b"\0\6\0\0")[:-10]])
def test_cut_exif_data_hold_no_orientation(tmp_path, picture, data):
    path = tmp_path / "image.jpg"
    picture("gradient", 16, 8).save(path, exif=data)
    assert read_rgb(path)[0].size == (16, 8)


def tiff(path: Path, tags: dict[int, int], mode: str = "RGB", **options: object) -> None:
    """Write a TIFF, then overwrite the values of tags, as damage does."""
    pixels = np.random.default_rng(0).integers(0, 1 << 16 if mode == "I;16" else 256, (16, 16), np.uint16)
    image = Image.fromarray(pixels if mode == "I;16" else pixels.astype(np.uint8))
    (image if mode == "I;16" else image.convert(mode)).save(path, **options)
    data = bytearray(path.read_bytes())
    (start,) = struct.unpack_from("<I", data, 4)
    for index in range(struct.unpack_from("<H", data, start)[0]):
        entry = start + 2 + 12 * index
        (tag,) = struct.unpack_from("<H", data, entry)
        if tag in tags:
            struct.pack_into("<I", data, entry + 8, tags[tag])
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("tags", "mode", "match"),
    [
        ({284: 33}, "RGB", "planar configuration is 33, not 1 or 2"),
        ({284: 0}, "RGB", "planar configuration is 0, not 1 or 2"),
        ({262: 0}, "I;16", "a 16-bit TIFF whose white is 0"),
        ({262: 6}, "RGB", "YCbCr without compression"),
    ],
)
def test_a_tiff_that_decoders_read_unlike_is_refused(tmp_path, tags, mode, match):
    path = tmp_path / "image.tif"
    tiff(path, {}, mode)
    assert read_rgb(path)[0].size == (16, 16)
    tiff(path, tags, mode)
    with pytest.raises(UnreadableImageError, match=match):
        read_rgb(path)


@pytest.mark.filterwarnings("ignore:Tag data larger than file")
@pytest.mark.parametrize("tag", [258, 279, 284])
def test_a_tiff_with_tags_outside_the_file_is_refused(tmp_path, tag):
    """Pillow passes over such a tag: without the bits of a pixel, it reads 16-bit pixels as black and white."""
    path = tmp_path / "image.tif"
    tiff(path, {}, "I;16")
    data = bytearray(path.read_bytes())
    (start,) = struct.unpack_from("<I", data, 4)
    entries = {struct.unpack_from("<H", data, at)[0]: at for at in range(start + 2, start + 2 + 12 * data[start], 12)}
    struct.pack_into("<I", data, entries[tag] + 4, 1 << 24)  # the number of values
    path.write_bytes(data)
    with pytest.raises(UnreadableImageError, match=rf"its TIFF tags \[{tag}\] lie outside the file"):
        read_rgb(path)


@pytest.mark.filterwarnings("ignore:Tag data larger", "ignore:Corrupt EXIF", "ignore:Metadata Warning")
def test_a_tiff_whose_directory_is_cut_is_refused(tmp_path):
    path = tmp_path / "image.tif"
    tiff(path, {}, "I;16")
    data = bytearray(path.read_bytes())
    data[struct.unpack_from("<I", data, 4)[0] + 1] = 2  # 512 tags more
    path.write_bytes(data)
    with pytest.raises(UnreadableImageError):
        read_rgb(path)


def test_a_big_tiff_is_read(tmp_path):
    path = tmp_path / "image.tif"
    Image.fromarray(np.full((16, 16, 3), 9, np.uint8)).save(path, big_tiff=True)
    assert np.asarray(read_rgb(path)[0]).max() == 9


def test_grey_of_8_bits_whose_white_is_0_is_inverted(tmp_path):
    path = tmp_path / "image.tif"
    tiff(path, {}, "L")
    plain = np.asarray(read_rgb(path)[0])
    tiff(path, {262: 0}, "L")
    assert np.array_equal(np.asarray(read_rgb(path)[0]), 255 - plain)


@pytest.mark.parametrize("change", [lambda data: bytes([data[-1] ^ 1]), lambda _: b""], ids=["wrong", "cut"])
def test_a_tiff_with_a_wrong_checksum_is_refused(tmp_path, change):
    """libtiff stops reading when it has all pixels."""
    path = tmp_path / "image.tif"
    tiff(path, {}, compression="tiff_adobe_deflate")
    read_rgb(path)
    whole = path.read_bytes()
    with Image.open(path) as image:
        (start,), (size,) = image.tag_v2[273], image.tag_v2[279]
    strip = whole[start : start + size]
    assert zlib.decompress(strip)
    damaged = strip[:-1] + change(strip)
    path.write_bytes(whole[:start] + damaged.ljust(size, b"\0") + whole[start + size :])
    with pytest.raises(UnreadableImageError, match="incorrect data check"):
        read_rgb(path)
