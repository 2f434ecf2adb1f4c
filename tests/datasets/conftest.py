"""Small trees of real image files in a dataset's official layout."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddbench.datasets.facts import Facts, Place


def draw(name: str, width: int, height: int) -> Image.Image:
    """Noise that is the same for the same name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def grow_tree(folder: Path, classes: Sequence[str], count: int, suffix: str = ".png", side: int = 8) -> Path:
    """`count` noise images in each class folder: beach/beach00.png, ..."""
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            draw(f"{name}{i}", side, side).save(folder / name / f"{name}{i:02d}{suffix}")
    return folder


@pytest.fixture
def picture() -> Callable[..., Image.Image]:
    return draw


@pytest.fixture
def grow() -> Callable[..., Path]:
    return grow_tree


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "data", tmp_path / "shared", quiet=True)


@pytest.fixture
def toy() -> Facts:
    """Three classes of ten images, half of them to train; label order is not alphabetical."""
    return Facts(
        name="toy",
        title="Toy Land Use",
        classes=("river", "beach", "forest"),
        readable=("river", "beach", "forest"),
        counts=10,
        pixels=8,
        resolution="1 m",
        licence="public domain",
        homepage="https://example.org/toy",
        citation="nobody",
        folders=("toy/Images", "Images"),
        address="https://example.org/toy.zip",
        checksum="MD5 0123",
        train_fraction=0.5,
    )
