"""Test recorded training dynamics: known answers, one stage for all methods, the same scores after a kill."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from ddbench.methods.cadprune import CADPrune
from ddbench.methods.el2n import EL2N
from ddbench.methods.forgetting import Forgetting
from ddbench.methods.shared.dynamics import draw_pool, outputs_of, ranked
from ddbench.methods.shared.teachers import RECIPES, seed_for
from ddbench.utils.checkpoint import Checkpoint
from evaluators.recipes import Protocol
from evaluators.train import probabilities, train_student

QUICK = CADPrune(epochs=3, budget=3, span=2, windows=1)


@pytest.fixture
def small(few_scenes):
    """The scenes at 16 px, by every second pixel."""
    return replace(few_scenes, images=few_scenes.images[..., ::2, ::2].contiguous())


def records(ctx):
    """The recorded tensors (epochs, 3, n) of every network, in the order of the stages' costs."""
    return [load_file(ctx.shared / cost["folder"] / "dynamics.safetensors")["records"] for cost in ctx.costs]


def test_outputs_of_logits_by_hand():
    """Three equal probabilities: an error of || (2/3, -1/3, -1/3) ||. A sure network: 0, or the root of 2."""
    logits = torch.tensor([[0.0, 0, 0], [0, 0, 0], [99, 0, 0], [99, 0, 0], [0.0, 3.0**0.5, 0]])
    labels = torch.tensor([0, 2, 0, 1, 1])
    correct, error, probability = outputs_of(logits.softmax(1), labels)
    assert correct.tolist() == [1, 0, 1, 0, 1]  # the first class wins a tie
    p = float(logits[4].softmax(0)[1])
    last = ((1 - p) ** 2 + 2 * ((1 - p) / 2) ** 2) ** 0.5
    assert_close(error, torch.tensor([6**0.5 / 3, 6**0.5 / 3, 0, 2**0.5, last]))
    assert_close(probability, torch.tensor([1 / 3, 1 / 3, 1, 0, p]))


def test_of_equal_scores_the_first_comes_first_at_both_ends():
    scores = torch.tensor([1.0, 3, 1, 3, 2, 3, 1])
    assert ranked(scores, 5, "highest", 0.0).tolist() == [1, 3, 5, 4, 0]
    assert ranked(scores, 5, "lowest", 0.0).tolist() == [0, 2, 6, 4, 1]
    assert ranked(torch.zeros(100), 100, "highest", 0.0).tolist() == list(range(100))


def test_an_offset_leaves_out_that_end_as_far_as_enough_remain():
    scores = torch.arange(10.0)
    assert ranked(scores, 3, "highest", 0.2).tolist() == [7, 6, 5]
    assert ranked(scores, 3, "lowest", 0.25).tolist() == [2, 3, 4]
    assert ranked(scores, 3, "highest", 0.9).tolist() == [2, 1, 0]


def test_a_pool_holds_the_same_images_of_every_class(few_scenes):
    pool = draw_pool(few_scenes, 4)
    assert pool.counts() == (4, 4, 4)
    for image, label, name in zip(pool.images, pool.labels, pool.names, strict=True):
        row = few_scenes.names.index(name)
        assert torch.equal(image, few_scenes.images[row])
        assert label == few_scenes.labels[row]
    assert pool.names == draw_pool(few_scenes, 4).names
    assert pool.names != tuple(few_scenes.names[6 * label + i] for label in range(3) for i in range(4))
    assert draw_pool(few_scenes, 7).names == few_scenes.names
    assert draw_pool(few_scenes, 0) is few_scenes


def test_each_epoch_is_recorded_and_the_training_is_unchanged(small, context_of):
    """A training without observation ends with a network of the last record; two epochs of 18 images are two steps."""
    ctx = context_of()
    Forgetting(epochs=2).distill(small, 1, ctx)
    (record,) = records(ctx)
    assert record.shape == (2, 3, 18)
    recipe = replace(RECIPES["adamw"], epochs=2, whole_epochs=True)
    row = Protocol("alone", 1, {"convnet": recipe}, "this test")
    network = train_student(
        small.images, small.labels, student="convnet", protocol=row, num_classes=3,
        seed=seed_for("dynamics 0"), device="cpu",
    )  # fmt: skip
    outputs = outputs_of(probabilities(network, small.images, "cpu"), small.labels)
    assert torch.equal(record[1], outputs)
    assert not torch.equal(record[0], outputs)


def test_all_methods_seeds_and_budgets_share_the_stage(small, context_of):
    Forgetting(epochs=3).distill(small, 1, replace(context_of(), method="forgetting"))
    for method, seed, ipc in ((QUICK, 1, 2), (EL2N(epochs=3, networks=2), 2, 3), (Forgetting(epochs=3), 3, 4)):
        ctx = replace(context_of(seed), method=method.name)
        method.distill(small, ipc, ctx)
        assert [cost["reused"] for cost in ctx.costs] == [True, False][: method.networks]


def test_the_ranking_is_the_slow_one(small, context_of):
    """Compare with a sort by the mean of two networks, class by class."""
    for keep, sign in (("highest", -1), ("lowest", 1)):
        ctx = context_of()
        distilled = EL2N(epochs=2, networks=2, epoch=1, keep=keep).distill(small, 4, ctx)
        first, second = (record[0, 1] for record in records(ctx))
        assert not torch.equal(first, second)
        scores = ((first + second) / 2).tolist()
        for label in range(3):
            rows = sorted(small.of_class(label).tolist(), key=lambda row: (sign * scores[row], row))[:4]
            assert list(distilled.names[4 * label : 4 * label + 4]) == [small.names[row] for row in rows]


def test_more_images_than_there_are_is_refused(small, context_of):
    with pytest.raises(ValueError, match="cannot choose 7 images per class: beach 6"):
        Forgetting().distill(small, 7, context_of())
    with pytest.raises(ValueError, match="cannot choose 5 of 4 images per class: set images=5 or more, or 0"):
        Forgetting(images=4).distill(small, 5, context_of())


@pytest.mark.slow
def test_a_stage_that_was_stopped_continues_to_the_same_records(small, context_of, tmp_path, monkeypatch):
    """The kill comes after the save of step 20, whose epoch is recorded by then; 18 images are a step per epoch."""
    save, method, images, tensors = Checkpoint.save, Forgetting(epochs=23), [], []
    monkeypatch.setattr(Checkpoint, "beside", lambda stage: Checkpoint(tmp_path / stage.name, every=0.0))

    def save_and_stop(self, tensors, progress):
        save(self, tensors, progress)
        raise KeyboardInterrupt

    for name in ("whole", "halves"):
        ctx = replace(context_of(), shared=tmp_path / name)
        if name == "halves":
            next(tmp_path.glob(".dynamics-*")).unlink()
            monkeypatch.setattr(Checkpoint, "save", save_and_stop)
            with pytest.raises(KeyboardInterrupt):
                method.distill(small, 2, ctx)
            monkeypatch.setattr(Checkpoint, "save", save)
            saved = load_file(next(tmp_path.glob(".dynamics-*")))["records"]
        images.append(method.distill(small, 2, ctx).images)
        tensors += records(ctx)
    assert tensors[0].shape == (23, 3, 18)
    assert torch.equal(saved, tensors[0][:20])
    assert torch.equal(*tensors)
    assert torch.equal(*images)
    assert ctx.costs[-1]["earlier_seconds"] > 0
