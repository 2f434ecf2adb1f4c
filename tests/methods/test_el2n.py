"""Test which epoch EL2N looks at; the error itself is tested with the dynamics."""

from __future__ import annotations

import pytest
import torch

from ddbench.methods.el2n import EL2N
from ddbench.methods.shared.dynamics import Dynamics


def test_the_score_is_the_error_after_epoch_t():
    error = torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
    dynamics = Dynamics(torch.ones(3, 2).bool(), error, torch.ones(3, 2))
    for t in (1, 2, 3):
        assert torch.equal(EL2N(epochs=3, epoch=t).score(dynamics), error[t - 1])


@pytest.mark.parametrize("epoch", [0, 4])
def test_an_epoch_that_there_is_not_is_refused(epoch):
    with pytest.raises(ValueError, match=rf"epoch must be in 1\.\.3, the epochs, not {epoch}"):
        EL2N(epochs=3, epoch=epoch)
