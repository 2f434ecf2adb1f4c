"""Test teachers: shared between methods, resumed; their trainings described."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import pairwise

import pytest
import torch

from ddbench.methods.el2n import EL2N
from ddbench.methods.rded import RDED
from ddbench.methods.shared.teachers import RECIPES, TeacherConfig, train_teacher
from ddbench.methods.sre2l import SRe2L
from ddbench.utils.checkpoint import Checkpoint
from evaluators.protocols import protocol

QUICK = {"epochs": 1, "least": 2}


@pytest.mark.parametrize("cls", [RDED, SRe2L, EL2N])
def test_the_setting_describes_every_training(cls):
    (training,) = (field for field in fields(cls) if field.name == "training")
    assert all(f"({name})" in training.metadata["help"] for name in RECIPES)


@pytest.mark.slow
def test_methods_with_a_teacher_share_it(few_scenes, context_of):
    for method in (RDED(teacher="resnet18", **QUICK), SRe2L(iterations=1, **QUICK)):
        ctx = replace(context_of(), method=method.name)
        method.distill(few_scenes, 1, ctx)
    assert [cost["reused"] for cost in ctx.costs if cost["stage"] == "teacher"] == [True]


def test_a_teacher_may_be_trained_as_published(few_scenes, context_of):
    """A stage of its own, of whole epochs whatever the bounds of the steps."""
    ctx = context_of()
    quick = TeacherConfig("convnet", 1, 2, 0)
    nets = [train_teacher(few_scenes, ctx, replace(quick, training=name)).state_dict() for name in RECIPES]
    assert [cost["reused"] for cost in ctx.costs] == [False] * len(RECIPES)
    for one, other in pairwise(nets):
        assert any(not torch.equal(one[name], other[name]) for name in one)
    recipe = replace(RECIPES["sgd"], epochs=200, min_steps=5, max_steps=9)
    assert recipe.steps(50_000) == 200 * 391


@pytest.mark.parametrize(("name", "epochs"), [("squeeze", 200), ("squeeze-tiny", 50)])
def test_squeeze_is_the_protocols_row_by_the_methods_constants(name, epochs):
    row = protocol(f"{name}@1").recipe("resnet18")
    assert replace(RECIPES[name], epochs=epochs, normalise="data", precision="fp32") == row


@pytest.mark.slow
def test_a_teacher_that_was_stopped_continues_to_the_same_weights(few_scenes, context_of, tmp_path, monkeypatch):
    config, save, teachers = TeacherConfig("convnet", 1, 10, 0), Checkpoint.save, []
    monkeypatch.setattr(Checkpoint, "beside", lambda stage: Checkpoint(tmp_path / stage.name, every=0.0))
    monkeypatch.setattr("evaluators.train.CHECK_EVERY", 3)

    def save_and_stop(self, tensors, progress):
        save(self, tensors, progress)
        if progress.step == 6:
            raise KeyboardInterrupt

    for name in ("whole", "halves"):
        ctx = replace(context_of(), shared=tmp_path / name)
        if name == "halves":
            next(tmp_path.glob(".teacher-*")).unlink()
            monkeypatch.setattr(Checkpoint, "save", save_and_stop)
            with pytest.raises(KeyboardInterrupt):
                train_teacher(few_scenes, ctx, config)
            monkeypatch.setattr(Checkpoint, "save", save)
        teachers.append(train_teacher(few_scenes, ctx, config).state_dict())
    assert all(torch.equal(tensor, teachers[1][name]) for name, tensor in teachers[0].items())
    assert ctx.costs[-1]["earlier_seconds"] > 0
