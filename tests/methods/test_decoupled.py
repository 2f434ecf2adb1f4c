"""RDED and SRe2L: what is chosen, what is minimised, against slow versions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ddbench.methods import rded, sre2l
from ddbench.methods.rded import RDED
from ddbench.methods.shared.teachers import train_teacher
from ddbench.methods.sre2l import SRe2L
from ddbench.utils.checkpoint import Checkpoint
from evaluators.augment import MEAN, STD
from evaluators.students import build

QUICK = {"epochs": 1, "least": 2}


def numbers(seed=0):
    return torch.Generator().manual_seed(seed)


class Brightness(nn.Module):
    """Says class 1 the surer, the brighter an image is."""

    def __init__(self):
        super().__init__()
        self.still = nn.Parameter(torch.zeros(1))

    def forward(self, images):
        light = images.mean((1, 2, 3))
        return torch.stack([-light, light], 1)


def test_doubts_are_of_the_piece_in_the_middle_of_grey():
    pieces = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8, generator=numbers())
    whole = torch.full((5, 3, 16, 16), 0.5)
    whole[:, :, 4:12, 4:12] = pieces.float() / 255
    expected = F.cross_entropy(Brightness()(whole), torch.ones(5, dtype=torch.long), reduction="none").detach()
    torch.testing.assert_close(rded.label_cross_entropy(Brightness(), pieces, 1, 16, batch=2), expected)


def test_the_surest_piece_of_each_image_then_the_surest_images(few_scenes, context_of):
    method = RDED(images=6, crops=4)
    best = method._best_pieces(few_scenes, 1, 3, 2, Brightness(), context_of())
    own = context_of().generator("rded", few_scenes.classes[1])
    rows = few_scenes.of_class(1)[torch.randperm(6, generator=own)]
    tries = [rded.crop_pieces(few_scenes.images[rows], 2, 0.08, own) for _ in range(4)]
    surest = []
    for i in range(6):
        of_image = [t[i] for t in tries]
        doubts = [float(rded.label_cross_entropy(Brightness(), piece[None], 1, 32)) for piece in of_image]
        surest.append((min(doubts), of_image[doubts.index(min(doubts))]))
    expected = [piece for _, piece in sorted(surest, key=lambda pair: pair[0])][:3]
    assert torch.equal(best, torch.stack(expected))


def test_pieces_are_squares_of_the_image():
    image = torch.arange(32 * 32).view(1, 1, 32, 32).expand(64, 3, -1, -1) % 256
    pieces = rded.crop_pieces(image.to(torch.uint8), 2, 1.0, numbers())
    assert pieces.shape == (64, 3, 16, 16)
    assert all(torch.equal(piece, pieces[0]) for piece in pieces)  # the whole image every time
    assert len({tuple(p.flatten().tolist()) for p in rded.crop_pieces(image.to(torch.uint8), 2, 0.08, numbers())}) > 60


def test_tiles_lie_row_by_row():
    pieces = torch.arange(8).view(8, 1, 1, 1).expand(-1, 3, 2, 2)  # two images of 2 x 2 pieces
    first, second = rded.tile_pieces(pieces, 2)
    assert first[0].tolist() == [[0, 0, 2, 2], [0, 0, 2, 2], [4, 4, 6, 6], [4, 4, 6, 6]]
    assert torch.equal(second, first + 1)


def test_rded_brings_its_teachers_opinions(few_scenes, context_of):
    method = RDED(images=6, crops=2, factor=1, teacher="convnet", **QUICK)
    made = method.distill(few_scenes, 2, context_of())
    made.check(2)
    assert made.soft_labels.shape == (6, 3)
    assert replace(method, soft=False).distill(few_scenes, 2, context_of()).soft_labels is None
    with pytest.raises(ValueError, match="2 images of 4 pieces need 8 images per class: beach 6"):
        replace(method, factor=2).distill(few_scenes, 2, context_of())


def test_statistics_are_those_of_what_enters_a_batch_norm():
    net, images = build("resnet18", 32, 3, 0).eval(), torch.rand(4, 3, 32, 32, generator=numbers())
    with sre2l.batch_norm_distances(net) as distances:
        net(images)
    assert len(distances) == 20  # one for each batch norm of a ResNet-18
    entered = net.body[0]((images - MEAN) / STD) if isinstance(net.body, nn.Sequential) else net.body.conv1(
        (images - MEAN) / STD
    )  # fmt: skip
    mean, var = entered.mean((0, 2, 3)), ((entered - entered.mean((0, 2, 3), keepdim=True)) ** 2).mean((0, 2, 3))
    expected = mean.norm() + (var - 1).norm()  # a fresh norm's own: mean 0, variance 1
    torch.testing.assert_close(distances[0], expected)
    net(images)
    assert len(distances) == 20  # nobody listens any more


def test_adam_is_torchs():
    ours, theirs = torch.randn(6, generator=numbers()), nn.Parameter(torch.randn(6, generator=numbers()))
    moments, optimizer = (torch.zeros(6), torch.zeros(6)), torch.optim.Adam([theirs], lr=0.1, betas=sre2l.BETAS)
    for step in range(4):
        gradient = torch.randn(6, generator=numbers(step))
        theirs.grad = gradient.clone()
        optimizer.step()
        sre2l.adam_step_(ours, gradient, moments, 0.1, step)
    torch.testing.assert_close(ours, theirs.detach())


def test_one_crop_and_one_roll_for_the_whole_batch():
    image = torch.rand(1, 3, 16, 16, generator=numbers())
    batch = sre2l.roll_randomly(sre2l.resized_crop(image.expand(3, -1, -1, -1), 0.3, numbers(1)), 4, numbers(2))
    assert torch.equal(batch[0], batch[2])
    whole = sre2l.resized_crop(image, 1.0, numbers(3))
    assert torch.equal(whole, image) or torch.equal(whole, image.flip(3))
    assert torch.equal(sre2l.roll_randomly(image, 0, numbers()), image)


def test_sre2l_lowers_its_loss_batch_by_batch(few_scenes, context_of, monkeypatch):
    losses = []
    original = SRe2L._iteration
    monkeypatch.setattr(SRe2L, "_iteration", lambda *given: losses.append(original(*given)) or losses[-1])
    made = SRe2L(iterations=8, smallest=1.0, roll=0, rate=0.1, **QUICK).distill(few_scenes, 2, context_of())
    made.check(2)
    assert len(losses) == 16
    assert losses[7] < losses[0]
    assert losses[15] < losses[8]
    assert made.soft_labels is not None


def test_methods_with_a_teacher_share_it(few_scenes, context_of):
    for method in (RDED(teacher="resnet18", **QUICK), SRe2L(iterations=1, **QUICK)):
        ctx = replace(context_of(), method=method.name)
        method.distill(few_scenes, 1, ctx)
    assert [cost["reused"] for cost in ctx.costs if cost["stage"] == "teacher"] == [True]


def test_a_teacher_that_was_stopped_continues_to_the_same_weights(few_scenes, context_of, tmp_path, monkeypatch):
    steps, save, teachers = (1, 25, 0), Checkpoint.save, []
    monkeypatch.setattr(Checkpoint, "beside", lambda stage: Checkpoint(tmp_path / stage.name, every=0.0))

    def save_and_stop(self, tensors, progress):
        save(self, tensors, progress)
        if progress.step == 20:
            raise KeyboardInterrupt

    for name in ("whole", "halves"):
        ctx = replace(context_of(), shared=tmp_path / name)
        if name == "halves":
            next(tmp_path.glob(".teacher-*")).unlink()
            monkeypatch.setattr(Checkpoint, "save", save_and_stop)
            with pytest.raises(KeyboardInterrupt):
                train_teacher(few_scenes, ctx, "convnet", *steps)
            monkeypatch.setattr(Checkpoint, "save", save)
        teachers.append(train_teacher(few_scenes, ctx, "convnet", *steps).state_dict())
    assert all(torch.equal(tensor, teachers[1][name]) for name, tensor in teachers[0].items())
    assert ctx.costs[-1]["earlier_seconds"] > 0
