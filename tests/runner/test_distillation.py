"""What a method returns, what it may not touch, and where it runs."""

import inspect

import numpy as np
import pytest
import torch

from ddbench.errors import UserError
from ddbench.runner import evaluation
from ddbench.runner.distillation import global_seed
from ddbench.types import DistilledSet, ImageSet, check_distilled_set, checksum
from ddbench.utils.distributed import device
from evaluators.normalisation import Whitening


def image_set(cls=ImageSet, size=4, n=4, **changes):
    images = torch.arange(n * 3 * size * size).remainder(256).to(torch.uint8).view(n, 3, size, size)
    fields = {"images": images, "labels": torch.arange(n) % 2, "classes": ("a", "b"), "readable": ("a", "b")}
    return cls(**{**fields, **changes})


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ("images", "must return a DistilledSet, not str"),
        (image_set(DistilledSet, classes=("a", "c")), "classes were changed"),
        (image_set(DistilledSet, size=5), r"images are \(5, 5\) pixels"),
        (image_set(DistilledSet, n=6), "every class needs 2"),
        (
            image_set(DistilledSet, float_images=torch.zeros(4, 3, 4, 4).double()),
            "float images must be finite, float32",
        ),
        (image_set(DistilledSet, float_images=torch.zeros(4, 3, 4, 4)), "in 8 bits, but differ by 191 of 255"),
        (image_set(DistilledSet, weights=torch.ones(3)), r"weights must be float32 \(4,\)"),
        (image_set(DistilledSet, weights=torch.zeros(4)), "not all 0"),
        (image_set(DistilledSet, learning_rate=float("nan")), "learned learning rate must be finite, not nan"),
        (
            image_set(DistilledSet, whitening=Whitening.of(torch.zeros(3, 2, 2), torch.eye(12))),
            r"of images \(3, 2, 2\)",
        ),
    ],
)
def test_what_a_method_returns_is_checked(made, said):
    check_distilled_set(image_set(DistilledSet), image_set(), 2)
    with pytest.raises(ValueError, match=said):
        check_distilled_set(made, image_set(), 2)


def test_the_checksum_sees_one_bit_and_one_label():
    before = checksum(image_set())
    images, labels = image_set().images.clone(), image_set().labels.clone()
    images[-1, -1, -1, -1] ^= 1
    labels[0] = 1
    assert checksum(image_set()) == before
    assert checksum(image_set(images=images)) != before
    assert checksum(image_set(labels=labels)) != before


def test_global_generators_are_seeded_inside_and_as_before_outside():
    cpu = torch.device("cpu")
    before = torch.get_rng_state()
    draws = []
    for _ in range(2):
        with global_seed(7, cpu):
            draws.append((torch.rand(1).item(), np.random.rand()))
    assert draws[0] == draws[1]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_device_that_is_not_there_is_a_user_error():
    assert device("cpu").type == "cpu"
    with pytest.raises(UserError, match="there is no device cuda:99"):
        device("cuda:99")


def test_the_evaluator_cannot_know_the_method():
    """Nothing in the evaluators' signatures could carry a method's name.

    `state` is a training to resume, `teacher` a network, `weights` are numbers, `observe` is called with the student,
    `graphs` and `compiled` are switches.
    """
    functions = (evaluation.train_student, evaluation.evaluate)
    takes = [sorted(inspect.signature(function).parameters) for function in functions]
    shared = ["device", "images", "num_classes"]
    options = ["compiled", "graphs", "normalisation", "observe", "progress", "protocol", "seed", "state", "student"]
    assert takes[0] == sorted([*shared, *options, "targets", "teacher", "weights"])
    assert takes[1] == sorted([*shared, "batch", "labels", "model"])
