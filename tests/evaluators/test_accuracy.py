"""Scores against numbers worked by hand and against scikit-learn."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import nn

from evaluators.accuracy import calibration_error, evaluate, scores
from evaluators.students import build


class Brightest(nn.Module):
    """Predicts the class written in the first pixel: a network whose answers are known."""

    def forward(self, images):
        return nn.functional.one_hot(images[:, 0, 0, 0].long(), 3).float()


def written(predictions, size=8):
    images = torch.zeros(len(predictions), 3, size, size, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.tensor(predictions, dtype=torch.uint8)
    return images


LABELS = torch.tensor([0, 0, 0, 0, 1, 1, 2])
PREDICTED = [0, 0, 0, 1, 1, 2, 0]


@pytest.mark.parametrize("batch", [2, 256])
def test_worked_by_hand(batch):
    got = evaluate(Brightest(), written(PREDICTED), LABELS, num_classes=3, device="cpu", batch=batch)
    assert got.n == 7
    assert got.confusion == ((3, 1, 0), (0, 1, 1), (1, 0, 0))
    assert got.overall == pytest.approx(4 / 7)
    assert got.per_class == pytest.approx((0.75, 0.5, 0.0))
    assert got.average == pytest.approx(1.25 / 3)


def test_same_as_scikit_learn():
    draw = np.random.default_rng(0)
    labels = np.concatenate([np.arange(6), draw.integers(0, 6, 200)])
    predicted = draw.integers(0, 6, 206)
    got = scores(torch.tensor(labels), nn.functional.one_hot(torch.tensor(predicted), 6).float())
    assert got.overall == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert got.average == pytest.approx(metrics.balanced_accuracy_score(labels, predicted))
    assert got.per_class == pytest.approx(metrics.recall_score(labels, predicted, average=None))
    assert got.kappa == pytest.approx(metrics.cohen_kappa_score(labels, predicted))
    assert got.macro_f1 == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    np.testing.assert_array_equal(got.confusion, metrics.confusion_matrix(labels, predicted))


def test_a_class_that_is_never_predicted_has_no_f1():
    got = scores(torch.tensor([0, 1, 2]), torch.eye(3)[[0, 1, 1]])
    assert got.macro_f1 == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_a_set_of_one_class_has_no_agreement_beyond_chance():
    assert scores(torch.tensor([0, 0]), torch.tensor([[2.0], [1.0]])).kappa == 0


def test_a_bin_has_its_upper_end():
    """0.5 belongs to the lower of two bins: in the upper one it would make up for what is wrong at 0.9."""
    logits = torch.tensor([[0.0, 0.0], [0.0, float(np.log(9))]], dtype=torch.float64)
    assert calibration_error(torch.tensor([0, 0]), logits, bins=2) == pytest.approx((0.5 + 0.9) / 2)


def test_calibration_bin_by_bin():
    """Fifteen bins (0, 1/15], (1/15, 2/15], ...: how far accuracy is from confidence, weighted by their images."""
    draw = np.random.default_rng(1)
    logits, labels = torch.tensor(3 * draw.normal(size=(500, 4))), torch.tensor(draw.integers(0, 4, 500))
    chances = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True)
    confidence, right = chances.max(1), chances.argmax(1) == labels.numpy()
    error = 0.0
    for k in range(15):
        inside = (confidence > k / 15) & (confidence <= (k + 1) / 15)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert calibration_error(labels, logits) == pytest.approx(error)
    assert error > 0.1


def test_certain_and_right_is_calibrated_certain_and_wrong_is_not():
    sure = 100 * torch.eye(3)
    assert calibration_error(torch.tensor([0, 1, 2]), sure) == pytest.approx(0)
    assert calibration_error(torch.tensor([1, 2, 0]), sure) == pytest.approx(1)


def test_a_memory_map_gives_the_same(tmp_path):
    np.save(tmp_path / "images.npy", written(PREDICTED).numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "images.npy", mmap_mode="r+"))
    got = evaluate(Brightest(), mapped, LABELS, num_classes=3, device="cpu")
    assert got.confusion == ((3, 1, 0), (0, 1, 1), (1, 0, 0))


def test_another_order_of_the_test_images_gives_the_same():
    order = torch.tensor([6, 2, 4, 0, 5, 1, 3])
    shared = {"num_classes": 3, "device": "cpu", "batch": 2}
    one = evaluate(Brightest(), written(PREDICTED), LABELS, **shared)
    other = evaluate(Brightest(), written(PREDICTED)[order], LABELS[order], **shared)
    assert replace(one, calibration=0.0) == replace(other, calibration=0.0)
    assert one.calibration == pytest.approx(other.calibration, abs=1e-6)


def test_an_empty_test_set_is_an_error():
    with pytest.raises(ValueError, match="no image"):
        evaluate(Brightest(), written([]), LABELS[:0], num_classes=3, device="cpu")


def test_a_class_without_test_images_is_an_error():
    with pytest.raises(ValueError, match="no image of class 3"):
        evaluate(Brightest(), written(PREDICTED), LABELS, num_classes=4, device="cpu")


@pytest.mark.parametrize("size", [8, 32])
def test_test_images_of_another_size_are_an_error(size):
    images = torch.zeros(3, 3, size, size, dtype=torch.uint8)
    with pytest.raises(ValueError, match=f"the student is for 16 px, the images are {size}x{size}"):
        evaluate(build("resnet18", 16, 3, 0), images, torch.arange(3), num_classes=3, device="cpu")


@pytest.mark.parametrize("width", [2, 5])
def test_a_model_of_another_number_of_classes_is_an_error(width):
    class Other(nn.Module):
        def forward(self, images):
            return torch.zeros(len(images), width)

    with pytest.raises(ValueError, match=rf"output is \(7, {width}\), not \(7, 3\)"):
        evaluate(Other(), written(PREDICTED), LABELS, num_classes=3, device="cpu")


def test_a_label_outside_the_classes_is_an_error():
    with pytest.raises(ValueError, match=r"label 2 .* 0\.\.1"):
        evaluate(Brightest(), written(PREDICTED), LABELS, num_classes=2, device="cpu")
