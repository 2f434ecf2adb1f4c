"""Test forgetting events on correctness written out by hand."""

from __future__ import annotations

import torch

from ddbench.methods.forgetting import forgetting_events


def test_events_of_a_matrix_by_hand():
    """Rows are epochs. Never correct is above all, learnt and kept is no event."""
    correct = torch.tensor(
        [
            # kept, learnt late, once, in turn, at the end, never
            [1, 0, 1, 1, 0, 0],
            [1, 0, 0, 0, 1, 0],
            [1, 0, 0, 1, 1, 0],
            [1, 1, 1, 0, 0, 0],
        ]
    ).bool()
    assert forgetting_events(correct).tolist() == [0, 0, 1, 2, 1, 4]


def test_one_epoch_tells_only_what_was_never_correct():
    assert forgetting_events(torch.tensor([[True, False]])).tolist() == [0, 1]
