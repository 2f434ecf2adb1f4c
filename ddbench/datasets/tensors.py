"""Packs as tensors: mapped, not read."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ddbench.datasets.info import DatasetError
from ddbench.types import Dataset, ImageSet
from ddbench.utils.files import read_json


def open_pack(folder: Path, name: str, readable: tuple[str, ...]) -> Dataset:
    """The dataset in a pack; both sides' images are views of the mapped file, paged in when touched.

    The map is private: writing to a tensor changes this process's copy, never the file. Raises DatasetError when the
    file does not have the size its index says.
    """
    try:
        index = read_json(folder / "index.json")
    except (OSError, ValueError) as error:
        raise DatasetError(f"{folder} is no pack ({error}): delete it and run again") from None
    images = _map(folder / "images.u8", len(index["names"]), index["size"])
    labels, names, cut = torch.tensor(index["labels"]), tuple(index["names"]), index["train"]
    classes = tuple(index["classes"])
    train = ImageSet(images[:cut], labels[:cut], classes, readable, names[:cut])
    test = ImageSet(images[cut:], labels[cut:], classes, readable, names[cut:])
    return Dataset(name, train, test, index["split"], index["fingerprint"], index["sha256"])


def _map(raw: Path, count: int, size: int) -> Tensor:
    length = count * 3 * size * size
    found = raw.stat().st_size if raw.exists() else 0
    if found != length:
        raise DatasetError(
            f"{raw} has {found} bytes, not {length}: somebody changed it. Delete {raw.parent} and run again."
        )
    return torch.from_file(str(raw), shared=False, size=length, dtype=torch.uint8).view(count, 3, size, size)
