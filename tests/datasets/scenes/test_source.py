"""`scenes` as a dataset: the drawn pictures, packed like any other."""

from __future__ import annotations

import os

import numpy as np
import pytest

from ddbench.datasets.scenes import painter
from ddbench.datasets.scenes.source import SCENES, Scenes


def test_every_picture_is_the_drawing(data_paths):
    dataset = Scenes(per_class_train=3, per_class_test=2).load(data_paths, 16)
    for side, start, count in ((dataset.train, painter.TRAIN_START, 3), (dataset.test, painter.TEST_START, 2)):
        expected = [(label, start + i) for label in range(len(painter.CLASSES)) for i in range(count)]
        assert side.labels.tolist() == [label for label, _ in expected]
        assert side.names == tuple(f"{painter.CLASSES[label]}/{index}" for label, index in expected)
        for image, (label, index) in zip(side.images, expected, strict=True):
            assert np.array_equal(image.permute(1, 2, 0).numpy(), painter.scene(label, index, 16))
        assert side.readable == painter.READABLE


def test_the_default_is_1500_pictures(data_paths):
    split = SCENES.describe(data_paths)
    assert [len(names) for names in split.train] == [100] * 10
    assert [len(names) for names in split.test] == [50] * 10
    assert not data_paths.shared.exists()
    other = Scenes(per_class_train=101).describe(data_paths)
    assert split.fingerprint != other.fingerprint


def test_scenes_for_a_base_model_are_others(data_paths):
    alone = Scenes(2, 0, painter.BASE_START).load(data_paths, 16)
    assert len(alone.test.images) == 0
    assert alone.train.names[:2] == (f"beach/{painter.BASE_START}", f"beach/{painter.BASE_START + 1}")
    assert np.array_equal(alone.train.images[1].permute(1, 2, 0), painter.scene(0, painter.BASE_START + 1, 16))


def test_verify_notices_a_changed_pack(data_paths):
    few = Scenes(per_class_train=2, per_class_test=1)
    assert few.verify(data_paths).ok
    (raw,) = data_paths.shared.glob("packed-scenes64-*/images.u8")
    pixels = bytearray(raw.read_bytes())
    pixels[1000] ^= 1
    raw.write_bytes(pixels)
    assert few.verify(data_paths).unreadable == ("images.u8: changed since it was drawn",)


def die(*_, **__):
    os._exit(3)


def test_a_worker_that_fails_is_an_error(data_paths, monkeypatch):
    monkeypatch.setattr("ddbench.datasets.scenes.source._draw_rows", die)
    with pytest.raises(RuntimeError, match=r"a process that was drawing ended early; run again(.|\n)*EXIT\(3\)"):
        Scenes(per_class_train=2, per_class_test=1).load(data_paths, 8)
    assert not list(data_paths.shared.glob("packed-*"))
