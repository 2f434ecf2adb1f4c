"""CIFAR-10 in the folders of its two sides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ddbench.datasets.calibration.cifar10 import CIFAR10
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
