"""Every image of an augmented batch against a slow reference that loops over its pixels."""

import math

import numpy as np
import pytest
import torch

from evaluators import augment
from evaluators.recipes import Augment

ALL = Augment((0.3, 1.0), (0.75, 4 / 3), 0.5, 0.5, 0.5, 0.4, 0.4, 0.4, 0.5)


def pictures(n=6, size=16):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def sample(image, x, y):
    """Bilinear value at pixel coordinates (centres at whole numbers), the border repeated."""
    _, h, w = image.shape
    x, y = min(max(x, 0), w - 1), min(max(y, 0), h - 1)
    x0, y0 = math.floor(x), math.floor(y)
    x1, y1 = min(x0 + 1, w - 1), min(y0 + 1, h - 1)
    top = image[:, y0, x0] * (1 - (x - x0)) + image[:, y0, x1] * (x - x0)
    low = image[:, y1, x0] * (1 - (x - x0)) + image[:, y1, x1] * (x - x0)
    return top * (1 - (y - y0)) + low * (y - y0)


def reference(image, drawn, share):
    """One image, one pixel at a time."""
    theta, brightness, contrast, saturation, hole = drawn
    _, h, w = image.shape
    out = np.empty_like(image)
    for row in range(h):
        for column in range(w):
            u, v = (2 * column + 1) / w - 1, (2 * row + 1) / h - 1
            x, y = theta @ np.array([u, v, 1.0])
            out[:, row, column] = sample(image, ((x + 1) * w - 1) / 2, ((y + 1) * h - 1) / 2)
    luma = np.array([0.299, 0.587, 0.114])
    out = out * brightness
    mean = np.tensordot(luma, out, 1).mean()
    out = (out - mean) * contrast + mean
    grey = np.tensordot(luma, out, 1)
    out = np.clip((out - grey) * saturation + grey, 0, 1)
    for row in range(h):
        for column in range(w):
            if abs((2 * column + 1) / w - 1 - hole[0]) < share and abs((2 * row + 1) / h - 1 - hole[1]) < share:
                out[:, row, column] = 0.5
    return out


def test_batch_equals_the_reference_image_by_image():
    images = pictures()
    drawn = augment.draw(6, ALL, generator())
    batch = augment.apply(images, drawn, ALL)
    for i, got in enumerate(batch):
        own = [part[i].double().numpy() for part in vars(drawn).values()]
        expected = reference(images[i].double().numpy(), own, ALL.cutout)
        np.testing.assert_allclose(got, expected, atol=2e-5)


def test_nothing_asked_nothing_changed():
    images = pictures()
    assert torch.equal(augment.apply(images, augment.draw(6, Augment(), generator()), Augment()), images)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"flip_x": 1.0}, lambda x: x.flip(3)),
        ({"flip_y": 1.0}, lambda x: x.flip(2)),
        ({"transpose": 1.0}, lambda x: x.transpose(2, 3)),
        ({"flip_x": 1.0, "flip_y": 1.0}, lambda x: x.rot90(2, (2, 3))),
    ],
)
def test_certain_flips_are_exact_flips(options, expected):
    images, only = pictures(), Augment(**options)
    got = augment.apply(images, augment.draw(6, only, generator()), only)
    torch.testing.assert_close(got, expected(images), atol=1e-5, rtol=0)


def test_the_eight_symmetries_are_equally_likely():
    drawn = augment.draw(8000, Augment(flip_x=0.5, flip_y=0.5, transpose=0.5), generator())
    _, counts = drawn.theta.unique(dim=0, return_counts=True)
    assert len(counts) == 8
    assert counts.min() > 880  # 1000 expected, standard deviation 30


def test_crops_stay_inside_and_keep_to_area_and_ratio():
    drawn = augment.draw(4000, Augment(crop_area=(0.3, 0.6), crop_ratio=(0.8, 1.25)), generator())
    width, height = drawn.theta[:, 0, 0], drawn.theta[:, 1, 1]
    area, ratio = width * height, width / height
    assert 0.299 < area.min() < 0.31
    assert 0.59 < area.max() < 0.601
    assert 0.799 < ratio.min() < 0.81
    assert 1.23 < ratio.max() < 1.251
    assert ((drawn.theta[:, :, 2].abs() + torch.stack([width, height], 1)) <= 1 + 1e-6).all()


def test_colour_factors_fill_their_range():
    drawn = augment.draw(4000, Augment(brightness=0.1, contrast=0.2, saturation=0.3), generator())
    for factors, half in ((drawn.brightness, 0.1), (drawn.contrast, 0.2), (drawn.saturation, 0.3)):
        assert 1 - half <= factors.min() < 1 - 0.98 * half
        assert 1 + 0.98 * half < factors.max() <= 1 + half


def test_every_image_has_its_own_draw():
    images = pictures(1).expand(5, -1, -1, -1)
    got = augment.apply(images, augment.draw(5, ALL, generator()), ALL)
    assert all(not torch.equal(got[i], got[j]) for i in range(5) for j in range(i))


def test_draws_depend_on_the_generator_alone():
    state = torch.random.get_rng_state()
    first, again, other = (augment.draw(4, ALL, generator(s)).theta for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)
