"""Test the contract of all methods, and the rule of Medoid against a slow version of it."""

from __future__ import annotations

import pytest
import torch
from ddbench_medoid import Medoid

from ddbench.context import Context
from ddbench.testing import check_method, sample


@pytest.mark.parametrize("outcome", check_method(Medoid), ids=lambda outcome: outcome.name)
def test_contract(outcome):
    assert outcome.ok, outcome.detail


def test_the_most_central_images_are_chosen(tmp_path):
    train = sample(32)
    distilled = Medoid(side=32).distill(train, 2, Context(0, torch.device("cpu"), tmp_path, tmp_path, "sample"))
    for label in range(len(train.classes)):
        images = train.images[train.of_class(label)].double()
        sums = [sum(float((one - other).square().sum().sqrt()) for other in images) for one in images]
        first, second = sorted(range(len(images)), key=sums.__getitem__)[:2]
        chosen = distilled.images[distilled.labels == label]
        assert torch.equal(chosen, images[[first, second]].byte())


def test_a_side_of_zero_is_refused():
    with pytest.raises(ValueError, match="side must be 1 or more"):
        Medoid(side=0)
