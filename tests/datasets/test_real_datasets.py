"""The real files, when DDBENCH_DATA says where they are."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ddbench.datasets.info import DataPaths
from ddbench.datasets.rs.eurosat import EUROSAT
from ddbench.datasets.rs.ucm import UCM

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not os.environ.get("DDBENCH_DATA"), reason="DDBENCH_DATA does not say where the real data lies"),
]


@pytest.fixture
def real(data_paths):
    return replace(data_paths, root=Path(os.environ["DDBENCH_DATA"]))


@pytest.mark.parametrize("source", [UCM, EUROSAT], ids=lambda source: source.name)
def test_every_image_can_be_read(source, real):
    report = source.verify(real)
    assert report.ok, report.unreadable
    assert tuple(report.counts.values()) == source.expected
    assert max(report.sizes, key=report.sizes.get) == (source.pixels, source.pixels)
    odd = sum(report.sizes.values()) - report.sizes[(source.pixels, source.pixels)]
    assert odd == {"ucm": 44, "eurosat": 0}[source.name]


@pytest.mark.parametrize(("source", "train", "test"), [(UCM, 1050, 1050), (EUROSAT, 21600, 5400)])
def test_load(source, train, test, real: DataPaths):
    dataset = source.load(real, 64)
    assert dataset.train.images.shape == (train, 3, 64, 64)
    assert dataset.test.images.shape == (test, 3, 64, 64)
    start = time.process_time()
    source.load(real, 64)
    assert time.process_time() - start < 0.5  # 0.15 s measured; wall time depends on who else computes
