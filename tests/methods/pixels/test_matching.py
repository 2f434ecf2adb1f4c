"""DM, DC, DSA and MTT: each loss and its gradient against a slow version; draws, states, what is refused."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from ddbench.context import seed_of
from ddbench.methods import dc, dm
from ddbench.methods.dc import DC, DSA
from ddbench.methods.dm import DM
from ddbench.methods.mtt import MTT
from ddbench.methods.pixels import adjoint, experts, loop
from ddbench.methods.pixels.adjoint import StudentStep, TrajectorySegment
from ddbench.methods.pixels.loop import MatchingSetup, RealImages
from ddbench.methods.pixels.network import Network, backprop_through, weight_gradient
from ddbench.methods.shared import checkpoint
from ddbench.utils.checkpoint import Checkpoint
from evaluators.students import build

SIZE, CLASSES = 16, 3
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network():
    return Network("convnet", SIZE, CLASSES, CPU)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def student(weights):
    """The same network as a module, for the slow versions."""
    net = build("convnet", SIZE, CLASSES, 0).to(next(iter(weights.values())).dtype)
    net.load_state_dict(weights)
    return net


def test_networks_are_the_students(network):
    x, weights = randn(4, 3, SIZE, SIZE), network.fresh(7)
    net = build("convnet", SIZE, CLASSES, 7)
    assert torch.equal(network.features(weights, x), net.body(x))
    y = torch.tensor([0, 1, 2, 0])
    assert torch.equal(network.loss(weights, x, y), F.cross_entropy(net.head(net.body(x)), y))


def close(ours, theirs):
    """To 1e-5 of the whole; in float64, where no ReLU is near enough to its edge to be turned by rounding."""
    theirs = theirs.detach()
    assert float((ours - theirs).norm()) <= 1e-5 * float(theirs.norm())


def in_float64(weights):
    return {name: w.double() for name, w in weights.items()}


def test_dm_is_the_squared_distance_of_means(network):
    fake, real = randn(4, 3, SIZE, SIZE).double(), randn(9, 3, SIZE, SIZE, seed=1).double()
    weights = in_float64(network.fresh(1))
    gradient, value = dm.dm_loss(network, weights, fake, dm.mean_feature(network, weights, real))
    net, images = student(weights), fake.clone().requires_grad_()
    ours, theirs = net.body(images), net.body(real)
    expected = sum((ours[:, j].mean() - theirs[:, j].mean()) ** 2 for j in range(ours.shape[1]))
    close(value, expected)
    close(gradient, torch.autograd.grad(expected, images)[0])


def naive_distance(ours, theirs):
    total = 0
    for a, b in zip(ours, theirs, strict=True):
        if a.ndim > 1:
            for row, other in zip(a, b, strict=True):
                row, other = row.reshape(-1), other.reshape(-1)
                total = total + 1 - torch.dot(row, other) / (row.norm() * other.norm() + 1e-6)
    return total


def test_dc_is_the_rowwise_cosine_of_gradients(network):
    fake, real = randn(2, 3, SIZE, SIZE).double(), randn(5, 3, SIZE, SIZE, seed=1).double()
    weights = in_float64(network.fresh(2))
    wanted = weight_gradient(network, weights, real, torch.full((5,), 1))
    gradient, value = dc.dc_loss(network, weights, fake, torch.full((2,), 1), wanted)
    net, images = student(weights), fake.clone().requires_grad_()
    parts = list(net.parameters())
    of_real = torch.autograd.grad(F.cross_entropy(net.head(net.body(real)), torch.full((5,), 1)), parts)
    of_fake = torch.autograd.grad(
        F.cross_entropy(net.head(net.body(images)), torch.full((2,), 1)), parts, create_graph=True
    )
    expected = naive_distance(of_fake, of_real)
    close(value, expected)
    close(gradient, torch.autograd.grad(expected, images)[0])


def a_piece(network, rate=0.02):
    begin = network.fresh(3)
    goal = {name: w + 0.05 * randn(*w.shape, seed=4) for name, w in begin.items()}
    return TrajectorySegment(begin, goal, rate)


def some_steps(n, batch=4):
    numbers = torch.Generator().manual_seed(5)
    for i in range(n):
        index = torch.randperm(6, generator=numbers)[:batch]
        yield StudentStep(index, nn.Identity() if i % 2 else (lambda x: x.flip(3) * 0.9), index % CLASSES)


def unrolled(network, piece, images, steps):
    """The loss by plain autograd through every step."""
    images, rate = images.clone().requires_grad_(), torch.tensor(piece.alpha, requires_grad=True, dtype=images.dtype)
    weights = {name: w.clone().requires_grad_() for name, w in piece.start.items()}
    for step in steps:
        loss = network.loss(weights, step.augment(images[step.index]), step.labels)
        slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        weights = {name: w - rate * slope for (name, w), slope in zip(weights.items(), slopes, strict=True)}
    off = sum((weights[name] - goal).square().sum() for name, goal in piece.target.items())
    loss = off / sum((piece.start[name] - goal).square().sum() for name, goal in piece.target.items())
    return loss.detach(), *torch.autograd.grad(loss, [images, rate])


def test_mtt_is_autograd_through_every_step(network):
    """In float64, so that it is the formula that is compared."""
    piece, images, steps = a_piece(network, 0.02), randn(6, 3, SIZE, SIZE, seed=6).double(), list(some_steps(5))
    piece = TrajectorySegment(in_float64(piece.start), in_float64(piece.target), piece.alpha)
    loss, gradient, by_rate = adjoint.trajectory_gradient(network, piece, images, steps)
    expected = unrolled(network, piece, images, steps)
    assert loss == pytest.approx(float(expected[0]), rel=1e-5)
    assert float((gradient - expected[1]).norm() / expected[1].norm()) < 1e-5
    assert by_rate == pytest.approx(float(expected[2]), rel=1e-5)


@pytest.mark.parametrize("exact", [True, False])
def test_a_step_in_parts_is_the_step(network, exact):
    piece, images, steps = a_piece(network), randn(6, 3, SIZE, SIZE, seed=6), list(some_steps(3, batch=5))
    whole = adjoint.trajectory_gradient(network, piece, images, steps, exact)
    parts = adjoint.trajectory_gradient(network, piece, images, steps, exact, at_once=2)
    assert parts[0] == pytest.approx(whole[0], rel=1e-5)
    assert float((parts[1] - whole[1]).norm() / whole[1].norm()) < 1e-5
    assert parts[2] == pytest.approx(whole[2], rel=1e-4)


def test_mtt_follows_finite_differences():
    """In float64, and with softplus: the gradients that a student follows jump where a ReLU turns on."""
    network = Network("convnet", SIZE, CLASSES, CPU)
    for module in network._skeleton.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.Softplus())
    piece, steps = a_piece(network), list(some_steps(3))
    begin, goal = ({name: w.double() for name, w in part.items()} for part in (piece.start, piece.target))
    images, way = randn(6, 3, SIZE, SIZE, seed=6).double(), randn(6, 3, SIZE, SIZE)
    piece = TrajectorySegment(begin, goal, 0.02)
    _, gradient, by_rate = adjoint.trajectory_gradient(network, piece, images, steps)

    def loss(moved=0.0, rate=0.0):
        return adjoint.trajectory_gradient(network, replace(piece, alpha=0.02 + rate), images + moved * way, steps)[0]

    h = 1e-5
    assert (loss(h) - loss(-h)) / (2 * h) == pytest.approx(float((gradient * way).sum()), rel=1e-3)
    assert (loss(rate=h) - loss(rate=-h)) / (2 * h) == pytest.approx(by_rate, rel=1e-3)


def test_tesla_is_its_closed_form(network):
    """With the weights of every step held still: L = |w0 - r G - w*|^2 / D, G the sum of the gradients."""
    piece, images, steps = a_piece(network), randn(6, 3, SIZE, SIZE, seed=6), list(some_steps(4))
    loss, gradient, by_rate = adjoint.trajectory_gradient(network, piece, images, steps, exact=False)
    pixels, rate = images.clone().requires_grad_(), torch.tensor(piece.alpha, requires_grad=True)
    held, total = dict(piece.start), dict.fromkeys(piece.start, 0)
    for step in steps:
        weights = {name: w.detach().requires_grad_() for name, w in held.items()}
        student_loss = network.loss(weights, step.augment(pixels[step.index]), step.labels)
        slopes = torch.autograd.grad(student_loss, list(weights.values()), create_graph=True)
        total = {name: t + slope for (name, t), slope in zip(total.items(), slopes, strict=True)}
        held = {name: w - piece.alpha * slope.detach() for (name, w), slope in zip(held.items(), slopes, strict=True)}
    off = sum((piece.start[n] - rate * total[n] - goal).square().sum() for n, goal in piece.target.items())
    expected = off / sum((piece.start[n] - goal).square().sum() for n, goal in piece.target.items())
    wanted = torch.autograd.grad(expected, [pixels, rate])
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    assert float((gradient - wanted[0]).norm() / wanted[0].norm()) < 1e-5
    assert by_rate == pytest.approx(float(wanted[1]), rel=1e-4)
    exact = adjoint.trajectory_gradient(network, piece, images, steps)[1]
    assert float((gradient - exact).norm() / exact.norm()) > 1e-3  # it is another gradient


def test_descent_is_torchs_sgd():
    ours, theirs = randn(5), nn.Parameter(randn(5))
    sgd = loop.MomentumSGD(ours, 0.3, 0.5)
    optimizer = torch.optim.SGD([theirs], lr=0.3, momentum=0.5)
    for seed in range(3):
        gradient = randn(5, seed=seed + 1)
        theirs.grad = gradient.clone()
        optimizer.step()
        sgd.step(gradient)
    assert torch.equal(ours, theirs.detach())
    assert torch.equal(sgd.velocity, optimizer.state[theirs]["momentum_buffer"])


def test_gradients_pass_through_what_is_looked_through():
    pixels = randn(2, 3, 4, 4)
    gradient, value = backprop_through(lambda x: 2 * x.flip(3), pixels, lambda seen: (seen, seen.sum()))
    torch.testing.assert_close(gradient, 4 * pixels)  # 2 * flip(2 * flip(x))
    torch.testing.assert_close(value, (2 * pixels).sum())


def test_real_images_are_drawn_of_their_class_without_repetition(few_scenes):
    real = RealImages.of(few_scenes, CPU)
    drawn = real.draw(1, 100, torch.Generator().manual_seed(0))
    own = loop.normalise(few_scenes.images[few_scenes.labels == 1])
    assert len(drawn) == len(own)  # a class smaller than the batch
    assert {tuple(image.flatten().tolist()) for image in drawn} == {tuple(image.flatten().tolist()) for image in own}


def test_real_images_survive_being_stored(few_scenes, context_of):
    pixels = loop.initial_pixels(RealImages.of(few_scenes, CPU), 2, "real", context_of())
    made = loop.to_distilled_set(pixels, few_scenes)
    made.check(2)
    for image, label in zip(made.images, made.labels, strict=True):
        assert any(torch.equal(image, other) for other in few_scenes.images[few_scenes.labels == label])
    assert made.extras["clipped"] == 0
    assert loop.to_distilled_set(pixels * 100, few_scenes).extras["clipped"] > 0.5
    with pytest.raises(FloatingPointError, match="not finite"):
        loop.to_distilled_set(pixels / 0, few_scenes)


def test_too_few_real_images_to_start_from_are_named(few_scenes, context_of):
    with pytest.raises(ValueError, match="cannot start from 7 real images per class: beach 6"):
        DM(iterations=1).distill(few_scenes, 7, context_of())


SMALL = {"steps": 3, "expert_epochs": 1, "latest": 2, "experts": 2, "epochs": 2, "expert_batch": 4}
SMALL |= {"rate": 100, "rate_rate": 1e-8}
METHODS = [
    DM(iterations=4, batch=4),
    DC(iterations=2, outer=2, inner=2, batch=4),
    DSA(iterations=2, outer=2, inner=2, batch=4),
    MTT(iterations=4, **SMALL),
    MTT(iterations=2, batch=4, gradient="tesla", augment=False, **SMALL),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_stopped_and_resumed_is_the_same(method, few_scenes, context_of, tmp_path, monkeypatch):
    whole = method.distill(few_scenes, 2, context_of())
    save = Checkpoint.save

    def save_and_stop(self, tensors, progress):
        save(self, tensors, progress)
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "save", save_and_stop)
    monkeypatch.setattr(Checkpoint.__init__, "__defaults__", (0.0, True))
    context = replace(context_of(), workdir=tmp_path / "halves")
    with pytest.raises(KeyboardInterrupt):
        method.distill(few_scenes, 2, context)
    monkeypatch.setattr(Checkpoint, "save", save)
    resumed = method.distill(few_scenes, 2, context)
    assert torch.equal(whole.images, resumed.images)
    assert whole.extras["loss"] == pytest.approx(resumed.extras["loss"], rel=1e-6)


@pytest.mark.parametrize("method", [*METHODS[:2], METHODS[3]], ids=lambda method: method.name)
def test_bounded_pixels_are_what_is_stored(method, few_scenes, context_of, tmp_path):
    found = {}
    for bounded in (True, False):
        context = replace(context_of(), workdir=tmp_path / str(bounded))
        extras = replace(method, iterations=2, rate=1e4, bounded=bounded).distill(few_scenes, 2, context).extras
        found[bounded] = extras["clipped"], extras["saturated"]
    assert found[True][0] == 0 < found[False][0]
    assert found[True][1] > 0.1


def test_a_loss_that_is_not_finite_stops_it(few_scenes, context_of):
    with pytest.raises(FloatingPointError, match=r"the loss became|not finite"):
        DM(iterations=9, batch=4, rate=1e30, bounded=False).distill(few_scenes, 1, context_of())


@pytest.mark.parametrize("bounded", [True, False])
def test_a_rate_that_is_far_too_high_stops_it(few_scenes, context_of, bounded):
    """Where pixels are brought back into 0..255 nothing is seen of it but a gradient that is not finite, at last."""
    method = DM(iterations=30, batch=4, rate=1e30, init="noise", bounded=bounded)
    if bounded:
        assert method.distill(few_scenes, 1, context_of()).extras["saturated"] > 0.9
    else:
        with pytest.raises(FloatingPointError):
            method.distill(few_scenes, 1, context_of())
    with pytest.raises(FloatingPointError, match="gradient of the images is not finite"):
        loop.MomentumSGD(randn(3), 1.0, 0.5, bounded).step(torch.tensor([0.0, torch.inf, 1.0]))


def test_the_last_good_state_outlives_one_that_is_not_finite(context_of):
    state, context = {"pixels": torch.zeros(2)}, context_of()
    path = context.workdir / checkpoint.PIXELS

    def step(i):
        state["pixels"].fill_(torch.nan if i == 3 else i + 1)
        return 1.0

    with pytest.raises(FloatingPointError, match="pixels became not finite at iteration 3"):
        checkpoint.optimise_with_checkpoints(state, step, 5, context, Checkpoint(path, every=0.0))
    tensors, progress = Checkpoint(path).load()
    assert (tensors["pixels"].tolist(), progress.step, progress.losses) == ([3.0, 3.0], 3, [1.0, 1.0, 1.0])


def test_the_state_is_kept_at_the_end_however_short(context_of):
    context = context_of()
    checkpoint.optimise_with_checkpoints({"pixels": torch.zeros(2)}, float, 2, context)
    assert Checkpoint(context.workdir / checkpoint.PIXELS).load()[1].step == 2


def test_a_former_checkpoint_is_resumed(context_of):
    """Written before the seconds were recorded: the steps were called done, the losses recent."""
    context, steps, pixels = context_of(), [], torch.zeros(2)
    context.workdir.mkdir()
    former = {"pixels": torch.full((2,), 5.0), "done": torch.tensor(3), "recent": torch.tensor([1.0, 2.0, 3.0])}
    save_file(former, context.workdir / checkpoint.PIXELS)
    fitted = checkpoint.optimise_with_checkpoints({"pixels": pixels}, lambda i: steps.append(i) or 6.0, 4, context)
    assert (steps, pixels.tolist(), fitted.loss) == ([3], [5.0, 5.0], 3.0)


def test_a_step_rate_that_climbs_is_reported(few_scenes, context_of, caplog):
    method = MTT(iterations=1, **SMALL | {"rate_rate": 1e6, "rate": 0.0})
    made = method.distill(few_scenes, 1, context_of())
    said = [record.message for record in caplog.records if "step rate" in record.message]
    assert made.extras["step_rate"] <= 0
    assert len(said) == 1
    assert "smaller rate_rate" in said[0]


def test_too_few_images_are_said_before_experts_are_trained(few_scenes, context_of):
    with pytest.raises(ValueError, match="cannot start from 7"):
        MTT(iterations=1, **SMALL).distill(few_scenes, 7, context_of())
    assert not list(context_of().shared.glob("expert-*"))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: DM(batch=0), "batch must be at least 1"),
        (lambda: DC(iterations=0), "iterations must be at least 1"),
        (lambda: MTT(latest=0), "latest must be at least 1"),
        (lambda: MTT(experts=0), "experts must be at least 1"),
        (lambda: MTT(rate=float("nan")), "rate must be at least 0"),
    ],
)
def test_impossible_settings_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_trajectories_begin_with_no_epoch_and_do_not_alias(few_scenes, context_of):
    bench = MatchingSetup.of(few_scenes, context_of(), "convnet", False)
    path = experts.train_expert(0, experts.ExpertConfig("convnet", 3, 0.01, 4, True), bench)
    shots = [experts.load_snapshot(path, epoch, CPU)["head.weight"] for epoch in range(4)]
    assert all(not torch.equal(a, b) for a, b in pairwise(shots))
    assert torch.equal(shots[0], bench.network.fresh(seed_of(0, "expert", "weights", 0))["head.weight"])


def test_experts_are_plain_sgd(few_scenes, context_of):
    """Without augmentation and with one batch an epoch the order does not matter: torch's SGD on all images."""
    bench = MatchingSetup.of(few_scenes, context_of(), "convnet", False)
    path = experts.train_expert(0, experts.ExpertConfig("convnet", 2, 0.05, 1000, False), bench)
    net = build("convnet", few_scenes.images.shape[-1], 3, seed_of(0, "expert", "weights", 0))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(net(few_scenes.images), few_scenes.labels).backward()
        optimizer.step()
    for name, weight in net.named_parameters():
        torch.testing.assert_close(experts.load_snapshot(path, 2, CPU)[name], weight.detach(), rtol=1e-4, atol=1e-5)


def test_an_expert_that_is_stopped_and_resumed_is_the_same(few_scenes, context_of, tmp_path, monkeypatch):
    config, save, paths = experts.ExpertConfig("convnet", 4, 0.05, 5, True, 11), Checkpoint.save, []
    monkeypatch.setattr(Checkpoint, "beside", lambda stage: Checkpoint(tmp_path / stage.name, every=0.0))

    def save_and_stop(self, tensors, progress):
        save(self, tensors, progress)
        if progress.step == 2:
            raise KeyboardInterrupt

    for name in ("whole", "halves"):
        context = replace(context_of(), shared=tmp_path / name)
        setup = MatchingSetup.of(few_scenes, context, "convnet", False)
        if name == "halves":
            monkeypatch.setattr(Checkpoint, "save", save_and_stop)
            next(tmp_path.glob(".expert-*")).unlink()
            with pytest.raises(KeyboardInterrupt):
                experts.train_expert(1, config, setup)
            monkeypatch.setattr(Checkpoint, "save", save)
        paths.append(experts.train_expert(1, config, setup))
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert context.costs[-1]["earlier_seconds"] > 0


def test_batches_of_distilled_images_are_cut_from_permutations():
    steps = MTT(batch=4, steps=5)._student_steps(3, 2, torch.Generator().manual_seed(0), CPU)
    assert [len(step.index) for step in steps] == [2, 4, 2, 4, 2]  # popped from the end of 4 + 2
    first, second = steps[0], steps[1]
    assert sorted([*first.index.tolist(), *second.index.tolist()]) == list(range(6))
    assert all(torch.equal(step.labels, step.index // 2) for step in steps)


def test_a_piece_beyond_the_trajectory_is_refused():
    with pytest.raises(ValueError, match="latest may be at most 49"):
        MTT(latest=50, expert_epochs=2, epochs=50)


@pytest.mark.parametrize(("ipc", "loops"), [(1, (1, 1)), (5, (1, 1)), (7, (10, 50)), (50, (50, 10)), (100, (50, 10))])
def test_dcs_loops_are_those_of_the_nearest_published_ipc(ipc, loops):
    assert DC().loops(ipc) == loops
    assert DC(outer=3, inner=4).loops(ipc) == (3, 4)


def test_dc_starts_from_noise_and_dsa_from_real_images(few_scenes, context_of):
    bench = MatchingSetup.of(few_scenes, context_of(), "convnet", False)
    noise, real = (loop.initial_pixels(bench.real, 2, method().init, context_of()) for method in (DC, DSA))
    assert abs(float(noise.mean())) < 0.05
    assert abs(float(noise.std()) - 1) < 0.05
    own = loop.normalise(few_scenes.images)
    assert all(bool((own == image).flatten(1).all(1).any()) for image in real.flatten(0, 1))


def test_siamese_numbers_are_one_draw_for_both():
    look = loop.dsa_shared(True, torch.Generator().manual_seed(3), CPU)
    images = randn(3, 3, SIZE, SIZE)
    assert torch.equal(look(images)[1:2], look(images[1:2]))
