"""Test normalisation by constants and by the training images' statistics."""

import os
from pathlib import Path

import numpy
import pytest
import torch

from evaluators import dsa, normalisation
from evaluators.normalisation import CONSTANT, normalisation_of

NOISE = torch.randint(0, 256, (7, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
MANY = torch.randint(0, 256, (40, 3, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
NOISE[3] //= 4  # a dark image, of another deviation


def test_statistics_are_the_mean_and_the_images_mean_deviation(monkeypatch):
    monkeypatch.setattr(normalisation, "PART", 2 * NOISE[0].numel())  # two images at once
    of_data = normalisation_of(NOISE, "data")
    grey = numpy.asarray(NOISE, dtype=numpy.float64) / 255
    numpy.testing.assert_allclose(of_data.mean.flatten(), grey.mean((0, 2, 3)), rtol=1e-6)
    numpy.testing.assert_allclose(of_data.std.flatten(), grey.std((2, 3)).mean(0), rtol=1e-6)
    record = of_data.record()
    assert (record["kind"], len(record["mean"]), record["std"]) == ("data", 3, of_data.std.flatten().tolist())


def test_constants_are_those_of_the_evaluator():
    assert normalisation_of(NOISE, "constant") is CONSTANT
    assert torch.equal(CONSTANT.apply(NOISE), (NOISE.float() / 255 - 0.5) / 0.25)


@pytest.mark.parametrize("kind", ["cifar10", "cifar100", "imagenet"])
def test_the_literatures_constants_are_those_of_no_images(kind):
    norm, (mean, std) = normalisation_of(NOISE, kind), normalisation.PUBLISHED[kind]
    expected = (numpy.asarray(NOISE) / 255 - numpy.reshape(mean, (3, 1, 1))) / numpy.reshape(std, (3, 1, 1))
    numpy.testing.assert_allclose(norm.apply(NOISE), expected, rtol=1e-5, atol=1e-6)
    assert (norm.kind, norm.record()["kind"]) == (kind, kind)


@pytest.mark.parametrize("kind", ["constant", "data", "cifar100"])
def test_restored_images_are_those_normalised(kind):
    norm = normalisation_of(NOISE, kind)
    torch.testing.assert_close(norm.restore(norm.apply(NOISE)), NOISE.float() / 255)
    torch.testing.assert_close(norm.apply(NOISE.float() / 255), norm.apply(NOISE))


@pytest.mark.parametrize("kind", ["constant", "data"])
def test_clamped_pixels_are_grey_values(kind):
    norm = normalisation_of(NOISE, kind)
    pixels = norm.apply(2 * NOISE.float() / 255 - 0.5)
    norm.clamp_(pixels)
    torch.testing.assert_close(norm.restore(pixels), (2 * NOISE.float() / 255 - 0.5).clamp(0, 1))


def test_dsas_brightness_follows_the_deviation():
    """Half a deviation at most, as in the public code: 0.1 of CIFAR-10's grey values, 0.125 with the constants."""
    brightest = dsa.DSANumbers("color", torch.tensor([[1.0, 0.5, 0.5]]))  # factors 1 of saturation and contrast
    for kind in ("constant", "data"):
        norm = normalisation_of(NOISE, kind)
        moved = norm.restore(dsa.apply(norm.apply(NOISE), brightest)) - NOISE.float() / 255
        torch.testing.assert_close(moved, (0.5 * norm.std).expand_as(moved))


def test_flat_images_have_a_deviation():
    flat = normalisation_of(torch.full((2, 3, 4, 4), 9, dtype=torch.uint8), "data")
    assert torch.isfinite(flat.apply(NOISE)).all()


def test_whitening_is_mtts():
    """Eigenvectors of the covariance, divided by the root of each variance and 0.1, as in the public code."""
    zca = normalisation_of(MANY, "zca")
    flat = numpy.asarray(MANY, dtype=numpy.float64).reshape(len(MANY), -1) / 255
    mean, values, vectors = flat.mean(0), *numpy.linalg.eigh(numpy.cov(flat.T))
    matrix = vectors @ numpy.diag(1 / numpy.sqrt(values + 0.1)) @ vectors.T
    expected = ((flat - mean) @ matrix.T).reshape(MANY.shape)
    numpy.testing.assert_allclose(zca.apply(MANY), expected, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        numpy.testing.assert_allclose(zca.apply(MANY.float() / 255), expected, atol=1e-4)


def test_whitened_images_come_back():
    zca = normalisation_of(MANY, "zca")
    white, grey = zca.apply(MANY).view(4, 10, 3, 8, 8), MANY.float().view(4, 10, 3, 8, 8) / 255
    torch.testing.assert_close(zca.restore(white), grey, atol=1e-5, rtol=1e-4)
    brighter = zca.apply(2 * MANY.float() / 255 - 0.5)
    zca.clamp_(brighter)
    torch.testing.assert_close(zca.restore(brighter), (2 * MANY.float() / 255 - 0.5).clamp(0, 1), atol=1e-5, rtol=1e-4)
    assert (zca.record(), zca.to("cpu")) == ({"kind": "zca"}, zca)


def test_large_images_are_not_whitened():
    with pytest.raises(ValueError, match="65 px are too large to whiten"):
        normalisation_of(torch.zeros(2, 3, 65, 65, dtype=torch.uint8), "zca")


@pytest.mark.real
def test_cifars_statistics_are_the_literatures_constants(tmp_path):
    from ddbench.datasets.calibration.cifar10 import CIFAR10
    from ddbench.datasets.info import DataPaths, MissingDataError

    try:
        train = CIFAR10.load(DataPaths(Path(os.environ.get("DDBENCH_DATA", "")), tmp_path, True), 32).train
    except MissingDataError:
        pytest.skip("no CIFAR-10 below DDBENCH_DATA")
    of_data = normalisation_of(train.images, "data")
    # the first tolerance is that of an 8-bit copy as JPEG
    numpy.testing.assert_allclose(of_data.mean.flatten(), [0.4914, 0.4822, 0.4465], atol=1e-3)
    numpy.testing.assert_allclose(of_data.std.flatten(), [0.2023, 0.1994, 0.2010], rtol=0.015)
