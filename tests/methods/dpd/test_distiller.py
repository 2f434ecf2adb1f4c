"""DPD through `from_pretrained`, on a pipeline folder of Stable Diffusion's shape."""

from __future__ import annotations

import dataclasses
import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddbench import config
from ddbench.errors import UserError
from ddbench.methods.dpd import distiller
from ddbench.methods.dpd.classifier import ClassifierConfig
from ddbench.methods.dpd.distiller import DPD
from ddbench.methods.kmeans import KMeans
from ddbench.methods.latent_diffusion import finetune
from ddbench.methods.latent_diffusion.diffusion import diffusion_loss
from ddbench.methods.latent_diffusion.finetune import FinetuneConfig, load_finetuned, unfreeze
from ddbench.methods.latent_diffusion.latents import Latents
from ddbench.methods.latent_diffusion.model import LatentModel, load_model
from ddbench.methods.latent_diffusion.prototypes import distances_to_centres
from ddbench.methods.latent_diffusion.training import checkpoints_beside
from ddbench.methods.shared import selection
from ddbench.utils import files
from ddbench.utils.distributed import ProcessGroup
from ddbench.utils.files import read_json


def test_the_whole_method_and_its_stages(method, few_scenes, context_of):
    ctx = context_of()
    made = method.distill(few_scenes, 2, ctx)
    made.check(2)
    assert made.images.shape == (6, 3, 32, 32)
    assert made.extras["guidance_fallbacks"] == 0
    said = [f"A satellite image of {name}" for name in few_scenes.readable for _ in range(2)]
    assert [p["prompt"] for p in made.extras["prototypes"]] == said
    again = context_of()
    five = method.distill(few_scenes, 1, again)
    five.check(1)
    reused = {c["stage"]: c["reused"] for c in again.costs}
    once = {"latents": True, "finetune": True, "prototypes": False}
    assert reused == once | {"sampling": False, "decoding": False}


def test_what_every_part_cost_is_recorded(method, few_scenes, context_of):
    ctx = context_of()
    method.distill(few_scenes, 1, ctx)
    costs = {cost["stage"]: cost for cost in ctx.costs}
    assert costs["finetune"]["steps"] == 3
    assert costs["sampling"]["steps"] == 3
    assert costs["sampling"]["images"] == 3
    assert all(cost["seconds"] > 0 and cost["rss_bytes"] > 1e7 for cost in costs.values())


def test_same_seed_same_images_whatever_the_batch(method, few_scenes, context_of):
    made = method.distill(few_scenes, 2, context_of(1)).images
    other_batch = dataclasses.replace(method, batch=6).distill(few_scenes, 2, context_of(1)).images
    assert torch.equal(made, method.distill(few_scenes, 2, context_of(1)).images)
    assert (made.int() - other_batch.int()).abs().max() <= 1  # rounding of the last bit
    assert not torch.equal(made, method.distill(few_scenes, 2, context_of(2)).images)


@pytest.mark.parametrize("more", [{}, {"captioner": "not/there", "pull": 1.0, "candidates": 5, "consistency": 0.1}])
def test_without_strength_the_prototypes_go_through_the_autoencoder(more, method, few_scenes, context_of, monkeypatch):
    """Compare with a loop over single images. Nothing is trained, captioned or sampled, and no seed counts."""
    monkeypatch.setattr(LatentModel, "denoise", None)
    monkeypatch.setattr(LatentModel, "encode_prompts", None)
    ctx, variant = context_of(), dataclasses.replace(method, strength=0.0, **more)
    variant.check_models(few_scenes.readable)
    distilled = variant.distill(few_scenes, 2, ctx)
    distilled.check(2)
    assert [cost["stage"] for cost in ctx.costs] == ["latents", "prototypes", "decoding"]
    model = load_model(method.base, torch.device("cpu"))
    for image, record in zip(distilled.images, distilled.extras["prototypes"], strict=True):
        pixels = few_scenes.images[record["row"]][None].float() / 127.5 - 1
        with torch.no_grad():
            decoded = model.vae.decode(model.vae.encode(pixels).latent_dist.mean.half().float()).sample[0]
        expected = ((decoded + 1) * 127.5).round().clamp(0, 255)
        assert (image.float() - expected).abs().max() <= 1  # rounding of the last bit
    assert torch.equal(distilled.images, variant.distill(few_scenes, 2, context_of(7)).images)
    assert variant.identity() == method.identity()


def test_a_decoder_of_its_own_decodes_the_same_prototypes(method, few_scenes, context_of):
    through = dataclasses.replace(method, strength=0.0)
    before = through.distill(few_scenes, 2, context_of())
    after = dataclasses.replace(through, decoder_steps=3).distill(few_scenes, 2, context_of())
    assert after.extras == before.extras
    assert not torch.equal(after.images, before.images)


def test_the_least_strength_draws_one_step(method, few_scenes, context_of):
    ctx = context_of()
    dataclasses.replace(method, strength=0.01).distill(few_scenes, 1, ctx)
    assert {"finetune", "sampling"} <= {cost["stage"] for cost in ctx.costs}


def test_consistency_and_selection_share_one_classifier(method, few_scenes, context_of):
    whole = dataclasses.replace(method, consistency=0.1, candidates=3, classifier_steps=4)
    ctx = context_of()
    made = whole.distill(few_scenes, 2, ctx)
    made.check(2)
    stages = ["latents", "prototypes", "classifier", "finetune", "sampling", "decoding"]
    assert [cost["stage"] for cost in ctx.costs] == stages
    assert all(len(record["candidates"]) == 3 for record in made.extras["prototypes"])
    other_batch = dataclasses.replace(whole, batch=7).distill(few_scenes, 2, context_of()).images
    assert (made.images.int() - other_batch.int()).abs().max() <= 1
    alone = dataclasses.replace(whole, candidates=1).distill(few_scenes, 2, context_of()).images
    kept = [int(np.argmax(record["candidates"])) for record in made.extras["prototypes"]]
    assert len(set(kept)) > 1  # the first is not always the best, nor never
    same = ((alone.int() - made.images.int()).abs() <= 1).flatten(1).all(1)
    assert same.tolist() == [k == 0 for k in kept]


def test_the_classifier_learns_from_as_many_views_as_are_allowed(method, few_scenes, context_of):
    whole = dataclasses.replace(method, candidates=2, classifier_steps=2, classifier_views=40)  # of 18 images: two
    ctx = context_of()
    whole.distill(few_scenes, 1, ctx).check(1)
    from safetensors.torch import load_file

    seen, own = (
        load_file(next(ctx.shared.glob(f"{n}-*")) / "latents.safetensors")["mean"] for n in ("views", "latents")
    )
    assert seen.shape == (36, 4, 8, 8)
    assert torch.equal(seen[:18], own)


def test_consistency_trains_lora_and_nothing_else(method, pipeline, few_scenes, context_of):
    """The gradient runs through classifier and U-Net, but moves neither."""
    from ddbench.methods.dpd.classifier import LatentClassifier
    from ddbench.methods.latent_diffusion.finetune import FinetuneData, finetune_loss

    model = load_model(str(pipeline), torch.device("cpu"))
    how = method._finetune_config(torch.device("cpu"))
    judge = LatentClassifier(4, 3).eval().requires_grad_(False)
    z = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(0)).half()
    latents = Latents(z, torch.zeros_like(z), torch.arange(6) % 3, 1.0)
    lesson = FinetuneData(latents, model.encode_prompts(["a", "b", "c", ""], [0, 1, 2, -1]), latents.labels)
    unfreeze(model.denoiser, how)

    def gradient(weight):
        model.denoiser.zero_grad()
        extra_loss = dataclasses.replace(method, consistency=weight)._consistency_loss(judge, ClassifierConfig(2, True))
        finetune_loss(model, lesson, how, extra_loss)(0).backward()
        return {k: p.grad.clone() for k, p in model.denoiser.named_parameters() if p.grad is not None and p.grad.any()}

    without, moved = gradient(0.0), gradient(1e3)
    assert sum(g.norm() for g in moved.values()) > 3 * sum(g.norm() for g in without.values())
    assert all("lora" in name for name in moved)
    assert all(p.grad is None for p in judge.parameters())


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_the_prompts_is_the_empty_one(share, method, pipeline, context_of, monkeypatch):
    """What the denoiser is told of each image: its own words, or those of the empty prompt, which come last."""
    from ddbench.methods.latent_diffusion.finetune import FinetuneData, finetune_loss

    model, told = load_model(str(pipeline), torch.device("cpu")), []
    real = LatentModel.denoise
    monkeypatch.setattr(LatentModel, "denoise", lambda *given: told.append(given[3]) or real(*given))
    z = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(0)).half()
    words = model.encode_prompts(["a", "b", "c", ""], [0, 1, 2, -1])
    lesson = FinetuneData(Latents(z, torch.zeros_like(z), torch.arange(6) % 3, 1.0), words, torch.arange(6) % 3)
    how = dataclasses.replace(method._finetune_config(torch.device("cpu")), batch=64, empty=share)
    finetune_loss(model, lesson, how)(0)
    which = [next(i for i, row in enumerate(words) if torch.equal(one, row)) for one in told[0]]
    empty = which.count(3) / 64
    assert empty == share if share in (0.0, 1.0) else 0.3 < empty < 0.7
    assert share == 1.0 or {0, 1, 2} <= set(which)


def test_lora_is_of_the_asked_rank_on_every_attention_projection(method, pipeline, context_of):
    model = load_model(str(pipeline), torch.device("cpu"))
    unfreeze(model.denoiser, dataclasses.replace(method._finetune_config(torch.device("cpu")), rank=3))
    layers = {name: m for name, m in model.denoiser.named_modules() if hasattr(m, "lora_A")}
    assert {name.rpartition("attn")[2].partition(".")[2] for name in layers} == {"to_q", "to_k", "to_v", "to_out.0"}
    assert all(layer.lora_A["default"].weight.shape[0] == 3 for layer in layers.values())
    assert all(layer.scaling["default"] == 1.0 for layer in layers.values())  # alpha is the rank


def test_lora_learns_and_nothing_else_does(method, pipeline, few_scenes, context_of):
    ctx = context_of()
    method.distill(few_scenes, 1, ctx)
    folder = next((ctx.shared).glob("finetune-*"))
    from safetensors.torch import load_file

    trained = load_file(folder / "denoiser.safetensors")
    assert trained
    assert all(".lora_" in name for name in trained)
    fresh, tuned = (load_model(str(pipeline), torch.device("cpu")) for _ in range(2))
    how = FinetuneConfig("lora", 4, 0, 1, 0.0, 0, 0.0, 0.0, "fp32")
    unfreeze(fresh.denoiser, how)
    load_finetuned(tuned, folder, how)
    start = fresh.denoiser.state_dict()
    changed = {name for name, weight in tuned.denoiser.state_dict().items() if not torch.equal(weight, start[name])}
    assert changed
    assert changed <= set(trained)


def test_prototypes_are_recorded(method, few_scenes, context_of):
    ctx = context_of()
    method.distill(few_scenes, 2, ctx)
    folder = next(ctx.shared.glob("prototypes-*"))
    records = read_json(folder / "prototypes.json")
    assert [r["label"] for r in records] == [0, 0, 1, 1, 2, 2]
    assert all(r["name"] in few_scenes.names for r in records)
    for r in records:
        image = np.asarray(Image.open(folder / "images" / few_scenes.classes[r["label"]] / f"{r['cluster']:03d}.png"))
        assert np.array_equal(image, few_scenes.images[r["row"]].permute(1, 2, 0).numpy())


@pytest.mark.parametrize("name", config.presets(DPD))
def test_every_preset_of_ours_can_be_built(name):
    assert config.build(DPD, name).base in ("tiny", "lcybuaa/Text2Earth")


@pytest.mark.parametrize(("precision", "tuned"), [("fp16", "fp32"), ("bf16", "bf16")])
def test_half_precision_draws_nearly_the_same_images(precision, tuned, method, few_scenes, context_of):
    half = dataclasses.replace(method, weights="none", precision=precision)
    assert half._finetune_config(torch.device("cpu")).precision == tuned
    made = half.distill(few_scenes, 1, context_of()).images.int()
    whole = dataclasses.replace(method, weights="none").distill(few_scenes, 1, context_of()).images.int()
    assert 0 < (made - whole).abs().max() <= 16


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"strength": 2.0}, "strength must be in 0..1"), ({"steps": 0}, "steps must be at least 1"),
        ({"tune_batch": 0}, "tune_batch must be at least 1"), ({"prompt": "a {x}"}, "prompt must contain {} once"),
        ({"prompt": "a {"}, "prompt must contain {} once"), ({"tune_ema": 1.0}, "below 1"),
        ({"tune_rate": -1.0}, "tune_rate must be above 0"), ({"pull": -1.0}, "pull must be at least 0"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        DPD(**settings)


def test_fine_tuning_that_was_killed_goes_on(method, few_scenes, context_of, tmp_path, monkeypatch):
    method = dataclasses.replace(method, tune_steps=4)
    whole = method.distill(few_scenes, 1, context_of()).images
    shutil.rmtree(tmp_path / "shared")
    monkeypatch.setattr(finetune, "checkpoints_beside", partial(checkpoints_beside, every=1))
    losses, real = [], diffusion_loss

    def loss(*words, **more):
        losses.append(1)
        if len(losses) == 4:
            raise KeyboardInterrupt
        return real(*words, **more)

    monkeypatch.setattr("ddbench.methods.latent_diffusion.finetune.diffusion_loss", loss)
    with pytest.raises(KeyboardInterrupt):
        method.distill(few_scenes, 1, context_of())
    assert torch.equal(method.distill(few_scenes, 1, context_of()).images, whole)
    assert len(losses) == 5  # three steps and the one that was killed, then the last alone
    assert not list((tmp_path / "shared").glob(".*.checkpoints"))


def test_a_kill_at_the_end_of_a_stage_loses_no_step(method, few_scenes, context_of, tmp_path, monkeypatch):
    method = dataclasses.replace(method, tune_steps=4, captioner="palette")
    whole = method.distill(few_scenes, 1, context_of()).images
    shutil.rmtree(tmp_path / "shared")
    monkeypatch.setattr(finetune, "checkpoints_beside", partial(checkpoints_beside, every=2))
    real = os.replace

    def replace(source, target):
        if "finetune" in Path(target).name:  # the folder is filled and not yet in place
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            method.distill(few_scenes, 1, context_of())
    monkeypatch.setattr("ddbench.methods.latent_diffusion.finetune.diffusion_loss", None)  # no step is done again
    ctx = context_of()
    assert torch.equal(method.distill(few_scenes, 1, ctx).images, whole)
    record = next(cost for cost in ctx.costs if cost["stage"] == "finetune")
    assert (record["steps"], record["reused"]) == (4, False)
    assert record["seconds"] > 0
    assert record["loss"] > 0
    assert not list((tmp_path / "shared").glob(".*.partial*"))


def test_latents_that_are_not_finite_are_an_error(method, few_scenes, context_of, monkeypatch):
    real = LatentModel.denoise
    monkeypatch.setattr(LatentModel, "denoise", lambda *inputs: real(*inputs) / 0)
    with pytest.raises(FloatingPointError, match="3 of 3 latents are not finite: try precision=fp32"):
        dataclasses.replace(method, weights="none").distill(few_scenes, 1, context_of())


def test_fewer_images_in_a_batch_than_processes_are_refused_before_any_work(method, few_scenes, context_of):
    ctx = dataclasses.replace(context_of(), processes=ProcessGroup(0, 8))
    with pytest.raises(UserError, match="tune_batch=4 is too small for 8 processes"):
        method.distill(few_scenes, 1, ctx)


def test_latents_are_scaled_draws_of_the_posterior():
    mean, std = torch.tensor([[[[1.0]]], [[[2.0]]]]).half(), torch.tensor([[[[0.5]]], [[[0.25]]]]).half()
    latents = Latents(mean, std, torch.zeros(2), 3.0)
    noise = torch.randn(2, 1, 1, 1, generator=torch.Generator().manual_seed(1))
    drawn = latents.draw(torch.tensor([1, 0]), torch.Generator().manual_seed(1))
    assert torch.equal(drawn, (mean.flip(0).float() + std.flip(0).float() * noise) * 3)


def test_prototypes_by_the_features_of_a_network_are_those_of_kmeans(method, few_scenes, context_of, monkeypatch):
    monkeypatch.setattr(selection, "RECIPE", dataclasses.replace(selection.RECIPE, min_steps=2, max_steps=2))
    variant = dataclasses.replace(method, features="network", choice="nearest", strength=0.0)
    distilled = variant.distill(few_scenes, 2, context_of())
    of_kmeans = KMeans(features="network", choice="nearest").distill(few_scenes, 2, context_of())
    assert distilled.extras["prototypes"] == of_kmeans.extras["prototypes"]


def test_prototypes_by_the_ridge_rule_are_those_of_kmeans(method, few_scenes, context_of, short_training):
    variant = dataclasses.replace(method, features="few-shot", choice="ridge", candidates=2, select="centre")
    of_dpd = variant.distill(few_scenes, 2, context_of()).extras["prototypes"]
    of_kmeans = KMeans(features="few-shot", choice="ridge").distill(few_scenes, 2, context_of()).extras["prototypes"]
    assert [{k: v for k, v in p.items() if k not in ("prompt", "candidates")} for p in of_dpd] == of_kmeans
    for p in of_kmeans:
        assert few_scenes.names[p["row"]] == p["name"]
        assert few_scenes.labels[p["row"]] == p["label"]
        assert p["margin"] == pytest.approx(p["inter"] - p["intra"])


def test_the_ridge_rule_needs_features_of_networks(method):
    for make in (partial(dataclasses.replace, method), partial(KMeans, "latents")):
        with pytest.raises(ValueError, match="choice=ridge compares features of networks: set features=few-shot"):
            make(choice="ridge")


@pytest.mark.parametrize("features", ["latents", "network"])
def test_the_candidate_nearest_its_centre_is_kept(features, method, few_scenes, context_of, monkeypatch):
    monkeypatch.setattr(selection, "RECIPE", dataclasses.replace(selection.RECIPE, min_steps=2, max_steps=2))
    several = dataclasses.replace(method, features=features, candidates=3, select="centre", contrast=True)
    nearest = several.distill(few_scenes, 2, context_of())
    monkeypatch.setattr(distiller, "distances_to_centres", lambda *words: -distances_to_centres(*words))
    furthest = several.distill(few_scenes, 2, context_of())
    nearest.check(2)
    for near, far in zip(nearest.extras["prototypes"], furthest.extras["prototypes"], strict=True):
        assert near["candidates"] == [-score for score in far["candidates"]]
    assert all((a != b).any() for a, b in zip(nearest.images, furthest.images, strict=True))


def test_the_weight_of_the_loss_over_time_reaches_fine_tuning(method):
    assert dataclasses.replace(method, tune_weight="even")._finetune_config(torch.device("cpu")).weight == "even"


def test_settings_added_later_leave_the_identity_of_earlier_runs():
    later = {"features", "choice", "select", "contrast", "guidance_low", "decoder_steps", "tune_weight"}
    assert not later & set(config.params(DPD()))
    assert config.params(DPD(select="centre"))["select"] == "centre"
