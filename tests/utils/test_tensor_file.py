"""Tensors written batch by batch make the file that safetensors writes of whole tensors."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ddbench.utils.tensor_file import write_rows


def batches(tensors, size):
    """The rows of all tensors in batches."""
    count = len(next(iter(tensors.values())))
    for start in range(0, count, size):
        yield {name: tensor[start : start + size].numpy() for name, tensor in tensors.items()}


TENSORS = {
    "one": {"features": torch.randn(7, 5)},
    "two": {"std": torch.randn(7, 2, 3, 3).half(), "mean": torch.randn(7, 2, 3, 3).half()},
    "types": {"half": torch.randn(4, 3).half(), "single": torch.randn(4, 1), "also half": torch.randn(4).half()},
    "rows of numbers": {"é": torch.randn(6)},
}


@pytest.mark.parametrize("kind", TENSORS)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_the_file_is_that_of_the_library(kind, size, tmp_path):
    tensors = TENSORS[kind]
    write_rows(tmp_path / "ours", len(next(iter(tensors.values()))), batches(tensors, size))
    save_file(tensors, tmp_path / "theirs")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    read = load_file(tmp_path / "ours")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


def test_rows_that_are_not_contiguous(tmp_path):
    rows = np.arange(12.0, dtype=np.float32).reshape(3, 4).T
    write_rows(tmp_path / "file", 4, [{"x": rows}])
    assert np.array_equal(load_file(tmp_path / "file")["x"].numpy(), rows)


@pytest.mark.parametrize("count", [0, 6, 8])
def test_another_number_of_rows_is_refused(count, tmp_path):
    with pytest.raises(ValueError, match=f"7 rows instead of {count}"):
        write_rows(tmp_path / "file", count, batches(TENSORS["one"], 3))
    with pytest.raises(ValueError, match="no rows instead of 2"):
        write_rows(tmp_path / "file", 2, [])
