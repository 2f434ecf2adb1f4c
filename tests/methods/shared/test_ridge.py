"""Test the ridge rule against ridge regressions that are solved one by one."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from ddbench.context import generator_of
from ddbench.methods.shared import ridge
from ddbench.methods.shared.ridge import ridge_choice
from ddbench.methods.shared.selection import drawn_rows


def slow_loss(x, labels, counted, chosen):
    """Solve the ridge regression on the chosen images; return its mean error on the counted others."""
    x, classes = x.double(), int(labels.max()) + 1
    y = F.one_hot(labels, classes).double() - 1 / classes
    weights = torch.linalg.solve(
        x[chosen].T @ x[chosen] + ridge.LAMBDA * torch.eye(x.shape[1]).double(), x[chosen].T @ y[chosen]
    )
    others = counted[~torch.isin(counted, chosen)]
    return (y[others] - x[others] @ weights).square().sum(1).mean()


def features(labels, seed):
    x = torch.randn(len(labels), 5, generator=torch.Generator().manual_seed(seed))
    return F.normalize(x + 2 * F.one_hot(labels, 5), dim=1)


@pytest.mark.parametrize("sample", [200, 5])
@pytest.mark.parametrize("seed", range(4))
def test_no_other_image_of_a_slot_is_better(seed, sample, monkeypatch):
    """Three classes of nine images, three slots each; the errors of all images count, or those of five of a class."""
    monkeypatch.setattr(ridge, "SAMPLE", sample)
    labels = torch.arange(3).repeat_interleave(9)
    x, slots, counted = (
        features(labels, seed),
        list(torch.arange(27).view(9, 3)),
        drawn_rows(labels, sample, partial(generator_of, 0, "ridge")),
    )
    start = torch.stack([slot[0] for slot in slots])
    chosen = ridge_choice(x, labels, slots)
    least = slow_loss(x, labels, counted, chosen)
    assert least < slow_loss(x, labels, counted, start)
    for i, slot in enumerate(slots):
        assert chosen[i] in slot
        for other in slot:
            swapped = torch.cat([chosen[:i], other[None], chosen[i + 1 :]])
            assert slow_loss(x, labels, counted, swapped) >= least - 1e-5


def test_where_every_image_is_chosen_the_first_stay():
    labels = torch.arange(2).repeat_interleave(2)
    assert ridge_choice(features(labels, 0), labels, list(torch.arange(4).split(1))).tolist() == [0, 1, 2, 3]
    one_class = torch.zeros(6).long()
    assert ridge_choice(features(one_class, 0), one_class, list(torch.arange(6).split(3))).tolist() == [0, 3]


def test_drawn_rows_are_so_many_of_each_class():
    labels = torch.tensor([0] * 9 + [1] * 3)
    rows, again, others = (drawn_rows(labels, 4, partial(generator_of, 0, name)).tolist() for name in "aab")
    assert labels[rows].tolist() == [0] * 4 + [1] * 3
    assert rows == again == sorted(rows)
    assert rows != others
