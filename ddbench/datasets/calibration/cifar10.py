"""CIFAR-10: not a benchmark of this suite, but the dataset on which papers published what these methods reach."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ddbench.datasets import archives
from ddbench.datasets.info import DatasetError
from ddbench.datasets.source import ClassFolders
from ddbench.utils.progress import progress_bar

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = {**{f"data_batch_{i}.bin": "train" for i in range(1, 6)}, "test_batch.bin": "test"}
SIDE = 32
RECORD = 1 + 3 * SIDE**2  # bytes: the label, then rows of red, of green, of blue


def unpack_batches(archive: Path, folder: Path, quiet: bool) -> int:
    """Write the images of the official archive ("binary version") as train/CLASS/BATCH_ROW.png and test/...

    Returns their number. Any other archive is unpacked as one of image files (`archives.unpack`). Raises DatasetError
    as that does, and for a damaged batch.
    """
    records: dict[str, bytes] = {}
    with archives.open_archive(archive) as members:
        for member in members:
            if (name := Path(member.name).name) in BATCHES and not member.link:
                with member.open() as file:
                    records[name] = file.read()
    if not records:
        return archives.unpack(archive, folder, quiet)
    count = 0
    for name, data in progress_bar(records.items(), desc=f"unpacking {archive.name}", hidden=quiet):
        rows = np.frombuffer(data, np.uint8)
        if len(rows) % RECORD or rows[::RECORD].max(initial=0) >= len(CLASSES):
            raise DatasetError(f"{archive}: {name} is not a batch of CIFAR-10. Download it again.")
        for i, row in enumerate(rows.reshape(-1, RECORD)):
            path = folder / BATCHES[name] / CLASSES[row[0]] / f"{Path(name).stem}_{i:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(row[1:].reshape(3, SIDE, SIDE).transpose(1, 2, 0)).save(path)
        count += len(rows) // RECORD
    return count


CIFAR10 = ClassFolders(
    name="cifar10",
    title="CIFAR-10",
    classes=CLASSES,
    readable=CLASSES,
    counts=6000,
    pixels=SIDE,
    resolution="none",
    licence="not stated",
    homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
    citation="A. Krizhevsky: Learning multiple layers of features from tiny images. Technical report, Toronto, 2009",
    folders=("cifar10", "CIFAR-10", "cifar-10", "."),
    address="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    checksum="MD5 c32a1d4ab5d03f1284b67883e8d87530",
    unpack=unpack_batches,
    sides=("train", "test"),
)
