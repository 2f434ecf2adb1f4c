"""Test steps on static tensors; on a GPU, that their graph computes the same."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from small_networks import CPU, randn

from ddbench.methods.pixels import repeated
from ddbench.methods.pixels.repeated import RepeatedStep


class Numbers(NamedTuple):
    weights: dict[str, torch.Tensor]
    index: torch.Tensor


def drawn(k):
    return Numbers({"a": randn(4, seed=k), "b": randn(4, seed=k + 50)}, torch.tensor([k % 4, 1]))


def walk(device, capture=True, compute=None):
    """Five steps whose value depends on what is drawn and on the state; return the values and the state."""
    state = torch.zeros(4, device=device)

    def step(numbers):
        state.mul_(0.5).add_(numbers.weights["a"][numbers.index].sum() * numbers.weights["b"])
        return state.square().sum()

    run = RepeatedStep(compute or step, [state], device, capture)
    values = [run(drawn(k)) for k in range(5)]
    return torch.stack(values).cpu(), state.cpu()


def test_a_step_sees_what_was_drawn_last():
    state, expected = torch.zeros(4), []
    for k in range(5):
        numbers = drawn(k)
        state = state * 0.5 + numbers.weights["a"][numbers.index].sum() * numbers.weights["b"]
        expected.append(state.square().sum())
    values, reached = walk(CPU)
    torch.testing.assert_close(reached, state)
    torch.testing.assert_close(values, torch.stack(expected))


def test_what_cannot_be_captured_runs_step_by_step(monkeypatch, caplog):
    """As on a GPU whose capture fails: one line says why, and the steps are the same."""
    expected = walk(CPU)

    def refuse(compute, state, device):
        raise RuntimeError("operation not permitted when stream is capturing\nand more lines")

    monkeypatch.setattr(repeated, "graph_of", refuse)
    step = RepeatedStep(lambda numbers: numbers.index.sum(), [], CPU)
    step._capture = True
    assert [int(step(drawn(k))) for k in range(3)] == [1, 2, 3]
    assert len(caplog.records) == 1
    assert "no CUDA graph, so steps are slower: RuntimeError: operation not permitted" in caplog.text
    assert "more lines" not in caplog.text
    assert torch.equal(expected[1], walk(CPU)[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_graph_computes_the_same(caplog):
    device = torch.device("cuda")
    for one, other in zip(walk(device), walk(device, capture=False), strict=True):
        assert torch.equal(one, other)
    assert not caplog.records

    waits = lambda numbers: numbers.index.sum() * float(numbers.weights["a"].sum())  # noqa: E731
    values, _ = walk(device, compute=waits)
    assert "no CUDA graph" in caplog.text
    assert torch.equal(values, walk(device, capture=False, compute=waits)[0])
