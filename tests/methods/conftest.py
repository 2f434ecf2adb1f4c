"""A context, DPD and stages on a small pipeline."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_networks import CLASSES, CPU, SIZE

from ddbench.context import Context
from ddbench.methods.dpd.distiller import DPD
from ddbench.methods.latent_diffusion.model import load_model
from ddbench.methods.latent_diffusion.stages import Stages
from ddbench.methods.pixels.loop import MatchingSetup
from ddbench.methods.pixels.network import Network
from ddbench.methods.shared import few_shot


@pytest.fixture
def context_of(tmp_path):
    """A function from a seed to a quiet CPU context; all share one folder of stages."""

    def make(seed: int = 0) -> Context:
        return Context(seed, torch.device("cpu"), tmp_path / "work", tmp_path / "shared", "scenes-32", quiet=True)

    return make


@pytest.fixture(params=["data", "constant"])
def bench(few_scenes, context_of, request) -> MatchingSetup:
    """A pixel method's setup on a few scenes, with each kind of normalisation."""
    return MatchingSetup.of(few_scenes, context_of(3), "convnet", False, request.param)


@pytest.fixture
def method(pipeline) -> DPD:
    """DPD on it, a few steps of everything."""
    return DPD(base=str(pipeline), captioner="template", tune_steps=3, tune_batch=4, consistency=0.0, steps=3, batch=4)


@pytest.fixture
def short_training(monkeypatch):
    """Two few-shot networks of two steps; five images of a class have features."""
    monkeypatch.setattr(few_shot, "RECIPE", replace(few_shot.RECIPE, min_steps=2, max_steps=2))
    monkeypatch.setattr(few_shot, "NETWORKS", 2)
    monkeypatch.setattr(few_shot, "SAMPLE", 5)


@pytest.fixture
def stages(pipeline, few_scenes, context_of) -> Stages:
    """The stages of the pipeline on a few scenes."""
    return Stages(load_model(str(pipeline), torch.device("cpu")), few_scenes, context_of(), 8)


@pytest.fixture(scope="module")
def network() -> Network:
    """A convnet of `small_networks.SIZE` and `CLASSES`."""
    return Network("convnet", SIZE, CLASSES, CPU)
