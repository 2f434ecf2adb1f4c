"""Halves of a dataset with relabelled images: what is drawn, and that split and pixels agree."""

from dataclasses import replace

import pytest
import torch
from third_party import write_images

from ddbench.datasets.canaries import CanaryHalf, audited_images
from ddbench.datasets.info import DataPaths
from ddbench.datasets.lookup import find_dataset
from ddbench.errors import UserError

COUNTS = {"barn": 30, "coast": 40, "pond": 50}  # 24, 32 and 40 train
PINNED = "pond/017.png", (1, 0, 0, 2, 0, 1, 1, 1), (1, 3, 5, 7)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A dataset of three classes, where its packs are, and its split."""
    home = tmp_path_factory.mktemp("home")
    source = find_dataset(f"folder:{write_images(home / 'images', COUNTS)}")
    paths = DataPaths(None, home / "shared", True)
    return source, paths, source.describe(paths)


def test_half_of_the_audited_images_get_another_label(whole):
    _, _, split = whole
    images = audited_images(split, 40, 0)
    label_of = {name: label for label, names in enumerate(split.train) for name in names}
    assert len(set(images.names)) == 40
    changed = [label_of[name] != label for name, label in zip(images.names, images.labels, strict=True)]
    assert changed == [True] * 20 + [False] * 20
    assert set(images.labels[:20]) == {0, 1, 2}
    assert audited_images(split, 20, 0).names == images.names[:20]
    assert audited_images(split, 40, 1).names != images.names


def test_draws_are_the_same_on_every_machine(whole):
    source, _, split = whole
    images = audited_images(split, 8, 0)
    assert (images.names[0], images.labels) == PINNED[:2]
    assert CanaryHalf(source, 8, 0, 0).members(images) == PINNED[2]


def test_two_halves_are_all_audited_images(whole):
    source, _, split = whole
    images = audited_images(split, 40, 0)
    members = [CanaryHalf(source, 40, 0, half).members(images) for half in range(4)]
    for first, second in (members[:2], members[2:]):
        assert sorted((*first, *second)) == list(range(40))
        assert sum(row < 20 for row in first) == 10  # half of the canaries
    assert members[0] != members[2]


@pytest.mark.parametrize("number", [0, 3])
def test_split_and_pixels_agree(whole, number):
    source, paths, split = whole
    half = CanaryHalf(source, 40, 0, number)
    data, every, part = half.load(paths, 8), source.load(paths, 8), half.describe(paths)
    images, audited = half.load_audited(paths, 8)
    assert data.train.names == tuple(name for names in part.train for name in names)
    assert data.train.labels.tolist() == [label for label, names in enumerate(part.train) for _ in names]
    rows = [every.train.names.index(name) for name in data.train.names]
    assert torch.equal(data.train.images, every.train.images[rows])
    assert torch.equal(data.test.images, every.test.images)
    members = half.members(images)
    assert set(images.names) & set(data.train.names) == {images.names[row] for row in members}
    assert len(data.train.names) == sum(map(len, split.train)) - 20
    for row in members:
        place = data.train.names.index(images.names[row])
        assert int(data.train.labels[place]) == images.labels[row] == int(audited.labels[row])
        assert torch.equal(data.train.images[place], audited.images[row])
    assert part.fingerprint == data.fingerprint


def test_every_half_is_a_dataset_of_its_own(whole):
    source, paths, split = whole
    halves = [CanaryHalf(source, 40, seed, half) for seed in (0, 1) for half in (0, 1)]
    halves.append(replace(halves[0], audited=36))
    assert len({half.of_split(split).fingerprint for half in halves}) == 5
    assert len({half.name for half in halves}) == 5
    data = [half.load(paths, 8) for half in halves[:2]]
    assert data[0].content != data[1].content
    assert halves[0].name == f"{source.name}[40 audited, seed 0, half 0]"


def test_at_most_half_of_the_images_are_audited(whole):
    _, _, split = whole
    with pytest.raises(UserError, match="52 of 96 training images are too many to audit: at most half, 48"):
        audited_images(split, 52, 0)
