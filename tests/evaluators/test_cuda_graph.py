"""Tests of the parts of CUDA graphs that need no GPU: what is recorded is called again on the same memory."""

import pytest
import torch
from torch import nn

from evaluators.cuda_graph import GraphedStep


def make_step():
    """Return a network of one layer, and its step of SGD with momentum."""
    torch.manual_seed(0)
    network = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)

    def step(images, targets):
        loss = nn.functional.cross_entropy(network(images), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return network, optimizer, step


def drawn_batches(sizes):
    numbers = torch.Generator().manual_seed(1)
    return [(torch.randn(n, 4, generator=numbers), torch.randint(3, (n,), generator=numbers)) for n in sizes]


SIZES = [8, 8, 5, 8, 8, 5, 8, 5, 5, 8, 5]


def test_repeated_steps_are_the_steps_themselves():
    """Batches of two sizes, more than the warm-up: the same losses and weights; earlier losses stay."""
    plain, _, step = make_step()
    expected = [step(*batch) for batch in drawn_batches(SIZES)]
    graphed, _, step = make_step()
    captures = []
    run = GraphedStep(step, capture=lambda call: captures.append(call) or call)
    losses = [run(*batch) for batch in drawn_batches(SIZES)]
    assert torch.equal(torch.stack(losses), torch.stack(expected))
    assert all(torch.equal(a, b) for a, b in zip(graphed.parameters(), plain.parameters(), strict=True))
    assert len(captures) == 2


def test_a_capture_is_forgotten_with_the_optimizers_state():
    _, optimizer, step = make_step()
    captures = []
    run = GraphedStep(step, capture=lambda call: captures.append(call) or call)
    for half in (SIZES[:2] + SIZES[3:5], SIZES[:2] + SIZES[3:5]):
        for batch in drawn_batches(half):
            run(*batch)
        optimizer.state.clear()
        run.forget()
    assert len(captures) == 2


def test_a_step_that_cannot_be_captured_goes_on():
    """On a machine without a GPU, the capture itself fails: one warning, and the steps are not lost."""
    if torch.cuda.is_available():
        pytest.skip("a GPU captures this step")
    plain, _, step = make_step()
    for batch in drawn_batches(SIZES):
        step(*batch)
    eager, _, step = make_step()
    run = GraphedStep(step)
    with pytest.warns(UserWarning, match="no CUDA graph, so the steps run one kernel at a time, slower") as warned:
        _ = [run(*batch) for batch in drawn_batches(SIZES)]
    assert len(warned) == 1
    assert all(torch.equal(a, b) for a, b in zip(eager.parameters(), plain.parameters(), strict=True))
