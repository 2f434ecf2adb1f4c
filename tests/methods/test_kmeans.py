"""Test k-means selection against the best of all partitions, and its stages shared with DPD."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from ddbench.methods.dpd.distiller import DPD
from ddbench.methods.kmeans import KMeans
from ddbench.methods.latent_diffusion.model import load_model
from ddbench.methods.latent_diffusion.stages import Stages
from ddbench.methods.shared.selection import real_features
from ddbench.testing import check_method


def best_in_two(points):
    """Try every partition of points (n, d) in two; return the one with the least squared distances to the means."""
    n = len(points)
    parts = [list(some) for k in range(1, n) for some in combinations(range(n), k) if 0 in some]
    pairs = [(part, [i for i in range(n) if i not in part]) for part in parts]
    spread = lambda part: ((points[part] - points[part].mean(0)) ** 2).sum()  # noqa: E731
    return min(pairs, key=lambda pair: spread(pair[0]) + spread(pair[1]))


def slow_choice(points, choice, alpha):
    """Return the two members of the best partition in two that the rule keeps."""
    points = points / np.linalg.norm(points, axis=1, keepdims=True)
    pair = best_in_two(points)
    chosen = set()
    for part, other in (pair, pair[::-1]):
        intra = np.linalg.norm(points[part] - points[part].mean(0), axis=1)
        inter = np.linalg.norm(points[part] - points[other].mean(0), axis=1)
        chosen.add(part[int(np.argmin(intra.round(6) if choice == "nearest" else alpha * intra - inter))])
    return chosen


@pytest.mark.parametrize(("choice", "alpha"), [("nearest", 1.0), ("margin", 1.0), ("margin", 0.1)])
@pytest.mark.parametrize("features", ["network", "latents"])
def test_k_means_agrees_with_the_slow_one(features, choice, alpha, few_scenes, context_of, pipeline):
    """With two clusters of six images the best partition is known, and k-means finds it."""
    method = KMeans(features, choice, trained=False, base=str(pipeline), alpha=alpha)
    distilled = method.distill(few_scenes, 2, context_of())
    if features == "network":
        points = real_features(few_scenes, context_of(), "convnet", False)
    else:
        points = Stages(load_model(str(pipeline), torch.device("cpu")), few_scenes, context_of(), 8).latents().means()
    for label in range(3):
        rows = few_scenes.of_class(label)
        expected = {few_scenes.names[int(rows[i])] for i in slow_choice(points[rows].flatten(1).numpy(), choice, alpha)}
        assert {name for name, of in zip(distilled.names, distilled.labels, strict=True) if of == label} == expected


def test_the_rules_and_the_features_choose_other_images(few_scenes, context_of, pipeline):
    methods = [KMeans(features, choice, trained=False, base=str(pipeline), alpha=0.1)
               for features in ("network", "latents") for choice in ("nearest", "margin")]  # fmt: skip
    assert len({method.distill(few_scenes, 2, context_of()).names for method in methods}) == 4


def test_k_means_of_latents_with_the_margin_rule_is_dpds_prototypes(method, few_scenes, context_of):
    ctx = context_of()
    prototypes = replace(method, weights="none").distill(few_scenes, 2, ctx).extras["prototypes"]
    ctx = replace(ctx, method="kmeans@1", costs=[])
    distilled = KMeans("latents", "margin", base=method.base).distill(few_scenes, 2, ctx)
    assert distilled.extras["prototypes"] == [{k: v for k, v in p.items() if k != "prompt"} for p in prototypes]
    assert distilled.names == tuple(p["name"] for p in prototypes)
    assert {cost["stage"]: cost["reused"] for cost in ctx.costs} == {"latents": True, "prototypes": True}


def test_k_means_depends_on_the_base_only_by_its_latents(pipeline, tmp_path):
    assert KMeans().identity() == ""
    own, another = (KMeans("latents", base=str(base)).identity() for base in (pipeline, "tiny"))
    assert own != another
    copy = shutil.copytree(pipeline, tmp_path / "copy")
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\1\2\3\4")
    digests = [DPD(base=str(base), captioner="template").identity() for base in (pipeline, copy)]
    assert digests[0] != digests[1]
    assert KMeans("latents", base=str(copy)).identity() == own


@pytest.mark.slow
def test_k_means_keeps_the_contract_by_latents_too():
    broken = [f"{check.name}: {check.detail}" for check in check_method(KMeansOfLatents) if not check.ok]
    assert not broken


class KMeansOfLatents(KMeans):
    """On the embedded base."""

    check_params = {"features": "latents", "choice": "margin", "base": "tiny"}  # noqa: RUF012
