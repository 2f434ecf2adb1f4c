"""Test an iteration of MTT against an unrolled version; its batches; settings that are refused."""

from __future__ import annotations

import pytest
import torch
from small_networks import MOMENTUM, near

from ddbench import config
from ddbench.methods.mtt import MTT, Learned, teacher_labels
from ddbench.methods.pixels import experts
from ddbench.methods.pixels.loop import MatchingSetup, MomentumSGD, initial_pixels
from evaluators import dsa

LABELS = torch.arange(3).repeat_interleave(2)
SMALL = {"steps": 3, "expert_epochs": 1, "latest": 2, "experts": 2, "epochs": 2, "expert_batch": 4}
SMALL |= {"rate": 100, "rate_rate": 1e-8}


PUBLISHED = {  # facts about the settings of the authors: N, M, T+, batch, whitened, rate, rate of alpha, alpha
    "cifar10-ipc1": (50, 2, 2, 0, True, 1e2, 1e-7, 1e-2),
    "cifar10-ipc10": (30, 2, 20, 0, True, 1e2, 1e-5, 1e-3),
    "cifar10-ipc50": (30, 2, 40, 0, False, 1e3, 1e-5, 1e-3),
    "cifar100-ipc1": (20, 3, 20, 0, True, 1e3, 1e-5, 1e-2),
    "cifar100-ipc10": (20, 2, 20, 0, False, 1e3, 1e-5, 1e-2),
    "cifar100-ipc50": (80, 2, 40, 125, True, 1e3, 1e-5, 1e-2),
    "tiny-imagenet-ipc1": (10, 2, 10, 0, False, 1e4, 1e-4, 1e-2),
    "tiny-imagenet-ipc10": (20, 2, 40, 200, False, 1e4, 1e-4, 1e-2),
    "tiny-imagenet-ipc50": (20, 2, 40, 300, False, 1e4, 1e-4, 1e-2),
    "imagenet128-ipc1": (20, 2, 10, 0, False, 1e3, 1e-6, 1e-2),
    "imagenet128-ipc10": (20, 2, 10, 20, False, 1e4, 1e-6, 1e-2),
    # TESLA's public code halves the gradient of the images, so half of its rates
    "tesla-cifar10-ipc1": (50, 2, 5, 0, False, 1e3 / 2, 1e-7, 1e-2),
    "tesla-cifar100-ipc50": (80, 2, 40, 125, True, 1e3 / 2, 1e-5, 1e-2),
    "tesla-imagenet64-ipc1": (10, 3, 10, 100, False, 1e4 / 2, 1e-4, 1e-2),
}


@pytest.mark.parametrize("preset", PUBLISHED)
def test_presets_are_the_published_settings(preset):
    """On unbounded floats, of which MTT's public code takes 5000 + 1 iterations, TESLA's 10 000 + 1."""
    m, tesla = config.build(MTT, preset), preset.startswith("tesla")
    settings = (m.steps, m.expert_epochs, m.latest, m.batch, m.normalise == "zca", m.rate, m.rate_rate, m.step_rate)
    assert settings == PUBLISHED[preset]
    assert (m.bounded, m.store_float, m.momentum, m.init) == (False, True, 0.5, "real")
    assert (m.gradient, m.iterations) == (("tesla", 10001) if tesla else ("exact", 5001))
    assert (m.epochs, m.expert_rate, m.expert_batch) == (50, 1e-2, 256)
    small = "data" if preset.startswith(("cifar10-", "tesla-cifar10-")) else "cifar10"
    assert m.normalise in ("zca", "imagenet" if "imagenet" in preset else small)
    assert m.labels == ("teacher" if preset == "tesla-imagenet64-ipc1" else "hard")


def test_a_step_rate_that_climbs_is_reported(few_scenes, context_of, caplog):
    method = MTT(iterations=1, **SMALL | {"rate_rate": 1e6, "rate": 0.0})
    made = method.distill(few_scenes, 1, context_of())
    said = [record.message for record in caplog.records if "step rate" in record.message]
    assert made.learning_rate <= 0
    assert len(said) == 1
    assert "smaller rate_rate" in said[0]


def test_too_few_images_are_said_before_experts_are_trained(few_scenes, context_of):
    with pytest.raises(ValueError, match="cannot start from 7"):
        MTT(iterations=1, **SMALL).distill(few_scenes, 7, context_of())
    assert not list(context_of().shared.glob("expert-*"))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: MTT(latest=0), "latest must be at least 1"),
        (lambda: MTT(experts=0), "experts must be at least 1"),
        (lambda: MTT(rate=float("nan")), "rate must be at least 0"),
    ],
)
def test_impossible_settings_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_batches_of_distilled_images_are_cut_from_permutations():
    steps = MTT(batch=4, steps=5)._student_steps(LABELS, torch.Generator().manual_seed(0))
    assert [len(step.index) for step in steps] == [2, 4, 2, 4, 2]  # popped from the end of 4 + 2
    first, second = steps[0], steps[1]
    assert sorted([*first.index.tolist(), *second.index.tolist()]) == list(range(6))
    assert all(torch.equal(step.labels, step.index // 2) for step in steps)


def test_a_piece_beyond_the_trajectory_is_refused():
    with pytest.raises(ValueError, match="latest may be at most 49"):
        MTT(latest=50, expert_epochs=2, epochs=50)


@pytest.fixture
def bench(few_scenes, context_of):
    return MatchingSetup.of(few_scenes, context_of(3), "convnet", False, "data")


def test_an_iteration_of_mtt(bench):
    """A piece of one expert, unrolled by autograd; pixels and step rate go down their gradients."""
    ctx = bench.ctx
    method = MTT(steps=2, expert_epochs=1, latest=2, experts=2, epochs=2, expert_batch=4)
    training = experts.ExpertConfig("convnet", 2, 1e-2, 4, True)
    paths = [experts.train_expert(index, training, bench) for index in range(2)]
    pixels, alpha = initial_pixels(bench.real, 2, "real", ctx), torch.tensor(0.02)
    learned = Learned(MomentumSGD(pixels, 50.0, MOMENTUM), MomentumSGD(alpha, 1e-4, MOMENTUM), LABELS)
    first, numbers = pixels.clone(), ctx.generator("mtt", 3)
    chosen = paths[torch.randperm(2, generator=ctx.generator("mtt", "experts", 1))[1]]  # the second of the second round
    epoch = int(torch.randint(2, (), generator=numbers))
    begin, goal = (experts.load_snapshot(chosen, t, torch.device("cpu")) for t in (epoch, epoch + 1))
    slow, rate = pixels.clone().requires_grad_(), torch.tensor(0.02, requires_grad=True)
    weights = {k: w.clone().requires_grad_() for k, w in begin.items()}
    for _ in range(2):
        order = torch.randperm(6, generator=numbers)
        seen = dsa.apply(slow.flatten(0, 1)[order], dsa.draw(6, numbers))
        loss = bench.network.loss(weights, seen, LABELS[order])
        slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        weights = {k: w - rate * slope for (k, w), slope in zip(weights.items(), slopes, strict=True)}
    off = sum((weights[k] - goal[k]).square().sum() for k in goal)
    off = off / sum((begin[k] - goal[k]).square().sum() for k in goal)
    by_pixels, by_rate = torch.autograd.grad(off, [slow, rate])
    assert method._iteration(bench, paths, learned, 3) == pytest.approx(float(off.detach()), rel=1e-4)
    near(first - pixels, 50.0 * by_pixels, 1e-2)  # ReLUs that rounding turns
    assert 0.02 - float(alpha) == pytest.approx(1e-4 * float(by_rate), rel=1e-2)


def test_an_iteration_of_tesla_with_the_teachers_labels(bench):
    """Labels: softmax of the later expert on S, no gradient through them; student steps by cross-entropy with them.

    The weights of every step are held, so the loss's gradient is that of the summed steps alone, once per image.
    """
    ctx, steps = bench.ctx, 3
    method = MTT(
        gradient="tesla", labels="teacher", steps=steps, expert_epochs=1, latest=1, experts=1, epochs=1, expert_batch=4,
        augment=False,
    )  # fmt: skip
    path = experts.train_expert(0, experts.ExpertConfig("convnet", 1, 1e-2, 4, False), bench)
    pixels, alpha = initial_pixels(bench.real, 2, "real", ctx), torch.tensor(0.02)
    learned = Learned(MomentumSGD(pixels, 50.0, 0.0), MomentumSGD(alpha, 1e-4, 0.0), torch.zeros(6, 3))
    first = pixels.clone()
    begin, goal = (experts.load_snapshot(path, t, torch.device("cpu")) for t in (0, 1))
    y = bench.network.logits(goal, first.flatten(0, 1)).softmax(1)
    loss = method._iteration(bench, [path], learned, 0)

    assert torch.allclose(learned.labels, y, atol=1e-6)
    assert not torch.allclose(y, torch.eye(3)[LABELS], atol=0.2)
    slow, held, total = first.clone().requires_grad_(), dict(begin), dict.fromkeys(begin, 0)
    for _ in range(steps):
        weights = {k: w.detach().requires_grad_() for k, w in held.items()}
        logits = bench.network.logits(weights, slow.flatten(0, 1))
        cross_entropy = -(y * logits.log_softmax(1)).sum(1).mean()
        slopes = torch.autograd.grad(cross_entropy, list(weights.values()), create_graph=True)
        total = {k: t + slope for (k, t), slope in zip(total.items(), slopes, strict=True)}
        held = {k: w - 0.02 * slope.detach() for (k, w), slope in zip(held.items(), slopes, strict=True)}
    off = sum((begin[k] - 0.02 * total[k] - goal[k]).square().sum() for k in goal)
    off = off / sum((begin[k] - goal[k]).square().sum() for k in goal)
    assert loss == pytest.approx(float(off.detach()), rel=1e-4)
    near(first - pixels, 50.0 * torch.autograd.grad(off, slow)[0], 1e-2)


def test_the_set_carries_the_teachers_labels(few_scenes, context_of):
    method = MTT(iterations=2, gradient="tesla", labels="teacher", **SMALL | {"steps": 1, "experts": 1})
    distilled = method.distill(few_scenes, 2, context_of())
    assert distilled.soft_labels.shape == (6, 3)
    torch.testing.assert_close(distilled.soft_labels.sum(1), torch.ones(6))
    assert not torch.allclose(distilled.soft_labels, torch.eye(3)[LABELS], atol=0.2)


def test_teacher_labels_in_parts_are_the_same(bench):
    theta, images = bench.network.fresh(1), bench.real.normalised(torch.arange(5))
    torch.testing.assert_close(
        teacher_labels(bench.network, theta, images, 2), teacher_labels(bench.network, theta, images)
    )
