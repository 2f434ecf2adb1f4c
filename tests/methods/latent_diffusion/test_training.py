"""The loop: resuming equals not stopping, averages, errors."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ddbench.methods.latent_diffusion import training
from ddbench.methods.latent_diffusion.training import Checkpoints, Schedule, fit
from ddbench.utils.checkpoint import Checkpoint


def problem(stop_at: int | None = None):
    torch.manual_seed(0)
    net = nn.Linear(4, 3)

    def loss_at(step: int):
        if step == stop_at:
            raise KeyboardInterrupt
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        return (net(x) - x[:, :3]).square().mean()

    return net, loss_at


def plain(iterable):
    return iterable


def test_stopped_and_resumed_equals_uninterrupted(tmp_path):
    schedule = Schedule(30, 1e-2, warmup=5, cosine=True, ema=0.9)
    whole, loss_at = problem()
    fit(whole, loss_at, schedule, plain)
    stopped, loss_at = problem(stop_at=17)
    with pytest.raises(KeyboardInterrupt):
        fit(stopped, loss_at, schedule, plain, Checkpoints(tmp_path, 5))
    resumed, loss_at = problem()
    seen = []
    fit(resumed, lambda step: seen.append(step) or loss_at(step), schedule, plain, Checkpoints(tmp_path, 5))
    assert seen[0] == 15
    assert torch.equal(resumed.weight, whole.weight)
    assert torch.equal(resumed.bias, whole.bias)


def test_slow_steps_are_stored_before_the_next_regular_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "Checkpoint", lambda path: Checkpoint(path, every=0.0))
    net, loss_at = problem(stop_at=3)
    with pytest.raises(KeyboardInterrupt):
        fit(net, loss_at, Schedule(30, 1e-2), plain, Checkpoints(tmp_path, 250))
    assert load_file(tmp_path / "state.safetensors")["step"] == 3


def test_a_weight_that_no_loss_reaches_does_not_stop_a_resume(tmp_path):
    net = nn.ModuleDict({"used": nn.Linear(4, 3), "idle": nn.Linear(2, 2)})
    for steps in (2, 4):
        fit(net, lambda step: net["used"].weight.square().sum(), Schedule(steps, 1e-2), plain, Checkpoints(tmp_path, 2))
    assert load_file(tmp_path / "state.safetensors")["step"] == 4


def test_it_learns_and_the_average_is_not_the_last_weight():
    net, loss_at = problem()
    before = float(loss_at(99).detach())
    fit(net, loss_at, Schedule(300, 3e-2), plain)
    assert float(loss_at(99).detach()) < before / 20
    averaged, loss_at = problem()
    fit(averaged, loss_at, Schedule(300, 3e-2, ema=0.99), plain)
    assert not torch.equal(averaged.weight, net.weight)


@pytest.mark.parametrize(("average", "share"), [("constant", 0.9**20), ("warm", 0.0)])
def test_a_constant_average_keeps_its_share_of_the_first_weights(average, share):
    """Against the sum written out; in Minimax's public code 0.9999 ** 12000 = 30 % remain."""
    net, loss_at = problem()
    seen = [net.weight.detach().clone()]
    schedule = Schedule(20, 1e-2, ema=0.9, average=average)
    fit(net, loss_at, schedule, plain, after=lambda step: seen.append(net.weight.detach().clone()))
    mean, left = seen[0], 1.0
    for step, weight in enumerate(seen[1:]):
        decay = 0.9 if average == "constant" else min(0.9, (1 + step) / (10 + step))
        mean, left = decay * mean + (1 - decay) * weight, left * decay
    torch.testing.assert_close(net.weight.detach(), mean)
    assert left == pytest.approx(share, abs=1e-6)


def test_a_loss_that_is_not_finite_stops_and_is_named():
    net, _ = problem()
    with pytest.raises(FloatingPointError, match="nan at step 3"):
        fit(net, lambda step: net.weight.sum() * (float("nan") if step == 3 else 1), Schedule(9, 1e-3), plain)


def test_learning_rates():
    schedule = Schedule(100, 1.0, warmup=10, cosine=True)
    assert schedule.rate_at(0) == pytest.approx(0.1)
    assert schedule.rate_at(50) == pytest.approx(0.01 + 0.99 / 2)
    assert Schedule(100, 1.0).rate_at(99) == 1.0


def test_rows_of_a_table_of_classes_that_no_step_reads_stay_where_they_are():
    net = nn.ModuleDict({"class_embedder": nn.Embedding(3, 4), "other": nn.Linear(4, 1)})
    before = net["class_embedder"].weight.detach().clone()
    fit(net, lambda step: net["other"](net["class_embedder"].weight[:1]).sum(), Schedule(5, 1e-2, decay=0.5), plain)
    assert torch.equal(net["class_embedder"].weight[1:], before[1:])
    assert not torch.equal(net["class_embedder"].weight[0], before[0])
