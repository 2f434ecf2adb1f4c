"""Operations of RandAugment: each image against Pillow, or against a slow reference that loops over its pixels."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage
import torch
from PIL import Image, ImageEnhance, ImageOps

from evaluators import operations
from evaluators.operations import AFFINE, CELLS, LARGEST
from evaluators.recipes import OPERATIONS, RANDAUGMENT, Augment

SIZE = 16
LEVELS = (-1.0, -0.45, 0.0, 0.3, 0.9, 1.0)
ALL = Augment(operations=OPERATIONS, operations_per_image=2, magnitude=0.6, magnitude_deviation=0.2)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(n=6, size=SIZE):
    """8-bit values as floats 0..1, so that Pillow sees the same image."""
    rough = np.random.default_rng(1).random((n, 3, size, size))
    smooth = scipy.ndimage.gaussian_filter(rough, (0, 0, 1, 1))
    return torch.tensor(255 * (smooth - smooth.min()) / np.ptp(smooth)).byte().float() / 255


def numbers_of(name, levels=LEVELS):
    """One operation for all images, each with its own level."""
    level = torch.tensor([levels])
    column = torch.tensor([name == one for one in AFFINE])
    field = 2 * torch.rand(1, len(levels), 2, CELLS, CELLS, generator=generator(3)) - 1
    return operations.OperationNumbers(
        [[name] * len(levels)], level, column * level[:, :, None] * torch.tensor(LARGEST), field
    )


def sampled(x, across, down):
    """Bilinear values at pixel coordinates, grey outside."""
    out, (h, w) = np.empty_like(x), x.shape[1:]

    def at(row, column):
        inside = 0 <= row < h and 0 <= column < w
        return x[:, row, column] if inside else np.full(len(x), 0.5)

    for r in range(h):
        for c in range(w):
            left, top = math.floor(across[r, c]), math.floor(down[r, c])
            a, d = across[r, c] - left, down[r, c] - top
            upper = (1 - a) * at(top, left) + a * at(top, left + 1)
            lower = (1 - a) * at(top + 1, left) + a * at(top + 1, left + 1)
            out[:, r, c] = (1 - d) * upper + d * lower
    return out


ROWS, COLUMNS = (np.arange(SIZE, dtype=float).reshape(shape) + np.zeros((SIZE, SIZE)) for shape in ((-1, 1), (1, -1)))


def rotate(x, level):
    angle, middle = math.radians(30 * level), (SIZE - 1) / 2
    across, down = COLUMNS - middle, ROWS - middle
    return sampled(x, middle + math.cos(angle) * across + math.sin(angle) * down,
                   middle + math.cos(angle) * down - math.sin(angle) * across)  # fmt: skip


def blur(x, level):
    sigma = max(abs(level) * SIZE / 32, 0.1)
    return scipy.ndimage.gaussian_filter(x, (0, sigma, sigma), mode="mirror", radius=(0, 2, 2))


def elastic(x, level, field):
    """The field in cells of whole pixels, smoothed by half a cell with zeros outside; half a side is 1."""
    noise = 0.2 * abs(level) * np.kron(field, np.ones((SIZE // CELLS, SIZE // CELLS)))
    across, down = (scipy.ndimage.gaussian_filter(one, 1.0, mode="constant", radius=2) * SIZE / 2 for one in noise)
    return sampled(x, COLUMNS + across, ROWS + down)


def solarize_add(x, level):
    return np.where(x < 128 / 255, np.minimum(x + 110 / 255 * abs(level), 1), x)


SLOW = {
    "rotate": rotate,
    "shear_x": lambda x, level: sampled(x, COLUMNS + 0.3 * level * ROWS, ROWS),
    "shear_y": lambda x, level: sampled(x, COLUMNS, ROWS + 0.3 * level * COLUMNS),
    "translate_x": lambda x, level: sampled(x, COLUMNS - 0.45 * SIZE * level, ROWS),
    "translate_y": lambda x, level: sampled(x, COLUMNS, ROWS - 0.45 * SIZE * level),
    "solarize_add": solarize_add,
    "blur": blur,
}


@pytest.mark.parametrize("name", SLOW)
def test_each_operation_equals_the_slow_reference_image_by_image(name):
    got = operations.apply(pictures(), numbers_of(name))
    for x, level, one in zip(pictures().double().numpy(), LEVELS, got, strict=True):
        np.testing.assert_allclose(one, SLOW[name](x, level), atol=2e-5)


def test_elastic_equals_the_slow_reference_image_by_image():
    drawn = numbers_of("elastic")
    got = operations.apply(pictures(), drawn)
    for x, level, field, one in zip(pictures().double().numpy(), LEVELS, drawn.field[0].numpy(), got, strict=True):
        np.testing.assert_allclose(one, elastic(x, level, field), atol=1e-4)
    moved = (got - pictures()).abs().amax((1, 2, 3))
    assert moved[2] < 1e-4 < 0.05 < moved[0]


def enhanced(kind):
    return lambda image, level: kind(image).enhance(1 + 0.9 * level)


# The public RandAugment changes 8-bit images with Pillow, which rounds in between: the grey of saturation, and results.
PILLOW = {
    "brightness": (enhanced(ImageEnhance.Brightness), 1),
    "contrast": (enhanced(ImageEnhance.Contrast), 1.5),
    "saturation": (enhanced(ImageEnhance.Color), 1.5),
    "sharpness": (enhanced(ImageEnhance.Sharpness), 1.5),
    "posterize": (lambda image, level: ImageOps.posterize(image, max(1, 4 - int(4 * abs(level)))), 0),
    "solarize": (lambda image, level: ImageOps.solarize(image, 256 - 256 * abs(level)), 0),
    "autocontrast": (lambda image, level: ImageOps.autocontrast(image), 1),
    "equalize": (lambda image, level: ImageOps.equalize(image), 0),
    "invert": (lambda image, level: ImageOps.invert(image), 0),
    "grayscale": (lambda image, level: ImageOps.grayscale(image).convert("RGB"), 1),
}


@pytest.mark.parametrize("name", PILLOW)
def test_each_operation_equals_pillows_image_by_image(name):
    """As far as Pillow rounds: `levels` of 255."""
    reference, levels = PILLOW[name]
    got = operations.apply(pictures(), numbers_of(name))
    for x, level, one in zip(pictures(), LEVELS, got, strict=True):
        image = Image.fromarray((255 * x).round().byte().permute(1, 2, 0).numpy())
        expected = np.array(reference(image, level)).transpose(2, 0, 1)
        np.testing.assert_allclose(255 * one.numpy(), expected, atol=levels + 1e-3)


def test_every_operation_has_a_reference():
    assert {*SLOW, *PILLOW, "elastic"} == set(OPERATIONS)
    assert set(RANDAUGMENT) == set(OPERATIONS) - {"grayscale", "blur", "elastic"}


def test_a_flat_colour_has_no_contrast_to_stretch():
    flat = torch.full((2, 3, 8, 8), 0.25)
    flat[1, 0] = torch.linspace(0.2, 0.3, 64).view(8, 8)
    got = operations.apply(flat, numbers_of("autocontrast", (1.0, 1.0)))
    assert torch.equal(got[0], flat[0])
    assert torch.equal(got[1, 1:], flat[1, 1:])
    assert (float(got[1, 0].min()), float(got[1, 0].max())) == (0, pytest.approx(1))


def part(drawn, rows):
    """The numbers of some images."""
    names = [[row[i] for i in range(len(row))[rows]] for row in drawn.names]
    return operations.OperationNumbers(names, drawn.level[:, rows], drawn.affine[:, rows], drawn.field[:, rows])


def test_the_result_is_the_same_whatever_the_batch():
    images, drawn = pictures(60), operations.draw(60, ALL, generator())
    assert {name for row in drawn.names for name in row} == set(OPERATIONS)
    whole = operations.apply(images, drawn)
    for step in (1, 7):
        parts = [operations.apply(images[i : i + step], part(drawn, slice(i, i + step))) for i in range(0, 60, step)]
        torch.testing.assert_close(torch.cat(parts), whole, atol=1e-6, rtol=0)
    assert 0 <= whole.min() < whole.max() <= 1
    assert torch.equal(images, pictures(60))


def test_operations_follow_one_another():
    images, drawn = pictures(20), operations.draw(20, replace(ALL, operations_per_image=3), generator())
    expected = images
    for k in range(3):
        one = operations.OperationNumbers(
            drawn.names[k : k + 1], *(x[k : k + 1] for x in (drawn.level, drawn.affine, drawn.field))
        )
        expected = operations.apply(expected, one)
    assert torch.equal(operations.apply(images, drawn), expected)


def test_operations_are_drawn_equally_often_and_applied_as_often_as_asked():
    drawn = operations.draw(8000, replace(ALL, operation_chance=0.25, operations=RANDAUGMENT), generator())
    names = [name for row in drawn.names for name in row]
    assert names.count("") / len(names) == pytest.approx(0.75, abs=0.02)
    counts = [names.count(name) for name in RANDAUGMENT]  # 267 expected, standard deviation 16
    assert min(counts) > 200
    assert max(counts) < 335
    assert drawn.field is None


def test_levels_have_a_sign_and_the_magnitude():
    exact = operations.draw(4000, replace(ALL, magnitude_deviation=0.0), generator()).level
    assert exact.abs().unique().tolist() == [pytest.approx(0.6)]
    assert float((exact > 0).float().mean()) == pytest.approx(0.5, abs=0.03)
    spread = operations.draw(4000, ALL, generator()).level.abs()
    assert float(spread.mean()) == pytest.approx(0.6, abs=0.02)
    assert float(spread.std()) == pytest.approx(0.2, abs=0.02)
    assert operations.draw(4000, replace(ALL, magnitude_deviation=1.0), generator()).level.abs().max() == 1


def test_draws_depend_on_the_generator_alone():
    state = torch.random.get_rng_state()
    first, again, other = (operations.draw(9, ALL, generator(seed)) for seed in (3, 3, 4))
    assert first.names == again.names != other.names
    assert torch.equal(first.level, again.level)
    assert torch.equal(torch.random.get_rng_state(), state)
