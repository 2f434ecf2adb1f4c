"""Test what all methods that choose real images share."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ddbench.methods.el2n import EL2N
from ddbench.methods.forgetting import Forgetting
from ddbench.methods.herding import Herding, greedy_order
from ddbench.methods.kcenter import KCenter, farthest_first
from ddbench.methods.kmeans import KMeans
from ddbench.methods.random import Random
from ddbench.methods.shared import selection


def test_chosen_files_are_recorded(few_scenes, context_of):
    for method in (Random(), Herding(trained=False), KCenter(trained=False), Forgetting(epochs=1)):
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
        Forgetting(epochs=2), Forgetting(epochs=2, images=5, keep="lowest"), EL2N(epochs=2, networks=1, offset=0.9),
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


def test_a_class_too_small_is_named(few_scenes, context_of):
    with pytest.raises(ValueError, match="cannot choose 7 images per class: beach 6"):
        Random().distill(few_scenes, 7, context_of())


def test_methods_that_choose_share_one_network(few_scenes, context_of):
    for method in (Herding(trained=False), KCenter(trained=False), KMeans(trained=False)):
        ctx = replace(context_of(), method=method.name)
        method.distill(few_scenes, 2, ctx)
    assert [cost["reused"] for cost in ctx.costs if cost["stage"] == "embedding"] == [True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_blocks_of_rows_change_no_choice(dtype, monkeypatch):
    """Bit for bit: herding and k-center take the first of equal distances."""
    x = torch.randn(301, 70, dtype=dtype, generator=torch.Generator().manual_seed(0))
    x[150:] = x[:151].clone()  # every distance twice
    whole = x.norm(dim=1), greedy_order(x, 40), farthest_first(x, 40, 3)
    monkeypatch.setattr(selection, "BLOCK", 32)
    blocks = selection.row_blocks(x)
    assert len(blocks) == 10
    assert torch.equal(torch.cat(blocks), x)
    in_blocks = torch.cat([block.norm(dim=1) for block in blocks]), greedy_order(x, 40), farthest_first(x, 40, 3)
    assert all(torch.equal(one, other) for one, other in zip(whole, in_blocks, strict=True))


def test_weights_are_shares_and_images_of_empty_clusters_weigh_the_same():
    assert selection.cluster_weights([3, 1, 0, 0, 2, 0], 2).tolist() == [1.5, 0.5, 1, 1, 2, 0]
