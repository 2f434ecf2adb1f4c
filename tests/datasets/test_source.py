"""From files to tensors: decoding, packing once, memory-mapping, and what happens when it goes wrong."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ddbench.datasets.decode import BANDS, SEVERAL, read_rgb, square
from ddbench.datasets.info import DataPaths, DatasetError
from ddbench.datasets.lookup import find_dataset
from ddbench.datasets.pack import sha256_of
from ddbench.datasets.source import folder_source
from ddbench.utils.images import UnreadableImageError

PACK = """
import logging, sys
from pathlib import Path
from ddbench.datasets.info import DataPaths
from ddbench.datasets.source import folder_source
logging.basicConfig(level=logging.INFO)
dataset = folder_source(sys.argv[1]).load(DataPaths(None, Path(sys.argv[2]), quiet=True), 64)
print(dataset.fingerprint, int(dataset.train.images.long().sum()), int(dataset.test.images.long().sum()))
"""

PROCESSES = "from ddbench.datasets import pack_writer; pack_writer.MANY = 1; "


def packs(data_paths):
    return [p for p in data_paths.shared.iterdir() if p.name.startswith("packed-")]


def rows(dataset):
    """Every image by name, as (h, w, 3)."""
    return {
        name: image.permute(1, 2, 0).numpy()
        for side in (dataset.train, dataset.test)
        for name, image in zip(side.names, side.images, strict=True)
    }


def test_pixels_labels_and_names_belong_together(toy, data_paths, grow):
    tree = grow(data_paths.root / "Images", toy.classes, 10)
    dataset = toy.load(data_paths, 8)
    split = toy.describe(data_paths)
    for name, pixels in rows(dataset).items():
        assert np.array_equal(pixels, np.asarray(Image.open(tree / name)))
    for side, names in ((dataset.train, split.train), (dataset.test, split.test)):
        assert side.names == tuple(name for per_class in names for name in per_class)
        assert [side.classes[label] for label in side.labels] == [name.split("/")[0] for name in side.names]
        assert side.counts() == (5, 5, 5)
        assert side.images.dtype == torch.uint8
        assert side.images.is_contiguous()
        assert side.labels.dtype == torch.int64
    assert (dataset.name, dataset.fingerprint, dataset.split) == ("toy", split.fingerprint, split.rule)


def test_the_pack_says_what_it_holds(toy, data_paths, grow):
    grow(data_paths.root / "Images", toy.classes, 10)
    dataset = toy.load(data_paths, 8)
    (pack,) = packs(data_paths)
    index = json.loads((pack / "index.json").read_text())
    assert pack.name.startswith("packed-toy8-")
    assert (pack / "images.u8").stat().st_size == 30 * 3 * 8 * 8
    assert index["sha256"] == sha256_of(pack / "images.u8")
    assert (index["train"], index["size"], index["fingerprint"]) == (15, 8, dataset.fingerprint)


def test_odd_sizes_keep_the_centre():
    ramp = np.tile(np.arange(200, dtype=np.uint8)[None, :, None], (100, 1, 3))  # brightness = column
    pixels = square(Image.fromarray(ramp), 50)
    assert pixels.shape == (3, 50, 50)
    expected = np.arange(50) * 2 + 50.5  # means of pairs of columns 50 to 149
    assert np.abs(pixels[0].mean(0) - expected).max() <= 0.5
    tall = square(Image.fromarray(ramp.transpose(1, 0, 2)), 50)
    assert np.array_equal(tall, pixels.transpose(0, 2, 1))


def test_reducing_does_not_alias():
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    inner = square(Image.fromarray(stripes), 64)[:, 2:-2, 2:-2].astype(int)
    assert np.abs(inner - 127.5).max() < 6  # every fourth column alone would be 255 or 0


def test_the_right_size_is_left_alone(picture):
    noise = picture("noise", 64, 64)
    assert np.array_equal(square(noise, 64).transpose(1, 2, 0), np.asarray(noise))


@pytest.mark.parametrize("suffix", [".tif", ".TIFF", ".png", ".bmp", ".webp", ".jpg", ".JPEG"])
def test_suffixes(tmp_path, data_paths, grow, suffix):
    tree = grow(tmp_path / "tree", ["a", "b"], 3, suffix)
    for name, pixels in rows(folder_source(tree).load(data_paths, 8)).items():
        assert np.array_equal(pixels, np.asarray(Image.open(tree / name).convert("RGB")))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_other_modes_become_rgb(tmp_path, mode, picture):
    colours = picture("modes", 16, 16).convert(mode)
    path = tmp_path / f"image.{'tif' if mode == 'CMYK' else 'png'}"
    colours.save(path)
    assert np.array_equal(np.asarray(read_rgb(path)[0]), np.asarray(colours.convert("RGB")))


def test_sixteen_bits_keep_the_upper_eight(tmp_path):
    values = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16) + 255
    for name in ("grey.png", "grey.tif"):
        Image.fromarray(values).save(tmp_path / name)
        assert np.array_equal(np.asarray(read_rgb(tmp_path / name)[0])[..., 0], values >> 8)


def test_an_orientation_is_applied(tmp_path, picture):
    image, exif = picture("turned", 16, 8), Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    image.save(tmp_path / "turned.png", exif=exif)
    upright = read_rgb(tmp_path / "turned.png")[0]
    assert upright.size == (8, 16)
    assert np.array_equal(np.asarray(upright), np.asarray(image.transpose(Image.Transpose.ROTATE_270)))


def test_of_several_pictures_the_first_is_used_and_said(toy, data_paths, grow, picture, caplog):
    tree = grow(data_paths.root / "Images", toy.classes, 10)
    first, *rest = (picture(f"page {i}", 8, 8) for i in range(3))
    (tree / "beach/beach04.png").unlink()
    first.save(tree / "beach/beach04.tif", save_all=True, append_images=rest)
    data = toy.load(data_paths, 8)
    assert "several images in one file, the first is used: 1 images: beach/beach04.tif" in caplog.text
    assert np.array_equal(rows(data)["beach/beach04.tif"], np.asarray(first))
    assert toy.verify(data_paths).unread == {SEVERAL: ("beach/beach04.tif",)}


def test_a_file_of_enormous_size_is_not_decoded(toy, data_paths, grow, monkeypatch):
    """Its head says 400 million pixels; decoding it would take a gigabyte."""
    tree = grow(data_paths.root / "Images", toy.classes, 10)
    Image.new("1", (20_000, 20_000)).save(tree / "beach/beach04.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(DatasetError, match=r"beach04\.png: 20000x20000 pixels are more than 100000000"):
        toy.load(data_paths, 8)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(toy, data_paths, grow):
    tree = grow(data_paths.root / "Images", toy.classes, 10)
    (tree / "beach/beach04.png").chmod(0)
    with pytest.raises(DatasetError, match=r"beach04\.png: .*Permission denied"):
        toy.load(data_paths, 8)


def test_many_images_are_packed_by_processes_to_the_same_pixels(toy, data_paths, grow, picture, monkeypatch, tmp_path):
    tree = grow(data_paths.root / "Images", toy.classes, 10, side=9)
    alone = toy.load(data_paths, 8)
    monkeypatch.setattr("ddbench.datasets.pack_writer.MANY", 1)
    together = toy.load(replace(data_paths, shared=tmp_path / "other"), 8)
    for one, other in ((alone.train, together.train), (alone.test, together.test)):
        assert torch.equal(one.images, other.images)
        assert one.names == other.names
    (tree / "river/river01.png").write_bytes(b"")
    (tree / "forest/forest02.png").write_text("no image")
    with pytest.raises(DatasetError, match=r"2 of 30 images in .*\n(.*\n)*.*river/river01\.png: ") as caught:
        toy.load(replace(data_paths, shared=tmp_path / "third"), 8)
    assert "forest/forest02.png: it begins like no image of a known format" in str(caught.value)
    assert not list((tmp_path / "third").rglob("images.u8"))


def test_a_file_that_may_grow_no_further_under_packing_processes_is_said(toy, data_paths, grow, tmp_path):
    from ddbench.datasets.pack_writer import write_in_processes

    tree = grow(data_paths.root / "Images", toy.classes, 2)
    paths = {f"beach/{path.name}": str(path) for path in (tree / "beach").iterdir()}
    raw, (soft, hard) = tmp_path / "images.u8", resource.getrlimit(resource.RLIMIT_FSIZE)
    raw.write_bytes(b"")
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))  # what the processes inherit; a full disk ends like this
    try:
        with pytest.raises(OSError, match=r"File too large: .*images\.u8"):
            write_in_processes(raw, list(paths), paths, 32, data_paths)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def die(*_, **__):
    os._exit(3)


def test_a_process_that_is_killed_while_it_packs_is_said(toy, data_paths, grow, monkeypatch):
    grow(data_paths.root / "Images", toy.classes, 10)
    monkeypatch.setattr("ddbench.datasets.pack_writer.MANY", 1)
    monkeypatch.setattr("ddbench.datasets.pack_writer._write_rows", die)
    with pytest.raises(DatasetError, match=r"a process that was packing ended early; run again(.|\n)*EXIT\(3\)"):
        toy.load(data_paths, 8)
    assert packs(data_paths) == []


def test_packing_processes_find_the_modules_of_their_parent(toy, data_paths, grow, monkeypatch, tmp_path):
    """Wherever the libraries come from: a module before them on the path is taken there too."""
    grow(data_paths.root / "Images", toy.classes, 10)
    monkeypatch.setattr("ddbench.datasets.pack_writer.MANY", 1)
    (tmp_path / "extra/tqdm").mkdir(parents=True)
    (tmp_path / "extra/tqdm/__init__.py").write_text(f"open({str(tmp_path / 'seen')!r}, 'w')\nraise SystemExit(7)")
    monkeypatch.syspath_prepend(tmp_path / "extra")
    with pytest.raises(DatasetError, match="ended early"):
        toy.load(data_paths, 8)
    assert (tmp_path / "seen").exists()


def test_a_disk_that_fills_up_leaves_no_pack(toy, data_paths, grow, monkeypatch):
    grow(data_paths.root / "Images", toy.classes, 10)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ddbench.datasets.pack.os.pwrite", full)
    with pytest.raises(OSError, match=r"No space left on device: .*images\.u8"):
        toy.load(data_paths, 8)
    assert packs(data_paths) == []
    assert not list(data_paths.shared.rglob("images.u8"))


def test_transparent_palettes_do_not_warn(tmp_path, picture):
    image = picture("palette", 16, 16).convert("P")
    image.save(tmp_path / "image.png", transparency=bytes(range(256)))
    assert np.array_equal(np.asarray(read_rgb(tmp_path / "image.png")[0]), np.asarray(image.convert("RGB")))


def test_unreadable_images_are_counted_and_named(toy, data_paths, grow):
    tree = grow(data_paths.root / "Images", toy.classes, 10)
    cut = tree / "beach/beach03.png"
    cut.write_bytes(cut.read_bytes()[:100])
    (tree / "river/river01.png").write_bytes(b"")
    (tree / "river/river02.png").unlink()
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tree / "river/river02.tif")
    for i in range(4):
        (tree / f"forest/forest0{i}.png").write_text("no image")
    with pytest.raises(DatasetError, match=r"7 of 30 images in .* cannot be read") as caught:
        toy.load(data_paths, 8)
    assert "and 1 more" in str(caught.value)
    assert "1 images, such as river/river02.tif: a TIFF of 1 band of float32; read are" in str(caught.value)
    assert packs(data_paths) == []
    assert not list(data_paths.shared.rglob("images.u8"))
    report = toy.verify(data_paths)
    assert not report.ok
    assert {line.split(":")[0] for line in report.unreadable} == {
        "beach/beach03.png", "river/river01.png", *(f"forest/forest0{i}.png" for i in range(4))
    }  # fmt: skip
    assert list(report.unsupported.values()) == [("river/river02.tif",)]


def test_a_damaged_first_image_is_listed_with_the_others(tmp_path, data_paths, grow):
    tree = grow(tmp_path / "tree", ["a", "b"], 4, ".png")
    names = ("a/a00.png", "b/b01.png")
    for name in names:
        (tree / name).write_bytes(b"")
    report = folder_source(tree).verify(data_paths)
    assert [line.partition(":")[0] for line in report.unreadable] == list(names)


def save_tiff(path, values, planar=1, extra=None):
    """Write (h, w, bands) as a baseline TIFF, band after band with planar=2."""
    import struct

    h, w, bands = values.shape
    planes = [values.tobytes()] if planar == 1 else [values[..., i].tobytes() for i in range(bands)]
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags = {256: [w], 257: [h], 258: [8 * values.itemsize] * bands, 259: [1], 262: [2 if bands in (3, 4) else 1]}
    tags |= {273: [0] * len(planes), 277: [bands], 278: [h], 279: [len(plane) for plane in planes], 284: [planar]}
    tags |= {339: [kind] * bands} | ({338: [extra] * (bands - 3)} if extra is not None else {})
    blobs, at = [], 8 + 2 + 12 * len(tags) + 4
    for number in sorted(tags):
        if number == 273:
            continue
        if len(tags[number]) > 1:
            blobs.append((number, struct.pack(f"<{len(tags[number])}I", *tags[number])))
    where = {}
    for number, blob in blobs:
        where[number], at = at, at + len(blob)
    starts = []
    for plane in planes:
        starts.append(at + 4 * len(planes) * (len(planes) > 1))
        at += len(plane)
    tags[273] = starts
    if len(planes) > 1:
        where[273] = starts[0] - 4 * len(planes)
        blobs.append((273, struct.pack(f"<{len(planes)}I", *starts)))
    rows = [struct.pack("<HHI", n, 4, len(tags[n])) + struct.pack("<I", where.get(n, tags[n][0])) for n in sorted(tags)]
    head = b"II*\0" + struct.pack("<IH", 8, len(rows)) + b"".join(rows) + b"\0" * 4
    path.write_bytes(head + b"".join(blob for _, blob in blobs) + b"".join(planes))


REFLECTANCE = np.random.default_rng(0).integers(200, 3000, (8, 8, 13))


@pytest.mark.parametrize(
    ("values", "planar", "said"),
    [
        (REFLECTANCE.astype(np.uint16), 1, "a TIFF of 13 bands of uint16; read are grey or RGB"),
        ((REFLECTANCE[..., :3] / 3000).astype(np.float32), 1, "a TIFF of 3 bands of float32; read are"),
        (REFLECTANCE[..., :4].astype(np.uint8), 2, "a TIFF of 4 bands of uint8, band after band; read are"),
        (REFLECTANCE[..., :1].astype(np.uint16), 1, "16-bit pixels, none of them above 16383"),
        (REFLECTANCE[..., :3].astype(np.uint16), 1, "16-bit pixels, none of them above 16383"),
        (REFLECTANCE[..., :1].astype(np.int16), 1, "16-bit pixels, none of them above 16383"),
    ],
)
def test_other_pixels_are_described_once(tmp_path, data_paths, grow, values, planar, said):
    tree = grow(tmp_path / "tree", ["a", "b"], 4, ".png")
    for name in ("a/x.tif", "a/y.tif", "b/z.tif"):
        save_tiff(tree / name, values, planar, extra=0 if planar == 2 else None)
    with pytest.raises(DatasetError, match="3 of 11 images") as caught:
        folder_source(tree).load(data_paths, 8)
    assert str(caught.value).count(said) == 1
    assert "Replace" not in str(caught.value)
    (reason,) = folder_source(tree).verify(data_paths).unsupported
    assert reason.startswith(said)


def test_bands_that_are_not_read_are_counted(tmp_path, data_paths, grow, caplog):
    tree = grow(tmp_path / "tree", ["a", "b"], 4, ".png")
    four = np.random.default_rng(0).integers(0, 255, (8, 8, 4), dtype=np.uint8)
    save_tiff(tree / "a" / "x.tif", four, extra=0)
    Image.fromarray(four).save(tree / "b" / "y.png")
    four[..., 3] = 255  # says nothing
    Image.fromarray(four).save(tree / "b" / "z.png")
    assert folder_source(tree).verify(data_paths).unread == {BANDS: ("a/x.tif", "b/y.png")}
    folder_source(tree).load(data_paths, 8)
    assert f"{BANDS}: 2 images: a/x.tif, b/y.png" in caplog.text


def test_premultiplied_alpha_is_refused(tmp_path, data_paths, grow):
    """Pillow divides the colours by a band that a TIFF marks so, near infrared too; of 255 it changes nothing."""
    tree = grow(tmp_path / "tree", ["a", "b"], 4, ".png")
    four = np.random.default_rng(0).integers(0, 255, (8, 8, 4), dtype=np.uint8)
    save_tiff(tree / "a" / "x.tif", four, extra=1)
    (reason,) = folder_source(tree).verify(data_paths).unsupported
    assert reason.startswith("a TIFF whose last band is marked as alpha")
    four[..., 3] = 255
    save_tiff(tree / "a" / "x.tif", four, extra=1)
    assert np.array_equal(rows(folder_source(tree).load(data_paths, 8))["a/x.tif"], four[..., :3])


def test_a_png_with_a_wrong_checksum_is_refused(tmp_path, picture):
    """Its pixels are stored as they are, so that Pillow decodes the changed one without a word."""
    path = tmp_path / "image.png"
    picture("noise", 8, 8).save(path, compress_level=0)
    whole = path.read_bytes()
    start = whole.index(b"IDAT") + 4 + 2 + 5  # of the data: headers of zlib and of its block
    path.write_bytes(whole[: start + 30] + bytes([whole[start + 30] ^ 1]) + whole[start + 31 :])
    with pytest.raises(UnreadableImageError, match="broken PNG file"):
        read_rgb(path)


def test_a_pipe_in_the_place_of_an_image_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "image.png")
    with pytest.raises(UnreadableImageError, match="a pipe or a device"):
        read_rgb(tmp_path / "image.png")


def test_a_damaged_first_class_is_listed_file_by_file(tmp_path, data_paths, grow):
    tree = grow(tmp_path / "tree", ["a"], 110)
    grow(tree, ["b"], 4)
    for path in (tree / "a").iterdir():
        path.write_bytes(b"")
    report = folder_source(tree).verify(data_paths)
    assert len(report.unreadable) == 110
    assert report.unreadable[0] == "a/a00.png: it is empty"


def test_a_folder_above_the_classes_is_told_where_they_may_be(tmp_path, grow):
    grow(tmp_path / "tree/data", ["a", "b"], 2)
    with pytest.raises(DatasetError, match=r"tree has 1\. Its folder data has several: name that one"):
        folder_source(tmp_path / "tree")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "it is a pointer of git-lfs"),
        (b"<html>", "it begins like no image of a known format"),
    ],
)
def test_files_that_are_no_images_are_described(tmp_path, data_paths, grow, content, reason):
    tree = grow(tmp_path / "tree", ["a", "b"], 2)
    (tree / "a/a01.png").write_bytes(content)
    (line,) = folder_source(tree).verify(data_paths).unreadable
    assert line.startswith(f"a/a01.png: {reason}")


def test_whatever_is_not_read_is_listed_and_said_once(tmp_path, data_paths, grow, caplog):
    tree = grow(tmp_path / "tree", ["a", "b"], 4, ".png")
    for name in ("a/x1.j2k", "a/Thumbs.db", "b/.DS_Store", "readme.txt", "a/.checkpoints/a00.png", "__MACOSX/a/a.png"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(b"x")
    (tree / "a/lost").symlink_to(tree / "nowhere")
    (tree / "a/loop").symlink_to("loop")
    ignored = {
        "a/x1.j2k", "a/Thumbs.db", "b/.DS_Store", "readme.txt", "a/.checkpoints/a00.png", "__MACOSX/a/a.png", "a/lost",
        "a/loop",
    }  # fmt: skip
    assert set(folder_source(tree).verify(data_paths).ignored) == ignored
    for _ in range(2):
        folder_source(tree).load(data_paths, 8)
    assert caplog.text.count("files that are not read") == 1
    assert "1 files of .j2k, such as a/x1.j2k" in caplog.text
    for target in (tree / "nowhere", "c"):
        (tree / "c").symlink_to(target)
        with pytest.raises(DatasetError, match=rf"c is a link to {target}, which leads nowhere"):
            folder_source(tree)
        (tree / "c").unlink()


def test_what_lies_beside_the_sides_is_listed(tmp_path, data_paths, grow):
    for side in ("train", "test", "val"):
        grow(tmp_path / "tree" / side, ["a", "b"], 2, ".png")
    ignored = folder_source(tmp_path / "tree").verify(data_paths).ignored
    assert ignored == ("val/a/a00.png", "val/a/a01.png", "val/b/b00.png", "val/b/b01.png")


@pytest.mark.parametrize("called", ["val", "Valid", "VALIDATION"])
def test_the_third_side_is_taken_when_asked_for(tmp_path, data_paths, grow, called):
    for side, count in (("train", 3), ("test", 2), (called, 4)):
        grow(tmp_path / "tree" / side, ["a", "b"], count, ".png")
    source = find_dataset(f"folder:{tmp_path / 'tree'}@val")
    split = source.describe(data_paths)
    assert [len(names) for names in (*split.train, *split.test)] == [3, 3, 4, 4]
    assert split.rule == f"train/{called} folders"
    assert split.fingerprint != find_dataset(f"folder:{tmp_path / 'tree'}").describe(data_paths).fingerprint
    for side in ("train", "test"):
        grow(tmp_path / "two" / side, ["a", "b"], 2, ".png")
    with pytest.raises(DatasetError, match="has no folder val, but train, test"):
        find_dataset(f"folder:{tmp_path / 'two'}@val")


@pytest.mark.parametrize("name", [b"caf\xe9", b"a/im\xff.png"])
def test_names_that_are_no_utf8_are_refused(tmp_path, data_paths, grow, name):
    import os

    tree = grow(tmp_path / "tree", ["a", "b"], 3, ".png")
    path = os.path.join(os.fsencode(tree), name)
    os.mkdir(path) if b"." not in name else os.link(tree / "a" / "a00.png", path)
    with pytest.raises(DatasetError, match="has a name that is not UTF-8"):
        folder_source(tree).describe(data_paths)


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_truncated_files_are_errors(tmp_path, data_paths, grow, suffix):
    tree = grow(tmp_path / "tree", ["a", "b"], 3, suffix, side=64)
    victim = tree / f"b/b01{suffix}"
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    with pytest.raises(DatasetError, match=f"1 of 6 images .*\n.*b/b01{suffix}"):
        folder_source(tree).load(data_paths, 64)


def test_errors_in_the_data_come_before_any_file_is_written(toy, data_paths, grow):
    grow(data_paths.root / "Images", toy.classes, 9)
    with pytest.raises(DatasetError, match="Wrong counts"):
        toy.load(data_paths, 8)
    assert not data_paths.shared.exists()


def test_verify_counts_sizes(toy, data_paths, grow, picture):
    tree = grow(data_paths.root / "Images", toy.classes, 10)
    picture("odd", 9, 7).save(tree / "beach/beach05.png")
    report = toy.verify(data_paths)
    assert report.ok
    assert report.counts == {"river": 10, "beach": 10, "forest": 10}
    assert report.sizes == {(8, 8): 29, (9, 7): 1}


def test_a_second_load_does_not_pack_again(toy, data_paths, grow):
    grow(data_paths.root / "Images", toy.classes, 10)
    toy.load(data_paths, 8)
    (pack,) = packs(data_paths)
    stamp = (pack / "images.u8").stat().st_mtime_ns
    toy.load(data_paths, 8)
    assert packs(data_paths) == [pack]
    assert (pack / "images.u8").stat().st_mtime_ns == stamp


def test_what_decides_the_pixels_decides_the_pack(toy, data_paths, grow, picture):
    tree = grow(data_paths.root / "Images", toy.classes, 10)
    toy.load(data_paths, 8)
    toy.load(data_paths, 4)
    replace(toy, train_fraction=0.8).load(data_paths, 8)
    picture("another", 9, 9).save(tree / "beach/beach05.png")
    toy.load(data_paths, 8)
    assert len(packs(data_paths)) == 4


def test_writing_to_a_tensor_does_not_reach_the_disk(toy, data_paths, grow):
    grow(data_paths.root / "Images", toy.classes, 10)
    dataset = toy.load(data_paths, 8)
    before = dataset.train.images.clone()
    dataset.train.images.zero_()
    dataset.test.images.fill_(255)
    assert torch.equal(toy.load(data_paths, 8).train.images, before)
    (pack,) = packs(data_paths)
    assert json.loads((pack / "index.json").read_text())["sha256"] == sha256_of(pack / "images.u8")


def test_a_pack_that_somebody_cut_is_refused(toy, data_paths, grow):
    grow(data_paths.root / "Images", toy.classes, 10)
    toy.load(data_paths, 8)
    (pack,) = packs(data_paths)
    os.truncate(pack / "images.u8", 1000)
    with pytest.raises(DatasetError, match="has 1000 bytes, not 5760"):
        toy.load(data_paths, 8)


def test_a_pack_without_its_index_is_told(toy, data_paths, grow):
    grow(data_paths.root / "Images", toy.classes, 10)
    toy.load(data_paths, 8)
    (packs(data_paths)[0] / "index.json").unlink()
    with pytest.raises(DatasetError, match=r"is not a pack .*: delete it, then repeat the command"):
        toy.load(data_paths, 8)


def test_a_folders_bytes_are_read_once(data_paths, grow, tmp_path, monkeypatch):
    source = folder_source(grow(tmp_path / "tree", ["a", "b"], 4))
    split = source.load(data_paths, 8).fingerprint
    with monkeypatch.context() as blind:
        blind.setattr("ddbench.datasets.splits.Path.read_bytes", lambda path: pytest.fail(f"{path} was read again"))
        assert source.describe(data_paths).fingerprint == split
    (tmp_path / "tree/a/a00.png").write_bytes((tmp_path / "tree/b/b00.png").read_bytes())
    assert source.describe(data_paths).fingerprint != split


def test_a_leftover_partial_pack_is_not_taken(toy, data_paths, grow):
    grow(data_paths.root / "Images", toy.classes, 10)
    good = toy.load(data_paths, 8).train.images.clone()
    (pack,) = packs(data_paths)
    partial = pack.with_name(f".{pack.name}.partial")
    pack.rename(partial)
    (partial / "images.u8").write_bytes(bytes(5760))
    again = toy.load(data_paths, 8)
    assert torch.equal(again.train.images, good)
    assert again.train.images.any()
    assert packs(data_paths) == [pack]
    assert not partial.exists()


@pytest.fixture
def slow_tree(tmp_path, picture):
    """300 links to two large images: a good half second of packing."""
    for i, name in enumerate(("a", "b")):
        (tmp_path / "tree" / name).mkdir(parents=True)
        picture(name, 400, 400).save(tmp_path / f"{name}.jpg", quality=90 + i)
        for k in range(150):
            os.link(tmp_path / f"{name}.jpg", tmp_path / "tree" / name / f"{k:03d}.jpg")
    return tmp_path / "tree"


def start(tree, shared, first=""):
    command = [sys.executable, "-c", first + PACK, str(tree), str(shared)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def written(path):
    """Whether any of a file that was made with holes is there."""
    return path.stat().st_blocks > 0


@pytest.mark.parametrize("first", ["", pytest.param(PROCESSES, marks=pytest.mark.slow)], ids=["threads", "processes"])
def test_killed_half_way_and_run_again(slow_tree, tmp_path, first):
    data_paths = DataPaths(None, tmp_path / "shared", quiet=True)
    process = start(slow_tree, data_paths.shared, first)
    deadline = time.monotonic() + 60
    while not any(written(path) for path in data_paths.shared.glob(".packed-*.partial/images.u8")):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.communicate(timeout=15)  # its output ends with the last of its processes
    assert list(data_paths.shared.glob(".packed-*.partial")), "it was to be killed while packing"
    assert packs(data_paths) == []
    again = folder_source(slow_tree).load(data_paths, 64)
    fresh = folder_source(slow_tree).load(DataPaths(None, tmp_path / "other", quiet=True), 64)
    assert torch.equal(again.train.images, fresh.train.images)
    assert torch.equal(again.test.images, fresh.test.images)
    assert all(image.any() for image in again.train.images)


@pytest.mark.slow
def test_two_processes_pack_once(slow_tree, tmp_path):
    both = [start(slow_tree, tmp_path / "shared") for _ in range(2)]
    outcomes = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], outcomes
    assert outcomes[0][0] == outcomes[1][0]
    assert sum(stderr.count("packed 300 images") for _, stderr in outcomes) == 1
