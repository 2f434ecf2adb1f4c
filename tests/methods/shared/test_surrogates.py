"""Test surrogates: their training, their gradients and the choice of snapshots, against slow versions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from small_networks import randn

from ddbench.methods.shared import surrogates
from ddbench.methods.shared.surrogates import (
    RANGE,
    SurrogateConfig,
    TargetConfig,
    choose_snapshots,
    class_gradient,
    flat_weights,
    image_gradients,
    load_surrogate,
    train_surrogate,
)
from ddbench.methods.shared.teachers import seed_for
from ddbench.utils.checkpoint import Checkpoint
from evaluators.batches import batches
from evaluators.recipes import Recipe
from evaluators.seeds import seed_of
from evaluators.students import build

QUICK = SurrogateConfig("convnet", epochs=3, rate=0.05, decay=5e-3, batch=64)


@pytest.fixture
def small(few_scenes):
    """The scenes at 16 px, by every second pixel."""
    return replace(few_scenes, images=few_scenes.images[..., ::2, ::2].contiguous())


@pytest.fixture(scope="module")
def network():
    return build("convnet", 16, 3, 0, normalisation=RANGE)


def load(weights, network):
    """The network with flat weights."""
    torch.nn.utils.vector_to_parameters(weights, network.parameters())
    return network


def slow_gradient(network, weights, images, labels):
    """The gradient (p,) of the mean cross-entropy of images in [-1, 1], by the network's layers alone."""
    net = load(weights, build("convnet", 16, 3, 0))
    loss = F.cross_entropy(net.head(net.body(images)), labels)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))])


def test_snapshots_are_those_of_plain_sgd_on_pixels_of_minus_one_to_one(small, context_of):
    """18 images are one step per epoch: momentum 0.9, decay of all weights, and the same rate to the end."""
    file = train_surrogate(small, context_of(), QUICK)
    snapshots, seed = load_file(file)["weights"], seed_for("surrogate")
    assert snapshots.shape[0] == 4
    net = build("convnet", 16, 3, seed_of(seed, "weights"))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-3)
    recipe = Recipe("sgd", lr=0.1, weight_decay=0.0, batch=64, epochs=3, whole_epochs=True, augment=surrogates.AUGMENT)
    stream = batches(small.images, small.labels, recipe, seed)
    assert torch.equal(snapshots[0], flat_weights(net))
    for weights in snapshots[1:]:
        grey, labels = next(stream)
        optimizer.zero_grad()
        F.cross_entropy(net.head(net.body(2 * grey - 1)), labels).backward()
        optimizer.step()
        moved = flat_weights(net) - snapshots[0]
        assert float((weights - flat_weights(net)).norm()) < 2e-3 * float(moved.norm())  # rounding turns some ReLU


def test_the_gradient_of_a_class_is_the_mean_of_all_its_images(network, small, monkeypatch):
    monkeypatch.setattr(surrogates, "PART", 4)
    weights = flat_weights(network)
    images = small.images[:6]
    expected = slow_gradient(network, weights, images / 127.5 - 1, torch.full((6,), 2))
    torch.testing.assert_close(class_gradient(network, weights, images, 2), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("student", ["convnet", "resnet_ap10"])
def test_gradients_of_images_and_their_derivative_are_those_of_a_loop(student):
    """In float64, of networks of each kind: no image changes another's gradient."""
    network = build(student, 16, 3, 1, normalisation=RANGE).double()
    weights = torch.cat([p.detach().flatten() for p in network.parameters()])
    images, labels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).double(), torch.tensor([2, 0])
    direction = randn(2, len(weights)).double()
    x = images.clone().requires_grad_()
    gradients = image_gradients(network.requires_grad_(False), weights, x, labels)
    (derivative,) = torch.autograd.grad((gradients * direction).sum(), x)
    for i in range(2):
        x = images[i : i + 1].clone().requires_grad_()
        parameters = list(network.requires_grad_(True).parameters())
        loss = F.cross_entropy(network(x), labels[i : i + 1])
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, create_graph=True)])
        torch.testing.assert_close(gradients[i], gradient)
        torch.testing.assert_close(derivative[i], torch.autograd.grad(gradient @ direction[i], x)[0][0])


def test_a_snapshot_is_chosen_when_gradients_have_turned_away_from_the_last_chosen_one():
    """The mean cosine of two classes must be below 0.7: an angle of 46 degrees of both, or 84 of one."""
    turns = torch.tensor([[0, 0], [40, 40], [50, 50], [90, 90], [50, 130], [50, 130], [100, 200.0]]).deg2rad()
    of_classes = lambda epoch: 3 * torch.stack([turns[epoch].cos(), turns[epoch].sin()], 1)  # noqa: E731
    assert choose_snapshots(of_classes, range(7), 0.7) == [0, 2, 4, 6]
    assert choose_snapshots(of_classes, range(7), -1.0) == [0]
    assert choose_snapshots(of_classes, range(3), 1.1) == [0, 1, 2]


def test_targets_are_class_gradients_at_the_chosen_snapshots(small, context_of):
    """All six images of a class; a stage for all seeds, and another for other settings of the choice."""
    every = TargetConfig(1.1, 2, 6)
    ctx = context_of()
    surrogate = load_surrogate(small, ctx, QUICK, every)
    snapshots = load_file(ctx.shared / ctx.costs[0]["folder"] / "trajectory.safetensors")["weights"]
    assert torch.equal(surrogate.weights, snapshots)
    assert ctx.costs[1]["snapshots"] == [0, 1, 2, 3]
    targets = surrogate.targets([2, 0])
    for row, label in zip(targets, (2, 0), strict=True):
        images = small.images[small.of_class(label)] / 127.5 - 1
        for gradient, weights in zip(row, snapshots, strict=True):
            expected = slow_gradient(surrogate.network, weights, images, torch.full((6,), label))
            torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)
    again = context_of(1)
    load_surrogate(small, again, QUICK, every)
    assert [cost["reused"] for cost in again.costs] == [True, True]
    first = load_surrogate(small, again, QUICK, replace(every, similarity=-1.0))
    assert torch.equal(first.weights, snapshots[:1])
    assert [cost["reused"] for cost in again.costs[2:]] == [True, False]


@pytest.mark.slow
def test_a_training_that_was_stopped_continues_to_the_same_snapshots(small, context_of, tmp_path, monkeypatch):
    """The kill comes after the save of step 20."""
    save, config = Checkpoint.save, replace(QUICK, epochs=23)
    monkeypatch.setattr(Checkpoint, "beside", lambda stage: Checkpoint(tmp_path / stage.name, every=0.0))

    def save_and_stop(self, tensors, progress):
        save(self, tensors, progress)
        raise KeyboardInterrupt

    whole = load_file(train_surrogate(small, context_of(), config))["weights"]
    next(tmp_path.glob(".surrogate-*")).unlink()
    halves = replace(context_of(), shared=tmp_path / "halves")
    monkeypatch.setattr(Checkpoint, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train_surrogate(small, halves, config)
    assert torch.equal(load_file(next(tmp_path.glob(".surrogate-*")))["weights"], whole[:21])
    monkeypatch.setattr(Checkpoint, "save", save)
    assert torch.equal(load_file(train_surrogate(small, halves, config))["weights"], whole)
    assert halves.costs[-1]["earlier_seconds"] > 0
