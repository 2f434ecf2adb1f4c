"""The procedural scenes: the same picture whenever and at whatever size, another one for every label and index."""

import re
import subprocess
import sys

import numpy as np
import pytest

from ddbench.datasets.scenes.brushes import box, steps
from ddbench.datasets.scenes.painter import BASE_START, CLASSES, READABLE, TEST_START, TRAIN_START, scene

LABELS = range(len(CLASSES))


def halved(picture):
    """Mean over 2 x 2 pixels, float."""
    n = len(picture) // 2
    return picture.reshape(n, 2, n, 2, 3).astype(float).mean((1, 3))


def correlation(one, other):
    """Of two pictures' pixel values, -1..1."""
    return np.corrcoef(one.ravel().astype(float), other.ravel().astype(float))[0, 1]


def test_names():
    assert len(CLASSES) == len(READABLE) == 10
    assert list(CLASSES) == sorted(set(CLASSES)), "label order is the order of sorted folder names"
    assert all(re.fullmatch(r"[a-z_]+", name) for name in CLASSES)
    assert len(set(READABLE)) == 10
    assert not any("_" in name for name in READABLE)


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("size", [32, 33, 64])
def test_form(label, size):
    picture = scene(label, 3, size)
    assert picture.dtype == np.uint8
    assert picture.shape == (size, size, 3)
    assert picture.flags.c_contiguous
    assert picture.std() > 4, "not one flat colour"


@pytest.mark.parametrize("label", LABELS)
def test_same_again_whatever_was_drawn_between(label):
    first = scene(label, 11, 64)
    np.random.seed(0)
    scene((label + 1) % 10, 12, 48)
    assert np.array_equal(first, scene(label, 11, 64))


def test_same_in_another_process():
    code = "import sys; from ddbench.datasets.scenes.painter import scene; "
    code += "sys.stdout.buffer.write(scene(4, 9, 64).tobytes())"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert there == scene(4, 9, 64).tobytes()


@pytest.mark.parametrize("label", LABELS)
def test_one_scene_at_two_sizes(label):
    for index in range(6):
        small, large = scene(label, index, 64).astype(float), halved(scene(label, index, 128))
        # noise of up to 0.02 of the range at 64 px, half of that after averaging, and edges drawn with finer pixels
        assert np.abs(small - large).mean() < 8
        assert abs(small.mean() - large.mean()) < 1.5
        strangers = scene(label, index + 100, 64)
        assert np.abs(small - large).mean() < 0.5 * np.abs(small - strangers).mean()


@pytest.mark.parametrize("label", LABELS)
def test_every_index_is_another_picture(label):
    indices = [start + k for start in (TRAIN_START, TEST_START, BASE_START) for k in (0, 1, 99)]
    pictures = [scene(label, index, 32) for index in indices]
    for i, one in enumerate(pictures):
        for other in pictures[:i]:
            assert np.abs(one.astype(float) - other).mean() > 4


def test_ranges_are_disjoint():
    assert TRAIN_START == 0 < TEST_START < BASE_START
    assert TEST_START - TRAIN_START >= 1_000_000
    assert BASE_START - TEST_START >= 1_000_000


def test_same_index_of_two_classes_shares_nothing():
    pictures = [scene(label, 7, 64) for label in LABELS]
    for i, one in enumerate(pictures):
        assert all(abs(correlation(one, other)) < 0.75 for other in pictures[:i])


def test_classes_differ_in_known_ways():
    """Forests are darker and greener than tank farms; housing has more edges than beaches."""
    forest, tanks, housing, beach = (
        np.stack([scene(CLASSES.index(name), k, 32) for k in range(24)]).astype(float)
        for name in ("forest", "storage_tanks", "dense_housing", "beach")
    )
    green = [(p[..., 1] - p[..., 0]).mean() for p in (forest, tanks)]
    edges = [np.abs(np.diff(p, axis=2)).mean() for p in (housing, beach)]
    assert forest.mean() < tanks.mean() - 10
    assert green[0] > green[1] + 5
    assert edges[0] > 1.5 * edges[1]


@pytest.mark.parametrize("arguments", [(-1, 0, 64), (10, 0, 64), (0, -1, 64), (0, 0, 0)])
def test_off_the_map(arguments):
    with pytest.raises(ValueError, match=r"label must be 0\.\.9, index 0 or more, size 1 or more"):
        scene(*arguments)


def test_steps_with_gaps():
    """Two steps of 1, a gap of 0.5: the third step starts at 2.5."""
    number, offset = steps(np.array([0.25, 1.5, 2.2, 2.75, -0.25], np.float32), 1.0, 2, 0.5)
    assert number.tolist() == [0, 1, 1, 2, -1]
    assert offset == pytest.approx([-0.25, 0.0, 0.7, -0.25, 0.75], abs=1e-6)


def test_box_is_a_signed_distance():
    assert box(np.float32(3), np.float32(0), 2, 1) == 1
    assert box(np.float32(0), np.float32(0), 2, 1) == -1
