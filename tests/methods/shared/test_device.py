"""Work is covered once, in order, whatever fits the device."""

from __future__ import annotations

import pytest
import torch

from ddbench.methods.shared.device import in_batches


def test_batches_cover_the_work_in_order():
    assert list(in_batches(lambda part: (part.start, part.stop), 7, 3)) == [(0, 3), (3, 6), (6, 7)]
    assert list(in_batches(lambda part: 1 / 0, 0, 3)) == []


def test_what_does_not_fit_is_halved_from_then_on(caplog):
    tried = []

    def compute(part: slice) -> list[int]:
        tried.append(part.stop - part.start)
        if tried[-1] > 3:
            raise torch.OutOfMemoryError
        return list(range(part.start, part.stop))

    found = [i for batch in in_batches(compute, 20, 8) for i in batch]
    assert found == list(range(20))
    assert tried == [8, 4, *[2] * 10]
    assert "continuing with 4" in caplog.text


def test_one_that_does_not_fit_is_an_error():
    def compute(part: slice) -> None:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        list(in_batches(compute, 4, 2))
