"""Batches that are augmented at once are those that are augmented one at a time."""

from dataclasses import replace
from itertools import islice

import pytest
import torch

from evaluators import augment, batches
from evaluators.recipes import OPERATIONS, Augment, Recipe

ALL = Augment((0.3, 1.0), (0.75, 4 / 3), 0.5, 0.5, 0.5, 0.4, 0.4, 0.4, 0.5)
MORE = replace(ALL, erasing=0.5, lighting=0.1, shuffle_pieces=2, crop_tries=3)
MIXED = Augment(cutmix=0.5, mixup=0.5)
POOL = Augment(operations=OPERATIONS, operations_per_image=2)


@pytest.mark.parametrize("changes", [ALL, MORE, MIXED, replace(MIXED, mix_batch=True), POOL])
@pytest.mark.parametrize("whole_epochs", [False, True])
def test_batches_augmented_at_once_are_the_same(monkeypatch, changes, whole_epochs):
    """Batches of 4 (the last of an epoch has 2), three at once; the first batch is left out."""
    images = torch.randint(0, 256, (10, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    targets = torch.eye(10) if changes.mixes else torch.arange(10)
    recipe = Recipe("sgd", lr=0.1, weight_decay=0.0, batch=4, epochs=3, augment=changes, whole_epochs=whole_epochs)
    alone = list(islice(batches.batches(images, targets, recipe, 5, start=1), 7))
    monkeypatch.setattr(batches, "how_many_together", lambda *_: 3)
    for one, other in zip(alone, islice(batches.batches(images, targets, recipe, 5, start=1), 7), strict=True):
        torch.testing.assert_close(other, one, atol=1e-6, rtol=1e-6)
        assert other[0].shape == one[0].shape


def test_batches_of_dsa_are_not_drawn_together():
    """Each has an operation of its own."""
    with pytest.raises(ValueError, match="batches with DSA cannot be drawn together"):
        augment.draw_batches([3, 3], Augment(dsa=("flip", "cutout")), augment.make_generators(0))


def test_a_gpu_augments_as_many_as_fit():
    recipe = Recipe("sgd", lr=0.1, weight_decay=0.0, batch=128, epochs=1)
    assert batches.how_many_together(torch.zeros(2, 3, 64, 64), recipe) == 1
