"""The latent classifier: margins, what is held back, learning, resuming; the consistency loss it gives."""

from __future__ import annotations

import shutil
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from ddbench.context import global_seed
from ddbench.methods.dpd import classifier as module
from ddbench.methods.dpd.classifier import (
    BestWeights,
    ClassifierConfig,
    LatentClassifier,
    candidate_margins,
    flip_randomly,
    hold_back,
    load_classifier,
    margins,
    train_classifier,
)
from ddbench.methods.dpd.distiller import DPD
from ddbench.methods.latent_diffusion.diffusion import Objective, add_noise, clean_estimate, diffusion_loss, target
from ddbench.methods.latent_diffusion.latents import Latents
from ddbench.methods.latent_diffusion.training import Checkpoints, checkpoints_beside
from ddbench.utils.files import read_json
from ddbench.utils.images import turn

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """A quarter of the width: a sixteenth of the time."""
    monkeypatch.setattr(module, "WIDTHS", tuple(width // 4 for width in module.WIDTHS))


@pytest.fixture
def latents() -> Latents:
    """Twenty latents of each of three classes that differ in the mean of a channel."""
    labels = torch.arange(3).repeat_interleave(20)
    mean = torch.randn(60, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    mean[torch.arange(60), labels] += 1.0
    return Latents(mean.half(), torch.full_like(mean, 0.1).half(), labels, 1.0)


def train(latents, folder, steps=40, progress=lambda items: items):
    with global_seed(0, CPU):
        folder.mkdir(exist_ok=True)
        train_classifier(latents, 3, ClassifierConfig(steps, False), CPU, folder=folder, progress=progress)
    return load_file(folder / "classifier.safetensors"), read_json(folder / "classifier.json")


@pytest.mark.slow
def test_views_are_drawn_for_training_and_left_out_of_the_accuracy(latents, tmp_path):
    """A second view of other latents under the same labels moves the weights; accuracy is that of the first view."""
    other = torch.randn(60, 4, 4, 4, generator=torch.Generator().manual_seed(3)).half()
    both = Latents(torch.cat([latents.mean, other]), latents.std.repeat(2, 1, 1, 1), latents.labels.repeat(2), 1.0)
    with global_seed(0, CPU):
        (tmp_path / "two").mkdir()
        figures = train_classifier(both, 3, ClassifierConfig(40, False, 2), CPU, folder=tmp_path / "two", progress=iter)
    one, _ = train(latents, tmp_path / "one")
    two = load_file(tmp_path / "two" / "classifier.safetensors")
    assert (figures["held_back"], figures["steps"]) == (6, 40)
    assert any(not torch.equal(one[k], two[k]) for k in one)


def test_eight_views_of_an_image_are_all_its_turns_and_mirror_images():
    image = torch.arange(9).view(1, 1, 3, 3)
    seen = {tuple(turn(image, view).flatten().tolist()) for view in range(8)}
    assert len(seen) == 8
    assert torch.equal(turn(image, 0), image)
    assert torch.equal(turn(image, 1), image.flip(3))


def test_margins_against_brute_force():
    logits = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(50) % 6
    slow = [row[y] - max(v for j, v in enumerate(row) if j != y) for row, y in zip(logits, labels, strict=True)]
    assert torch.equal(margins(logits, labels), torch.stack(slow))


def test_the_best_candidate_of_each_prototype_is_kept():
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.idle = nn.Parameter(torch.zeros(1))

        def forward(self, z):
            return z.mean((2, 3))

    z = torch.zeros(6, 2, 1, 1)
    z[:3, 0, 0, 0] = torch.tensor([0.1, 0.9, 0.5])
    z[3:, 1, 0, 0] = torch.tensor([0.1, -3.0, 0.5])
    assert candidate_margins(Mean(), z, [0, 1]).argmax(1).tolist() == [1, 2]


def test_a_tenth_of_each_class_is_held_back():
    labels = torch.cat([torch.zeros(30), torch.ones(10), torch.full((2,), 2), torch.full((1,), 3)]).long()
    kept, held = hold_back(labels)
    assert labels[held].bincount(minlength=4).tolist() == [3, 1, 1, 0]
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(43))


def test_flips_mirror_each_latent_by_itself():
    z = torch.randn(64, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    got = flip_randomly(z, torch.Generator().manual_seed(1))
    ways = {"none": z, "x": z.flip(3), "y": z.flip(2), "both": z.flip(2, 3)}
    which = [[name for name, way in ways.items() if torch.equal(got[i], way[i])] for i in range(64)]
    assert all(len(found) == 1 for found in which)
    assert {found[0] for found in which} == set(ways)


@pytest.mark.slow
def test_it_learns_from_every_view(latents, tmp_path):
    """The second view says the opposite of the first, and there are more of it to learn from: chance, not certainty."""
    turned_round = Latents(latents.mean.roll(1, 1), latents.std, latents.labels, 1.0)
    both = Latents(torch.cat([latents.mean, turned_round.mean]), latents.std.repeat(2, 1, 1, 1),
                   latents.labels.repeat(2), 1.0)  # fmt: skip
    (tmp_path / "two").mkdir()
    with global_seed(0, CPU):
        train_classifier(both, 3, ClassifierConfig(60, False, 2), CPU, folder=tmp_path / "two", progress=iter)
    net = load_classifier(tmp_path / "two", CPU)
    first, second = (float((net(x.means()).argmax(1) == x.labels).float().mean()) for x in (latents, turned_round))
    train(latents, tmp_path / "one")
    net = load_classifier(tmp_path / "one", CPU)
    without = float((net(turned_round.means()).argmax(1) == latents.labels).float().mean())
    assert second > without + 0.2
    assert first > 0.4


def test_it_learns_what_can_be_learned(latents, tmp_path):
    state, record = train(latents, tmp_path / "made", steps=80)
    assert record["accuracy"] == 1.0
    assert record["held_back"] == 6
    net = load_classifier(tmp_path / "made", CPU)
    assert float((net(latents.means()).argmax(1) == latents.labels).float().mean()) > 0.9
    assert all(not p.requires_grad for p in net.parameters())
    assert set(state) == set(LatentClassifier(4, 3).state_dict())


def stop(items):
    for step in items:
        if step == 17:
            raise KeyboardInterrupt
        yield step


@pytest.mark.parametrize("best_at", [12, pytest.param(30, marks=pytest.mark.slow)])
def test_stopped_and_resumed_equals_uninterrupted(best_at, latents, tmp_path, monkeypatch):
    """Running statistics and the best weights so far survive, whether they were best before the stop or after it."""
    steps = []
    monkeypatch.setattr(module, "checkpoints_beside", partial(checkpoints_beside, every=5))
    real = BestWeights.evaluate
    monkeypatch.setattr(BestWeights, "evaluate", lambda self, step: steps.append(step) or real(self, step))
    monkeypatch.setattr(BestWeights, "accuracy", lambda self: 1 / (1 + abs(steps[-1] - best_at)))
    whole, record = train(latents, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(latents, tmp_path / "stopped", progress=stop)
    steps.clear()
    resumed, again = train(latents, tmp_path / "stopped")
    assert steps[0] == 15
    assert again == record
    assert again["best_step"] == best_at + 1
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_a_kill_after_the_last_step_loses_nothing(latents, tmp_path, monkeypatch):
    """The checkpoint says that all steps are done: what was best must still be beside it."""
    with monkeypatch.context() as patch:
        patch.setattr(module, "checkpoints_beside", lambda folder: Checkpoints(tmp_path / "kept", 5))
        first, _ = train(latents, tmp_path / "made")
        shutil.rmtree(tmp_path / "made")
        again, _ = train(latents, tmp_path / "made", progress=lambda items: list(items))
    assert all(torch.equal(first[k], again[k]) for k in first)


def test_the_weights_kept_are_the_best_not_the_last(latents, tmp_path, monkeypatch):
    """Where each evaluation finds a worse accuracy, the weights of the first one are delivered."""
    seen = []

    def falling(best):
        seen.append({k: v.clone() for k, v in best.net.state_dict().items()})
        return 1 / len(seen)

    monkeypatch.setattr(BestWeights, "accuracy", falling)
    state, record = train(latents, tmp_path / "made")
    assert record["best_step"] == 1
    assert all(torch.equal(state[k], seen[0][k]) for k in state)
    assert any(not torch.equal(state[k], seen[-1][k]) for k in state)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_consistency_loss_and_its_gradient_by_hand(prediction):
    """diffusion loss + lambda * abar * CE(f(clean estimate), y), an empty prompt adding nothing, by hand."""
    generator = torch.Generator().manual_seed(0)
    z, abars = torch.randn(4, 2, 3, 3, generator=generator), torch.linspace(0.99, 0.01, 50)
    labels = torch.tensor([0, 2, -1, 1])
    net, judge = nn.Conv2d(2, 2, 1), nn.Sequential(nn.Flatten(), nn.Linear(18, 3))

    extra_loss = DPD(consistency=0.3)._consistency_loss(judge, ClassifierConfig(0, True)).loss
    extra = lambda z0_hat, abar: extra_loss(z0_hat, abar, labels, z)  # noqa: E731
    objective = Objective(abars, prediction, lambda abar, _: torch.ones_like(abar), extra)
    found = diffusion_loss(lambda z_t, t: net(z_t), z, objective, torch.Generator().manual_seed(5))

    again = torch.Generator().manual_seed(5)
    abar = abars[torch.randint(50, (4,), generator=again)]
    eps = torch.randn(z.shape, generator=again)
    z_t = add_noise(z, eps, abar)
    u = net(z_t)
    expected = (u - target(z, eps, abar, prediction)).square().mean()
    for i in (0, 1, 3):
        clean = clean_estimate(z_t[i : i + 1], u[i : i + 1], abar[i : i + 1], prediction)
        expected = expected + 0.3 * abar[i] * F.cross_entropy(judge(clean), labels[i : i + 1]) / 4
    torch.testing.assert_close(found, expected)
    ours, by_hand = (torch.autograd.grad(loss, list(net.parameters())) for loss in (found, expected))
    torch.testing.assert_close(ours, by_hand)


def test_even_weight_over_time_and_none():
    judge, z = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), torch.randn(3, 1, 2, 2)
    labels, abar = torch.tensor([0, 1, -1]), torch.tensor([0.9, 0.5, 0.1])
    extra_loss = DPD(consistency=2.0, consistency_time="even")._consistency_loss(judge, ClassifierConfig(0, True)).loss
    surprise = F.cross_entropy(judge(z[:2]), labels[:2], reduction="none")
    torch.testing.assert_close(extra_loss(z, abar, labels, z), torch.cat([2 * surprise, torch.zeros(1)]))


def test_an_epoch_is_every_image_once_in_batches_of_which_the_last_is_smaller(latents, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 16)
    monkeypatch.setattr(module, "EPOCHS", 1)
    batches = []
    draw = Latents.draw
    monkeypatch.setattr(
        Latents, "draw", lambda self, rows, generator: batches.append(rows) or draw(self, rows, generator)
    )
    (tmp_path / "stage").mkdir()
    train_classifier(latents, 3, ClassifierConfig(0, False), CPU, folder=tmp_path / "stage", progress=iter)
    assert [len(rows) for rows in batches] == [16, 16, 16, 6]
    assert sorted(torch.cat(batches).tolist()) == sorted(hold_back(latents.labels)[0].tolist())
