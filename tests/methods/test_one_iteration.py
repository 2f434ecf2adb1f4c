"""One iteration of each method that optimises pixels, as a whole, against a slow loop on the same named draws."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ddbench.context import seed_of
from ddbench.methods import sre2l
from ddbench.methods.dc import DC, DSA
from ddbench.methods.dm import DM
from ddbench.methods.mtt import MTT
from ddbench.methods.pixels import experts
from ddbench.methods.pixels.loop import MatchingSetup, MomentumSGD, initial_pixels, normalise
from ddbench.methods.sre2l import SRe2L
from evaluators import dsa
from evaluators.augment import MEAN, STD
from evaluators.students import build

RATE, MOMENTUM = 0.3, 0.5


@pytest.fixture
def bench(few_scenes, context_of):
    return MatchingSetup.of(few_scenes, context_of(3), "convnet", False)


def fresh(train, seed):
    return build("convnet", train.images.shape[-1], len(train.classes), seed)


def drawn(train, label, count, numbers):
    """As documented: different images of the class, normalised."""
    rows = train.of_class(label)
    return normalise(train.images[rows[torch.randperm(len(rows), generator=numbers)[:count]]])


def near(ours, theirs, tolerance=1e-4):
    assert float((ours - theirs).norm()) <= tolerance * float(theirs.norm())


@pytest.mark.parametrize("augment", [True, False])
def test_an_iteration_of_dm(bench, augment):
    train, ctx = bench.real.train, bench.ctx
    pixels = initial_pixels(bench.real, 2, "real", ctx)
    sgd = MomentumSGD(pixels, RATE, MOMENTUM)
    net, slow, loss = fresh(train, seed_of(3, "dm", "network", 5)), pixels.clone().requires_grad_(), 0
    for label, name in enumerate(train.classes):
        numbers = ctx.generator("dm", 5, name)
        real, draw = drawn(train, label, 4, numbers), dsa.draw(1, numbers)
        seen = [dsa.apply(part, draw) if augment else part for part in (real, slow[label])]
        loss = loss + (net.body(seen[0]).mean(0) - net.body(seen[1]).mean(0)).square().sum()
    gradient = torch.autograd.grad(loss, slow)[0]
    first = pixels.clone()
    found = DM(batch=4, augment=augment)._iteration(bench, sgd, 5)
    assert found == pytest.approx(float(loss.detach()), rel=1e-4)
    near(first - pixels, RATE * gradient)
    near(sgd.velocity, gradient)


def matched_rows(net, real, fake, label):
    """The documented distance of the gradients of one class, row by row."""
    parts = list(net.parameters())
    loss = [F.cross_entropy(net(x), torch.full((len(x),), label)) for x in (real, fake)]
    wanted = torch.autograd.grad(loss[0], parts)
    found = torch.autograd.grad(loss[1], parts, create_graph=True)
    total = 0
    for a, b in zip(found, wanted, strict=True):
        if a.ndim > 1:
            norms = a.flatten(1).norm(dim=1) * b.flatten(1).norm(dim=1) + 1e-6
            total = total + (1 - (a * b).flatten(1).sum(1) / norms).sum()
    return total


def body_and_head(net):
    """The network on images that are normalised already."""
    return type("Normalised", (nn.Module,), {
        "__init__": lambda self: (nn.Module.__init__(self), setattr(self, "net", net))[0],
        "forward": lambda self, x: self.net.head(self.net.body(x)),
    })()  # fmt: skip


@pytest.mark.parametrize("cls", [DC, DSA])
def test_an_iteration_of_dc(bench, cls):
    """Matched, moved, the network trained on what came of it for two epochs, matched and moved again."""
    train, ctx, name = bench.real.train, bench.ctx, cls.name
    pixels = initial_pixels(bench.real, 2, "real", ctx)
    slow, velocity, total = pixels.clone(), torch.zeros_like(pixels), 0.0
    net = body_and_head(fresh(train, seed_of(3, name, "network", 1)))
    for j in range(2):
        if j:
            train_on(net, slow, ctx.generator(name, "train", 1, j), cls.augment)
        leaf, terms = slow.clone().requires_grad_(), []
        for label, word in enumerate(train.classes):
            numbers = ctx.generator(name, 1, j, word)
            real, draw = drawn(train, label, 4, numbers), dsa.draw(1, numbers)
            seen = [dsa.apply(part, draw) if cls.augment else part for part in (real, leaf[label])]
            terms.append(matched_rows(net, *seen, label))
        velocity = MOMENTUM * velocity + torch.autograd.grad(sum(terms), leaf)[0]
        slow = slow - RATE * velocity
        total += float(sum(terms).detach()) / 2
    first = pixels.clone()
    sgd = MomentumSGD(pixels, RATE, MOMENTUM)
    found = cls(outer=2, inner=2, batch=4)._iteration(bench, sgd, 1)
    assert found == pytest.approx(total, rel=1e-3)
    near(pixels - first, slow - first, 1e-2)  # through cosines of small gradients, in float32


def train_on(net, pixels, numbers, augment):
    """Two epochs of plain SGD, 0.01, on all distilled images at once; augmented image by image."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    images, labels = pixels.flatten(0, 1), torch.arange(3).repeat_interleave(2)
    for _ in range(2):
        order = torch.randperm(6, generator=numbers)
        batch = dsa.apply(images[order], dsa.draw(6, numbers)) if augment else images[order]
        optimizer.zero_grad()
        F.cross_entropy(net(batch), labels[order]).backward()
        optimizer.step()


def test_an_iteration_of_mtt(bench):
    """A piece of one expert, unrolled by autograd; pixels and step rate go down their gradients."""
    ctx = bench.ctx
    method = MTT(steps=2, expert_epochs=1, latest=2, experts=2, epochs=2, expert_batch=4)
    training = experts.ExpertConfig("convnet", 2, 1e-2, 4, True)
    paths = [experts.train_expert(index, training, bench) for index in range(2)]
    pixels, alpha = initial_pixels(bench.real, 2, "real", ctx), torch.tensor(0.02)
    sgd, alpha_sgd = MomentumSGD(pixels, 50.0, MOMENTUM), MomentumSGD(alpha, 1e-4, MOMENTUM)
    first, numbers = pixels.clone(), ctx.generator("mtt", 3)
    chosen = paths[torch.randperm(2, generator=ctx.generator("mtt", "experts", 1))[1]]  # the second of the second round
    epoch = int(torch.randint(2, (), generator=numbers))
    begin, goal = (experts.load_snapshot(chosen, t, torch.device("cpu")) for t in (epoch, epoch + 1))
    slow, rate = pixels.clone().requires_grad_(), torch.tensor(0.02, requires_grad=True)
    weights, labels = {k: w.clone().requires_grad_() for k, w in begin.items()}, torch.arange(3).repeat_interleave(2)
    for _ in range(2):
        order = torch.randperm(6, generator=numbers)
        seen = dsa.apply(slow.flatten(0, 1)[order], dsa.draw(6, numbers))
        loss = bench.network.loss(weights, seen, labels[order])
        slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        weights = {k: w - rate * slope for (k, w), slope in zip(weights.items(), slopes, strict=True)}
    off = sum((weights[k] - goal[k]).square().sum() for k in goal)
    off = off / sum((begin[k] - goal[k]).square().sum() for k in goal)
    by_pixels, by_rate = torch.autograd.grad(off, [slow, rate])
    assert method._iteration(bench, paths, sgd, alpha_sgd, 3) == pytest.approx(float(off.detach()), rel=1e-4)
    near(first - pixels, 50.0 * by_pixels, 1e-2)  # ReLUs that rounding turns
    assert 0.02 - float(alpha) == pytest.approx(1e-4 * float(by_rate), rel=1e-2)


def test_an_iteration_of_sre2l(few_scenes, context_of):
    """Cross-entropy of one image of each class, distances from the statistics that the norms learned, Adam, a clamp."""
    ctx, iterations = context_of(3), 10
    method = SRe2L(iterations=iterations, rate=0.1, statistics=0.3, first=7.0, smallest=0.5, roll=2)
    model, pixels = build("resnet18", 32, 3, 0).eval().requires_grad_(False), torch.randn(2, 3, 3, 32, 32)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.running_mean.normal_(generator=torch.Generator().manual_seed(1))
        norm.running_var.uniform_(0.5, 2, generator=torch.Generator().manual_seed(2))
    entered, before = [], pixels.clone()
    slow = pixels[1].clone().requires_grad_()
    numbers = ctx.generator("sre2l", 14)
    looked = sre2l.roll_randomly(sre2l.resized_crop(slow, 0.5, numbers), 2, numbers)
    handles = [norm.register_forward_pre_hook(lambda _, given: entered.append(given[0])) for norm in norms]
    surprise = F.cross_entropy(model(looked * STD + MEAN), torch.arange(3))
    [handle.remove() for handle in handles]
    apart = [
        (x.mean((0, 2, 3)) - norm.running_mean).norm() + (x.var((0, 2, 3), unbiased=False) - norm.running_var).norm()
        for x, norm in zip(entered, norms, strict=True)
    ]
    loss = surprise + 0.3 * (7.0 * apart[0] + sum(apart[1:]))
    moments = {"mean": torch.full_like(slow, 0.1), "square": torch.full_like(slow, 0.2)}
    mean = 0.5 * moments["mean"] + 0.5 * (gradient := torch.autograd.grad(loss, slow)[0])
    square = 0.9 * moments["square"] + 0.1 * gradient**2
    rate = 0.1 * 0.5 * (1 + math.cos(math.pi * 4 / iterations))
    moved = before[1] - rate * (mean / (1 - 0.5**5)) / ((square / (1 - 0.9**5)).sqrt() + 1e-8)
    with sre2l.batch_norm_distances(model) as distances:
        found = method._iteration({"pixels": pixels} | moments, model, distances, ctx, 14)
    assert found == pytest.approx(float(loss.detach()), rel=1e-4)
    near(pixels[1], moved.clamp(-2, 2), 1e-3)
    assert torch.equal(pixels[0], before[0])
