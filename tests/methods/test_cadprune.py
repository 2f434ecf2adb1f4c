"""Test CAD-Prune's uncertainty on series written out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ddbench.methods.cadprune import CADPrune, uncertainty
from ddbench.methods.shared.dynamics import Dynamics


def test_uncertainty_of_series_by_hand():
    """Three successive numbers of a line have the deviation of its slope; a constant has none."""
    k = torch.arange(6.0)
    assert_close(uncertainty(torch.stack([k / 10, torch.full((6,), 0.7)], 1), 3, 2), torch.tensor([0.1, 0.0]))


def test_uncertainty_is_the_slow_one():
    p = torch.rand(9, 5, generator=torch.Generator().manual_seed(0))
    K, J, W = 9, 4, 3
    slow = [np.mean([p[k : k + J, i].numpy().std(ddof=1) for k in range(K - J - W, K - J)]) for i in range(5)]
    assert_close(uncertainty(p, J, W), torch.tensor(slow))


def test_the_windows_end_before_the_last():
    """K = 8, J = 6, W = 2: k = 0 and 1, which end at epoch 6 of 0..7."""
    p = torch.zeros(8, 3)
    p[7, 0] = p[6, 1] = p[0, 2] = 1  # in no window, in one, in the other
    jump = float(torch.tensor([0.0, 0, 0, 0, 0, 1]).std())
    assert_close(uncertainty(p, 6, 2), torch.tensor([0.0, jump / 2, jump / 2]))


def test_only_the_epochs_of_the_budget_count():
    probability = torch.rand(5, 4, generator=torch.Generator().manual_seed(1))
    dynamics = Dynamics(torch.ones(5, 4).bool(), 1 - probability**2, probability)
    settings = {"epochs": 5, "span": 2, "windows": 1}
    assert_close(CADPrune(**settings, budget=3).score(dynamics), probability[:2].std(0))
    assert_close(CADPrune(**settings, budget=0).score(dynamics), probability[2:4].std(0))
    assert_close(CADPrune(**settings, budget=3, signal="error").score(dynamics), dynamics.error[:2].std(0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": 21}, r"budget must be in 0\.\.20, the epochs, not 21"),
        ({"span": 7}, r"span \+ windows must be at most 8, the epochs that count, not 9"),
        ({"budget": 0, "epochs": 5}, r"span \+ windows must be at most 5"),
        ({"span": 1, "windows": 0}, r"span must be at least 2, not 1; windows must be at least 1, not 0"),
        ({"offset": 1.5}, r"offset must be in 0\.\.1, not 1\.5"),
    ],
)
def test_windows_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CADPrune(**settings)
