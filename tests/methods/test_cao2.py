"""Test CaO2, and its two parts as settings of every method that samples a diffusion model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_models import write_dit, write_stable_diffusion

from ddbench.config import build, params
from ddbench.context import seed_of
from ddbench.methods.cao2 import CaO2
from ddbench.methods.d3hr import D3HR
from ddbench.methods.d4m import D4M
from ddbench.methods.dmgd import DMGD
from ddbench.methods.dpd.distiller import DPD
from ddbench.methods.igd import IGD
from ddbench.methods.lgd import LGD
from ddbench.methods.mgd3 import MGD3
from ddbench.methods.minimax import Minimax
from ddbench.methods.plain_diffusion import Diffusion
from ddbench.methods.vlcp import VLCP

SHORT = {"steps": 2, "batch": 6, "weights": "none"}
ON = {"pool": 2, "pool_epochs": 1, "polish_steps": 2}
SURROGATE = {"surrogate_epochs": 1, "target_images": 4, "choice_images": 4}


def images_of(method, train, ctx, ipc=2):
    distilled = method.distill(train, ipc, ctx)
    distilled.check(ipc)
    return distilled.images


def test_without_either_part_it_is_diffusion_to_the_bit(pipeline, few_scenes, context_of):
    plain = images_of(Diffusion(base=str(pipeline), guidance=2.7, **SHORT), few_scenes, context_of())
    off = CaO2(base=str(pipeline), pool=1, polish_steps=0, **SHORT)
    assert torch.equal(images_of(off, few_scenes, context_of()), plain)
    polished = images_of(replace(off, polish_steps=2, polish_rate=0.05), few_scenes, context_of())
    assert not torch.equal(polished, plain)


def test_images_depend_on_the_seed_and_on_no_batch(pipeline, few_scenes, context_of):
    method = CaO2(base=str(pipeline), **SHORT, **ON)
    images = images_of(method, few_scenes, context_of())
    assert (images_of(replace(method, batch=1), few_scenes, context_of()).int() - images.int()).abs().max() <= 1
    assert not torch.equal(images_of(method, few_scenes, context_of(1)), images)


@pytest.mark.parametrize("choice", ["confident", pytest.param("group", marks=pytest.mark.slow)])
def test_chosen_images_are_of_the_draws_and_weigh_as_their_clusters(choice, pipeline, few_scenes, context_of):
    """The first draw has the run's seed. A group of a class is one draw of it. The mean weight of a class stays 1."""
    method = D4M(base=str(pipeline), image_weights=True, **SHORT)
    pooled = replace(method, pool=2, pool_choice=choice, pool_epochs=1)
    ctx, plain = context_of(), method.distill(few_scenes, 2, context_of())
    distilled = pooled.distill(few_scenes, 2, ctx)
    seeds = [ctx.seed, seed_of(ctx.seed, "pool", 1)]
    of_seeds = [method.distill(few_scenes, 2, replace(ctx, seed=seed)).images for seed in seeds]
    of_seeds = torch.stack(of_seeds).unflatten(1, (3, 2))
    assert torch.equal(of_seeds[0].flatten(0, 1), plain.images)
    for y, of_class in enumerate(distilled.images.unflatten(0, (3, 2))):
        places = [
            [(k, j) for k in range(2) for j in range(2) if (of_seeds[k, y, j].int() - image.int()).abs().max() <= 1]
            for image in of_class
        ]
        assert all(len(of_image) == 1 for of_image in places)
        (first,), (second,) = places
        assert choice == "confident" or (first[0] == second[0] and (first[1], second[1]) == (0, 1))
        clusters = [2 * y + first[1], 2 * y + second[1]]
        sizes = plain.weights[clusters]
        torch.testing.assert_close(distilled.weights[2 * y : 2 * y + 2], sizes / sizes.mean())


@pytest.mark.parametrize(
    ("cls", "more"),
    [
        (D3HR, {"groups": 3}),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                (D4M, {}), (DMGD, {"points": 2}), (MGD3, {}), (Minimax, {}), (IGD, SURROGATE),
                (VLCP, {"captioner": "palette", "neighbours": 2}),
                (LGD, {"stage_images": 1, "candidates": 1, "stage_epochs": 1, **SURROGATE}),
            ]
        ),
    ],
)  # fmt: skip
def test_every_method_takes_both(cls, more, pipeline, few_scenes, context_of):
    """Each draw is another one, also of methods whose noise comes before sampling (D3HR) or in stages (LGD)."""
    method, ctx = cls(base=str(pipeline), **SHORT, **more), context_of()
    plain = images_of(method, few_scenes, ctx)
    pooled = replace(method, pool=2, pool_epochs=1, pool_choice="doubtful")
    assert not torch.equal(images_of(pooled, few_scenes, ctx), plain)
    before = len(ctx.costs)
    polished = images_of(replace(method, polish_steps=3, polish_rate=0.05), few_scenes, ctx)
    assert 0 < (polished.int() - plain.int()).abs().float().mean() < 60
    assert all(cost["reused"] for cost in ctx.costs[before:] if cost["stage"] == "increment")  # LGD's


def test_dpd_takes_the_polishing(pipeline, few_scenes, context_of):
    method = DPD(base=str(pipeline), captioner="template", consistency=0.0, **SHORT)
    plain = images_of(method, few_scenes, context_of())
    polished = images_of(replace(method, polish_steps=3, polish_rate=0.05), few_scenes, context_of())
    assert 0 < (polished.int() - plain.int()).abs().float().mean() < 60


def test_the_condition_may_be_none(pipeline, few_scenes, context_of):
    method = CaO2(base=str(pipeline), pool=1, **SHORT, polish_steps=2, polish_rate=0.05)
    by_class, by_none = (
        images_of(replace(method, polish_condition=name), few_scenes, context_of(), 1) for name in ("class", "empty")
    )
    assert not torch.equal(by_class, by_none)


@pytest.mark.parametrize("base", ["stable-diffusion", "dit"])
def test_small_bases_of_the_true_shapes(base, few_scenes, context_of, tmp_path):
    """PNDM with its repeated time and 77 tokens; a DiT that learned its variance, under DDPM's noise."""
    write = {"stable-diffusion": write_stable_diffusion, "dit": write_dit}[base]
    numbers = tmp_path / "classes.toml"
    numbers.write_text("\n".join(f"{name} = {i}" for i, name in enumerate(few_scenes.classes)))
    dit = {"variance": "learned", "scheduler": "DDPMScheduler", "spacing": "linspace", "base_classes": str(numbers)}
    more = dit if base == "dit" else {"base_size": 32}
    method = CaO2(base=str(write(tmp_path / base)), polish_condition="empty", **SHORT, pool=1, polish_steps=2, **more)
    images_of(method, few_scenes, context_of(), 1)


def test_settings_at_their_defaults_leave_the_identity_of_earlier_runs():
    names = {"pool", "pool_choice", "pool_network", "pool_epochs"}
    polish = {"polish_steps", "polish_rate", "polish_until", "polish_condition"}
    assert not (names | polish) & params(MGD3()).keys()
    assert not polish & params(DPD()).keys()
    assert params(MGD3(pool=2, polish_steps=3)).keys() & (names | polish) == {"pool", "polish_steps"}


@pytest.mark.parametrize(
    "settings", [{"pool": 0}, {"pool_epochs": -1}, {"polish_steps": -1}, {"polish_rate": 0.0}, {"polish_until": 2.0}]
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        CaO2(**settings)


def test_the_tiny_preset_has_the_sampling_of_diffusion():
    tiny, plain = params(build(CaO2, "tiny")), params(build(Diffusion, "tiny"))
    assert {name: tiny[name] for name in plain} == plain
