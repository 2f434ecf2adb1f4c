"""Whole inputs of each kind that ddbench reads, and seeded ways to damage them. See malformed.py."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
import re
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save

from ddbench.methods.latent_diffusion.model_files import EMBEDDED
from ddbench.store.distilled_set import Pictures
from ddbench.store.records import Result, RunSpec
from evaluators.protocols import QUICK_1

SIDE = 32  # px
CLASSES = ("beach", "forest", "river")
PER_CLASS = 4
FORMATS = {
    ".avif": {}, ".bmp": {}, ".gif": {}, ".jfif": {"format": "JPEG"}, ".jp2": {}, ".jpe": {"quality": 90}, ".jpeg": {},
    ".jpg": {"progressive": True}, ".pgm": {}, ".png": {}, ".pnm": {"format": "PPM"}, ".ppm": {}, ".tif": {},
    ".tiff": {"compression": "tiff_adobe_deflate"}, ".webp": {"lossless": True},
}  # fmt: skip
EXTREMES = (0, 1, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
PAGE = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head></html>\n"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3463726500\n"
WORDS = (b"nan", b"-1", b"1e999", b'""', b"[]", b"{}", b"null", b"true", b"\x00", b'"\\u0000"',
         b'"folder:~x/y"', b"\xff\xfe", b"../../x", b"9" * 5000,
         b"[" * 3000, b'{"a":' * 600, b"\\ud800", "\u202e\u6d77".encode(), b"18446744073709551616")  # fmt: skip


def picture(label: int, index: int) -> np.ndarray:
    """Draw a picture, uint8 (SIDE, SIDE, 3): a colour for each class, and noise."""
    noise = np.random.default_rng(100 * label + index).normal(0, 20, (SIDE, SIDE, 3))
    return np.clip(np.array([70 * label, 60 + 50 * label, 200 - 60 * label]) + noise, 0, 255).astype(np.uint8)


def encode(pixels: np.ndarray, suffix: str = ".png", mode: str = "", **options: object) -> bytes:
    """Return a file of an image."""
    image, out = Image.fromarray(pixels), io.BytesIO()
    options = {"format": Image.registered_extensions().get(suffix, "PPM")} | options
    (image.convert(mode) if mode else image).save(out, **options)
    return out.getvalue()


def image_files() -> dict[str, bytes]:
    """Return an image of every suffix that is read, and of other kinds of pixels and compression."""
    pixels = picture(0, 9)
    deep = np.random.default_rng(0).integers(0, 1 << 16, (SIDE, SIDE), np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {f"every{suffix}": encode(pixels, suffix, "L" if suffix == ".pgm" else "", **options)
             for suffix, options in FORMATS.items()}  # fmt: skip
    return files | {
        "palette.png": encode(pixels, ".png", "P"),
        "alpha.png": encode(pixels, ".png", "RGBA"),
        "deep.png": encode(deep, ".png"),
        "turned.jpg": encode(pixels, ".jpg", exif=exif),
        "cmyk.jpg": encode(pixels, ".jpg", "CMYK"),
        "lossy.webp": encode(pixels, ".webp"),
        "packbits.tif": encode(pixels, ".tif", compression="packbits"),
        "lzw.tif": encode(pixels, ".tif", compression="tiff_lzw"),
        "deep.tif": encode(deep, ".tif"),
        "several.tif": encode(pixels, ".tif", save_all=True, append_images=[Image.fromarray(picture(1, 9))]),
        "several.gif": encode(pixels, ".gif", save_all=True, append_images=[Image.fromarray(picture(1, 9))]),
    }


def archives() -> dict[str, bytes]:
    """Return the same tree of class folders in a ZIP and TAR files of each compression."""
    members = {f"Toy/Images/{name}/{name}{index}.png": encode(picture(label, index))
               for label, name in enumerate(CLASSES) for index in range(PER_CLASS)}  # fmt: skip
    plain, packed = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    raw = plain.getvalue()
    return {"toy.zip": packed.getvalue(), "toy.tar": raw, "toy.tar.gz": gzip.compress(raw, mtime=0),
            "toy.tar.bz2": bz2.compress(raw), "toy.tar.xz": lzma.compress(raw)}  # fmt: skip


def toml_files() -> dict[str, bytes]:
    """Return a plan, a protocol, settings, numbers of papers, and numbers of classes."""
    return {
        "plan.toml": b'datasets = ["scenes"]\nipcs = [1, 10]\nsizes = [32]\nseeds = 3\nstudents = '
        b'["convnet"]\nprotocols = ["quick@1"]\nmethods = ["random", {method = "dm", preset = "tiny", '
        b'set = ["rate=0.1"], ipcs = [1]}]\n',
        "protocol.toml": b'like = "quick@1"\ninit = "scratch"\nteacher = ["resnet18", "quick@1"]\nlabels = "own"\n'
        b"[recipes.convnet]\nepochs = 3\nmax_steps = 500\nlr = 0.01\n[recipes.convnet.augment]\ncutmix = 0.5\n",
        "settings.toml": b"iterations = 10\nrate = 0.5\nbatch = 8\n",
        "reported.toml": b'[[reported]]\nmethod = "DM"\nsource = "paper, table 1"\ndataset = "ucm"\nipc = 10\n'
        b"percent = 60.5\nstd = 0.3\n",
        "classes.toml": b"beach = 12\nforest = 100\nriver = 999\n",
    }


def distilled() -> Pictures:
    """Return two images of each class."""
    images = np.stack([picture(label, index) for label in range(len(CLASSES)) for index in range(2)])
    return Pictures(images, np.arange(len(CLASSES)).repeat(2), CLASSES)


def spec_and_result() -> tuple[RunSpec, Result]:
    """Return a run and the result of a student."""
    spec = RunSpec("random", 1, None, {"steps": 3, "rates": [0.1]}, "ucm", "50/50 of each class", "f" * 64, 32, 10, 0)
    shares, confusion = dict.fromkeys(CLASSES, 0.5), [[2, 1, 1], [1, 2, 1], [1, 1, 2]]
    result = Result(
        spec.digest, distilled().content(), "convnet", "scratch", 0, QUICK_1.name, 1, "a" * 64, 0.5, 0.5, shares,
        confusion, 12, 1.5, 1 << 20, "cpu (1 threads)", {"ddbench": "0.1.0", "evaluators": "1"}, None, None,
        kappa=0.25, precision="fp32",
    )  # fmt: skip
    return spec, result


def split_files() -> dict[str, bytes]:
    """Return a list of files by side."""
    rows = [f"{name}/{name}{index}.png,{'test' if index % 2 else 'train'}"
            for name in CLASSES for index in range(PER_CLASS)]  # fmt: skip
    return {"mine.csv": "\n".join(["file,split", *rows, ""]).encode()}


def tensor_files() -> dict[str, bytes]:
    """Return what a distilled folder may hold beside its images, of two images of each class."""
    n, floats = 2 * len(CLASSES), np.random.default_rng(0).random((2 * len(CLASSES), 3, SIDE, SIDE), np.float32)
    soft = np.full((n, len(CLASSES)), 0.1, np.float32)
    soft[np.arange(n), np.arange(n) // 2] = 0.8
    names = {"classes": json.dumps(CLASSES), "files": json.dumps([f"{c}/{i}.png" for c in CLASSES for i in range(2)])}
    return {
        "soft_labels.safetensors": save({"soft_labels": soft}, names),
        "float_images.safetensors": save({"float_images": floats}, names),
        "manifest.json": b'{"schema": 1, "learning_rate": 0.02, "classes": ["beach", "forest", "river"]}',
        "forest/0.png": encode(picture(1, 0)),
    }


def model_files() -> dict[str, bytes]:
    """Return the files of the embedded base model that are read, by their path in its folder."""
    folder = EMBEDDED["tiny"]
    return {path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.glob("*/*")) if path.suffix in {".json", ".safetensors"}}  # fmt: skip


def damage(data: bytes, numbers: random.Random, others: list[bytes]) -> bytes:
    """Return the file with one or two changes of a random kind."""
    for _ in range(numbers.choice((1, 1, 2))):
        data = numbers.choice(DAMAGES)(data, numbers, others)
    return data


def flip(data: bytes, numbers: random.Random, _: list[bytes]) -> bytes:
    """Flip one to eight bits."""
    changed = bytearray(data or b"\0")
    for _ in range(numbers.randint(1, 8)):
        changed[place(numbers, len(changed))] ^= 1 << numbers.randrange(8)
    return bytes(changed)


def nudge(data: bytes, numbers: random.Random, _: list[bytes]) -> bytes:
    """Replace one digit by another, so that a text stays readable; in other files a bit."""
    places = [match.start() for match in re.finditer(rb"\d", data[:100_000])]
    if not places or len(places) < len(data) // 50:
        return flip(data, numbers, [])
    start = numbers.choice(places)
    return data[:start] + str(numbers.randrange(10)).encode() + data[start + 1 :]


def cut(data: bytes, numbers: random.Random, _: list[bytes]) -> bytes:
    """Keep the beginning; sometimes nothing."""
    return data[: numbers.choice((0, numbers.randint(0, len(data)), len(data) - 1))]


def set_number(data: bytes, numbers: random.Random, _: list[bytes]) -> bytes:
    """Overwrite two, four or eight bytes by an extreme number: sizes and offsets of headers."""
    kind = numbers.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
    value = numbers.choice(EXTREMES) & ((1 << 8 * struct.calcsize(kind)) - 1)
    start = place(numbers, len(data))
    return data[:start] + struct.pack(kind, value) + data[start + struct.calcsize(kind) :]


def remove(data: bytes, numbers: random.Random, _: list[bytes]) -> bytes:
    """Leave out a piece."""
    start = place(numbers, len(data))
    return data[:start] + data[start + numbers.randint(1, 1 + len(data) // 8) :]


def repeat(data: bytes, numbers: random.Random, _: list[bytes]) -> bytes:
    """Repeat a piece."""
    start = place(numbers, len(data))
    stop = start + numbers.randint(1, 1 + len(data) // 8)
    return data[:stop] + data[start:]


def insert(data: bytes, numbers: random.Random, _: list[bytes]) -> bytes:
    """Insert random bytes, or text that programs stumble over."""
    start = place(numbers, len(data))
    return data[:start] + numbers.choice((*WORDS, numbers.randbytes(8))) + data[start:]


def swap_word(data: bytes, numbers: random.Random, _: list[bytes]) -> bytes:
    """Replace one number or quoted text of a text file by another value; of other files a piece."""
    places = [match.span() for match in re.finditer(rb'"[^"\n]*"|-?\d[\d.e+-]*|true|false|null', data[:100_000])]
    start, stop = numbers.choice(places) if places else (0, min(8, len(data)))
    return data[:start] + numbers.choice(WORDS) + data[stop:]


def replace_file(data: bytes, numbers: random.Random, others: list[bytes]) -> bytes:
    """Put another file in its place: of another kind, an error page, a pointer of git-lfs, zeros."""
    return numbers.choice((PAGE, POINTER, bytes(len(data)), numbers.choice(others), data + numbers.choice(others)))


def place(numbers: random.Random, length: int) -> int:
    """Draw a position, half of the time within the first 128 bytes."""
    return numbers.randrange(max(1, numbers.choice((min(128, length), length))))


DAMAGES = (flip, nudge, nudge, cut, set_number, set_number, remove, repeat, insert, swap_word, replace_file)


def write_tree(folder: Path, classes: tuple[str, ...] = CLASSES, count: int = PER_CLASS) -> Path:
    """Write class folders of whole images."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            (folder / name / f"{name}{index}.png").write_bytes(encode(picture(label, index)))
    return folder
