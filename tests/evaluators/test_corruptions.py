"""Corruptions: what each does, that it is the same whatever the batch, and what is counted."""

import io

import numpy as np
import pytest
import scipy.ndimage
import torch
from PIL import Image
from torch import nn

from evaluators.corruptions import LEVELS, accuracies, corrupt


def pictures(n=5, size=32, seed=0):
    rng = np.random.default_rng(seed)
    rough = scipy.ndimage.gaussian_filter(rng.random((n, 3, size, size)), (0, 0, 0.8, 0.8))
    return torch.tensor((255 * (rough - rough.min()) / np.ptp(rough)).astype(np.uint8))


CONDITIONS = [(name, level) for name in LEVELS for level in range(3)]


@pytest.mark.parametrize(("name", "level"), CONDITIONS)
def test_every_condition_is_the_same_whatever_the_batch(name, level):
    images = pictures()
    whole = corrupt(images, name, level)
    parts = [corrupt(images[:2], name, level), corrupt(images[2:], name, level, first=2)]
    assert torch.equal(whole, torch.cat(parts))
    assert torch.equal(whole, corrupt(images, name, level))
    assert whole.dtype == torch.uint8
    assert whole.shape == images.shape
    assert not torch.equal(whole, images)
    assert torch.equal(images, pictures())


@pytest.mark.parametrize("name", [name for name in LEVELS if name != "rotation"])
def test_a_higher_level_is_farther_from_the_image(name):
    images = pictures().float()
    away = [float((corrupt(pictures(), name, level).float() - images).square().mean()) for level in range(3)]
    assert away[0] < away[1] < away[2]


@pytest.mark.parametrize("name", ["noise", "cloud"])
def test_random_conditions_are_drawn_for_each_image(name):
    same = pictures(1).expand(3, -1, -1, -1)
    got = corrupt(same, name, 1)
    assert not torch.equal(got[0], got[1])
    assert not torch.equal(got[1], got[2])


@pytest.mark.parametrize("level", range(3))
def test_haze_and_brightness_are_their_formulas(level):
    x = pictures().double() / 255
    clear, factor = LEVELS["haze"][level], LEVELS["brightness"][level]
    torch.testing.assert_close(corrupt(pictures(), "haze", level).double() / 255, x * clear + 0.9 * (1 - clear),
                               atol=0.51 / 255, rtol=0)  # fmt: skip
    torch.testing.assert_close(corrupt(pictures(), "brightness", level).double() / 255, x * factor,
                               atol=0.51 / 255, rtol=0)  # fmt: skip


@pytest.mark.parametrize("level", range(3))
def test_noise_has_its_deviation(level):
    grey = torch.full((4, 3, 64, 64), 128, dtype=torch.uint8)
    noise = corrupt(grey, "noise", level).double() / 255
    assert float(noise.std()) == pytest.approx(LEVELS["noise"][level], rel=0.03)
    assert float(noise.mean()) == pytest.approx(128 / 255, abs=2e-3)


@pytest.mark.parametrize("level", range(3))
def test_clouds_cover_their_share(level):
    black = torch.zeros(20, 3, 64, 64, dtype=torch.uint8)
    cover = corrupt(black, "cloud", level).double() / 255 / 0.95
    assert float(cover.mean()) == pytest.approx(LEVELS["cloud"][level], abs=0.04)
    assert cover.max() == pytest.approx(1, abs=0.01)
    assert cover.min() == 0


@pytest.mark.parametrize("level", range(3))
def test_blur_is_a_gaussian_of_a_share_of_the_side(level):
    sigma = LEVELS["blur"][level] * 32
    reach = max(1, round(3 * sigma))
    x = pictures().double().numpy()
    expected = scipy.ndimage.gaussian_filter(x, (0, 0, sigma, sigma), mode="mirror", radius=(0, 0, reach, reach))
    np.testing.assert_allclose(corrupt(pictures(), "blur", level), expected, atol=0.6)


@pytest.mark.parametrize("level", range(3))
def test_jpeg_is_a_file_of_that_quality(level):
    image = Image.fromarray(pictures()[1].permute(1, 2, 0).numpy())
    file = io.BytesIO()
    image.save(file, "jpeg", quality=LEVELS["jpeg"][level])
    np.testing.assert_array_equal(corrupt(pictures(), "jpeg", level)[1].permute(1, 2, 0), np.array(Image.open(file)))


def test_rotations_are_three_quarter_turns():
    images = pictures()
    for level in range(3):
        assert torch.equal(corrupt(images, "rotation", level), images.rot90(level + 1, (2, 3)))


class Bright(nn.Module):
    """Two classes, told apart by the mean: what each corruption does to it can be worked out."""

    def forward(self, images):
        mean = images.float().mean((1, 2, 3))
        return torch.stack([100 - mean, mean - 100], 1)


def test_accuracy_under_each_condition():
    """Dark images of class 0 and bright ones of class 1: haze makes all bright, darkness all dark, a turn nothing."""
    images = torch.cat([pictures(6) // 4 + 10, pictures(6, seed=1) // 4 + 150])
    labels = torch.arange(2).repeat_interleave(6)
    seen = []

    def progress(conditions, desc, total):
        seen.append((desc, total))
        return conditions

    found = accuracies(Bright(), images, labels, num_classes=2, device="cpu", progress=progress)
    assert list(found) == list(LEVELS)
    assert found["rotation"] == found["noise"] == found["blur"] == [1.0, 1.0, 1.0]
    assert found["haze"][2] == 0.5
    assert found["brightness"][2] == 0.5
    assert seen == [("corruptions", 21)]


def test_bad_labels_are_refused():
    with pytest.raises(ValueError, match="no image of class 1"):
        accuracies(Bright(), pictures(2), torch.tensor([0, 0]), num_classes=2, device="cpu")
