"""CIFAR-10 in the folders of its two sides."""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import replace

import numpy as np
import pytest

from ddbench.datasets.calibration.cifar10 import BATCHES, CIFAR10
from ddbench.datasets.download import fetch
from ddbench.datasets.info import DatasetError


@pytest.mark.parametrize("folder", CIFAR10.folders)
def test_it_is_found_and_split_as_published(folder, data_paths, grow):
    few = replace(CIFAR10, counts=6)
    grow(data_paths.root / folder / "train", CIFAR10.classes, 5, side=32)
    grow(data_paths.root / folder / "test", CIFAR10.classes, 1, side=32)
    data = few.load(data_paths, 32)
    assert (data.train.counts(), data.test.counts()) == ((5,) * 10, (1,) * 10)
    assert data.train.names[0] == "airplane/train/airplane00.png"


def test_an_incomplete_copy_is_refused(data_paths, grow):
    grow(data_paths.root / "cifar10/train", CIFAR10.classes, 5, side=32)
    grow(data_paths.root / "cifar10/test", CIFAR10.classes, 1, side=32)
    with pytest.raises(DatasetError, match="cifar10 has 60000 images"):
        CIFAR10.describe(data_paths)


def write_batches(path, per_class=1, cut=0):
    """An archive of the official layout: every batch has `per_class` images of each class; returns its pixels."""
    rng = np.random.default_rng(0)
    pixels = {}
    with tarfile.open(path, "w:gz") as tar:
        for name in [*BATCHES, "readme.html"]:
            images = rng.integers(0, 256, (10 * per_class, 3, 32, 32), dtype=np.uint8)
            labels = np.arange(10, dtype=np.uint8).repeat(per_class)
            data = b"".join(bytes([y]) + x.tobytes() for y, x in zip(labels, images, strict=True))
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            data = data[cut:] if name == "data_batch_3.bin" else data
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
            pixels[name] = images
    return pixels


def test_the_official_archive_is_downloaded_checked_and_read_to_the_pixel(data_paths, served):
    pixels = write_batches(served.folder / "cifar.tar.gz")
    md5 = hashlib.md5((served.folder / "cifar.tar.gz").read_bytes()).hexdigest()
    few = replace(CIFAR10, counts=6, address=f"{served.address}/cifar.tar.gz", checksum=f"MD5 {md5}")
    fetch(few, data_paths)
    data = few.load(data_paths, 32)
    assert (data.train.counts(), data.test.counts()) == ((5,) * 10, (1,) * 10)
    for i, name in enumerate(data.train.names):
        batch = name.split("/")[2].removesuffix("_00000.png")[:12]
        assert (data.train.images[i].numpy() == pixels[f"{batch}.bin"][data.train.labels[i]]).all()
    assert (data.test.images.numpy() == pixels["test_batch.bin"]).all()


def test_an_archive_of_image_files_is_taken_too(data_paths, grow, tmp_path):
    grow(tmp_path / "copy/cifar10/train", CIFAR10.classes, 5, side=32)
    grow(tmp_path / "copy/cifar10/test", CIFAR10.classes, 1, side=32)
    with tarfile.open(tmp_path / "copy.tar", "w") as tar:
        tar.add(tmp_path / "copy/cifar10", "cifar10")
    few = replace(CIFAR10, counts=6)
    fetch(few, data_paths, tmp_path / "copy.tar")
    assert few.load(data_paths, 32).train.counts() == (5,) * 10


def test_a_damaged_batch_is_refused_and_nothing_is_kept(data_paths, tmp_path):
    write_batches(tmp_path / "cut.tar.gz", cut=7)
    with pytest.raises(DatasetError, match=r"data_batch_3\.bin is not a batch of CIFAR-10"):
        fetch(replace(CIFAR10, counts=6), data_paths, tmp_path / "cut.tar.gz")
    assert not (data_paths.root / "cifar10").exists()
