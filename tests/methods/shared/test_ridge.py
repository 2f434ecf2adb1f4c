"""Test the ridge rule against ridge regressions that are solved one by one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ddbench.methods.shared import ridge
from ddbench.methods.shared.ridge import LabelledFeatures, real_sample, ridge_choice


def slow_loss(pool, real, chosen):
    """Solve the ridge regression on the chosen images; return its mean error on the real ones that are none of them."""
    classes = int(real.labels.max()) + 1
    y, y_real = (F.one_hot(of.labels, classes).double() - 1 / classes for of in (pool, real))
    x, x_real = pool.x[chosen].double(), real.x.double()
    weights = torch.linalg.solve(x.T @ x + ridge.LAMBDA * torch.eye(x.shape[1]).double(), x.T @ y[chosen])
    counts = ~torch.isin(real.rows, pool.rows[chosen])
    return (y_real - x_real @ weights)[counts].square().sum(1).mean()


def features(labels, rows, seed):
    x = torch.randn(len(labels), 5, generator=torch.Generator().manual_seed(seed))
    return LabelledFeatures(F.normalize(x + 2 * F.one_hot(labels, 5), dim=1), labels, rows)


@pytest.mark.parametrize("seed", range(4))
def test_no_other_image_of_a_slot_is_better(seed):
    """Slots of real images: three classes of nine images, three slots each."""
    labels = torch.arange(3).repeat_interleave(9)
    real = features(labels, torch.arange(27) * 2, seed)
    slots = list(torch.arange(27).view(9, 3))
    start = torch.stack([slot[0] for slot in slots])
    chosen = ridge_choice(real, real, slots)
    least = slow_loss(real, real, chosen)
    assert least < slow_loss(real, real, start)
    for i, slot in enumerate(slots):
        assert chosen[i] in slot
        for other in slot:
            assert slow_loss(real, real, torch.cat([chosen[:i], other[None], chosen[i + 1 :]])) >= least - 1e-9


def test_drawn_images_leave_out_the_images_that_they_were_made_from():
    """Two candidates of six prototypes each; one prototype is none of the real images that count."""
    real = features(torch.arange(3).repeat_interleave(8), torch.arange(24), 0)
    rows = torch.tensor([0, 1, 8, 9, 16, 99]).repeat_interleave(2)
    drawn = features(torch.arange(3).repeat_interleave(4), rows, 1)
    slots = list(torch.arange(12).split(2))
    chosen = ridge_choice(drawn, real, slots)
    combinations = torch.cartesian_prod(*slots)
    losses = torch.stack([slow_loss(drawn, real, each) for each in combinations])
    assert slow_loss(drawn, real, chosen) <= losses.sort().values[2]  # of 64; one by one may miss the very best
    assert all(slow_loss(drawn, real, torch.where(torch.arange(6) == i, slots[i][1 - chosen[i] % 2], chosen))
               >= slow_loss(drawn, real, chosen) - 1e-9 for i in range(6))  # fmt: skip


def test_where_every_image_is_chosen_the_first_stay():
    real = features(torch.arange(2).repeat_interleave(2), torch.arange(4), 0)
    assert ridge_choice(real, real, list(torch.arange(4).split(1))).tolist() == [0, 1, 2, 3]
    one_class = features(torch.zeros(6).long(), torch.arange(6), 0)
    assert ridge_choice(one_class, one_class, list(torch.arange(6).split(3))).tolist() == [0, 3]


def test_a_sample_has_at_most_so_many_images_of_a_class(monkeypatch):
    monkeypatch.setattr(ridge, "SAMPLE", 4)
    real = features(torch.tensor([0] * 9 + [1] * 3), torch.arange(12), 0)
    sample = real_sample(real)
    assert sample.labels.tolist() == [0] * 4 + [1] * 3
    assert torch.equal(sample.x, real.x[sample.rows])
    assert sample.rows.tolist() == real_sample(real).rows.tolist() == sorted(sample.rows.tolist())
