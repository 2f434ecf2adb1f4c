"""Methods that choose real images: budgets, seeds, and each rule against a slow one."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from ddbench.methods.dpd.distiller import DPD
from ddbench.methods.herding import Herding, greedy_order
from ddbench.methods.kcenter import KCenter, farthest_first
from ddbench.methods.kmeans import KMeans
from ddbench.methods.latent_diffusion.model import load_model
from ddbench.methods.latent_diffusion.stages import Stages
from ddbench.methods.random import Random
from ddbench.methods.shared.selection import real_features
from ddbench.testing import check_method


def naive_order(points, count):
    points = torch.nn.functional.normalize(points.double(), dim=1)
    mean, taken = points.mean(0), []
    for _ in range(count):
        gaps = {
            i: float((mean - torch.stack([points[j] for j in [*taken, i]]).mean(0)).norm())
            for i in range(len(points)) if i not in taken
        }  # fmt: skip
        taken.append(min(gaps, key=gaps.get))
    return taken


def test_greedy_order_is_the_slow_one():
    points = torch.randn(25, 6, generator=torch.Generator().manual_seed(3)) + 1
    assert greedy_order(points, 10).tolist() == naive_order(points, 10)


def test_greedy_order_takes_the_nearest_first():
    """DeepCore's herding takes the farthest point."""
    angles = torch.tensor([0.0, 0.5, 0.52, 1.0, 3.0])
    points = torch.stack([angles.cos(), angles.sin()], 1)
    unit_mean = points.mean(0)
    first = int(greedy_order(points, 1))
    assert first == int((points - unit_mean).norm(dim=1).argmin())
    assert first != int((points - unit_mean).norm(dim=1).argmax())


def test_farthest_first_is_the_slow_one():
    points = torch.randn(30, 4, generator=torch.Generator().manual_seed(1))
    chosen = [7]
    while len(chosen) < 12:
        gaps = [min(float((points[i] - points[j]).norm()) for j in chosen) for i in range(30)]
        chosen.append(max(range(30), key=gaps.__getitem__))
    assert farthest_first(points, 12, 7).tolist() == chosen


def test_farthest_first_covers_within_twice_the_best():
    points = torch.rand(9, 2, generator=torch.Generator().manual_seed(2))

    def radius(chosen):
        return float(torch.cdist(points, points[list(chosen)]).amin(1).max())

    best = min(radius(some) for some in combinations(range(9), 3))
    assert best <= radius(farthest_first(points, 3, 0).tolist()) <= 2 * best


def test_farthest_first_takes_no_point_twice():
    assert sorted(farthest_first(torch.zeros(5, 3), 5, 2).tolist()) == [0, 1, 2, 3, 4]


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


def test_k_means_keeps_the_contract_by_latents_too():
    broken = [f"{check.name}: {check.detail}" for check in check_method(KMeansOfLatents) if not check.ok]
    assert not broken


class KMeansOfLatents(KMeans):
    """On the embedded base."""

    check_params = {"features": "latents", "choice": "margin", "base": "tiny"}  # noqa: RUF012


def test_chosen_files_are_recorded(few_scenes, context_of):
    for method in (Random(), Herding(trained=False), KCenter(trained=False)):
        distilled = method.distill(few_scenes, 2, context_of())
        assert distilled.extras == {"files": list(distilled.names)}
    distilled = KMeans(trained=False).distill(few_scenes, 2, context_of())
    assert [p["name"] for p in distilled.extras["prototypes"]] == list(distilled.names)
    assert all(torch.equal(image, few_scenes.images[p["row"]])
               for image, p in zip(distilled.images, distilled.extras["prototypes"], strict=True))  # fmt: skip


@pytest.mark.parametrize(
    "method",
    [
        Random(), Herding(trained=False), KCenter(trained=False), KCenter(trained=False, first="random"),
        KMeans(trained=False), KMeans("latents", "margin", base="tiny"),
    ],
)  # fmt: skip
def test_selection_returns_real_images_once_each(method, few_scenes, context_of):
    distilled = method.distill(few_scenes, 4, context_of())
    distilled.check(4)
    assert len(set(distilled.names)) == 12
    for image, label, name in zip(distilled.images, distilled.labels, distilled.names, strict=True):
        row = few_scenes.names.index(name)
        assert torch.equal(image, few_scenes.images[row])
        assert label == few_scenes.labels[row]


def test_random_follows_the_seed(few_scenes, context_of):
    first, same, other = (Random().distill(few_scenes, 2, context_of(s)).names for s in (5, 5, 6))
    assert first == same != other


def test_a_class_too_small_is_named(few_scenes, context_of):
    with pytest.raises(ValueError, match="cannot choose 7 images per class: beach 6"):
        Random().distill(few_scenes, 7, context_of())


def test_methods_that_choose_share_one_network(few_scenes, context_of):
    for method in (Herding(trained=False), KCenter(trained=False), KMeans(trained=False)):
        ctx = replace(context_of(), method=method.name)
        method.distill(few_scenes, 2, ctx)
    assert [cost["reused"] for cost in ctx.costs if cost["stage"] == "embedding"] == [True]
