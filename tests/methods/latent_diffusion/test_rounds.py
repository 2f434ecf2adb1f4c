"""Test that round j samples image j of every class, and sees what the class has so far."""

from __future__ import annotations

import pytest
import torch

from ddbench.methods.latent_diffusion.rounds import sample_rounds


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_each_image_sees_the_earlier_images_of_its_class(batch, context_of):
    labels, calls = [4, 4, 4, 1, 1, 1, 7, 7, 7], []

    def sample_batch(images, finished):
        calls.append(list(images))
        assert [[int(z) for z in past] for past in finished] == [list(range(i - i % 3, i)) for i in images]
        return [(torch.tensor(float(i)), i) for i in images]

    samples = sample_rounds(sample_batch, labels, True, batch, context_of())
    assert [n for _, n in samples] == list(range(9))
    assert [i for images in calls for i in images] == [0, 3, 6, 1, 4, 7, 2, 5, 8]
    assert max(map(len, calls)) == min(batch, 3)


def test_one_round_has_all_images(context_of):
    calls = []
    sample = lambda images, finished: calls.append((list(images), finished)) or [(torch.zeros(()), 0)] * len(images)  # noqa: E731
    assert len(sample_rounds(sample, [0, 0, 1], False, 2, context_of())) == 3
    assert calls == [([0, 1], [[], []]), ([2], [[]])]


def test_rounds_need_as_many_images_of_every_class(context_of):
    with pytest.raises(ValueError, match="zip"):
        sample_rounds(lambda images, finished: [], [0, 0, 1], True, 2, context_of())
