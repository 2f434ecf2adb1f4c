"""Files, weights and tokenizers that are not whole."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from evaluators.model_checks import ModelError, check_files, check_loaded, check_values


@pytest.fixture
def folder(tmp_path):
    save_file({"a": np.zeros(3)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def test_a_whole_folder_passes(folder):
    check_files(folder, "model")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    check_files(folder, "model")


def test_what_lacks_is_named(folder):
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")
    with pytest.raises(ModelError, match=r"under another name only \(model.fp16.safetensors\)"):
        check_files(folder, "model")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "b.safetensors"}}))
    with pytest.raises(ModelError, match=r"lacks 1 parts of its weights, such as b.safetensors"):
        check_files(folder, "model")
    for path in (folder / "model.safetensors.index.json", folder / "model.fp16.safetensors"):
        path.unlink()
    with pytest.raises(ModelError, match=r"lacks .*model.safetensors"):
        check_files(folder, "model")
    (folder / "more.json").symlink_to(folder / "nowhere")
    with pytest.raises(ModelError, match=r"more.json cannot be read"):
        check_files(folder)


@pytest.mark.parametrize("content", [b"", b"1", b'{"a": ', b"\xff\xfe", b"[" * 100_000])
def test_damaged_json_is_named(folder, content):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"config.json is damaged"):
        check_files(folder)


def test_weights_of_another_model_are_named():
    check_loaded("here", {"missing_keys": set(), "unexpected_keys": ["text.embeddings.position_ids"]})
    report = {"missing_keys": {"b", "a"}, "unexpected_keys": ["c"], "mismatched_keys": [("d", (1,), (2,))]}
    with pytest.raises(ModelError, match=r"here .* lacks 2 weights, such as a; it has 1 .* such as c; it has 1 .* d"):
        check_loaded("here", report)


def test_weights_that_are_no_numbers_or_zero_are_named():
    weights = {"a": torch.ones(10, 10), "bias": torch.zeros(50), "new": torch.zeros(2, 2), "steps": torch.tensor(0)}
    check_values("here", weights.items())  # a bias and a few new embeddings may be zero
    with pytest.raises(ModelError, match=r"here has 2 weights of nothing but zeros, such as new"):
        check_values("here", {**weights, "tail": torch.zeros(4, 4)}.items())
    for value in (float("nan"), float("inf")):
        with pytest.raises(ModelError, match=r"not finite, such as a"):
            check_values("here", {"a": torch.tensor([1, value], dtype=torch.bfloat16)}.items())
