"""Test expert trajectories."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from ddbench.context import seed_of
from ddbench.methods.pixels import experts
from ddbench.methods.pixels.loop import MatchingSetup
from ddbench.utils.checkpoint import Checkpoint
from evaluators.students import build

CPU = torch.device("cpu")


def test_trajectories_begin_with_no_epoch_and_do_not_alias(few_scenes, context_of):
    bench = MatchingSetup.of(few_scenes, context_of(), "convnet", False, "data")
    path = experts.train_expert(0, experts.ExpertConfig("convnet", 3, 0.01, 4, True), bench)
    shots = [experts.load_snapshot(path, epoch, CPU)["head.weight"] for epoch in range(4)]
    assert all(not torch.equal(a, b) for a, b in pairwise(shots))
    assert torch.equal(shots[0], bench.network.fresh(seed_of(0, "expert", "weights", 0))["head.weight"])


def test_experts_are_plain_sgd(few_scenes, context_of):
    """Without augmentation and with one batch an epoch the order does not matter: torch's SGD on all images."""
    bench = MatchingSetup.of(few_scenes, context_of(), "convnet", False, "constant")
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
        setup = MatchingSetup.of(few_scenes, context, "convnet", False, "data")
        if name == "halves":
            monkeypatch.setattr(Checkpoint, "save", save_and_stop)
            next(tmp_path.glob(".expert-*")).unlink()
            with pytest.raises(KeyboardInterrupt):
                experts.train_expert(1, config, setup)
            monkeypatch.setattr(Checkpoint, "save", save)
        paths.append(experts.train_expert(1, config, setup))
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert context.costs[-1]["earlier_seconds"] > 0
