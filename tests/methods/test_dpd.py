"""DPD through `from_pretrained`, on a pipeline folder of Stable Diffusion's shape."""

from __future__ import annotations

import dataclasses
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from PIL import Image

from ddbench import config, files
from ddbench.errors import UserError
from ddbench.files import read_json
from ddbench.methods.diffusion import Sampling, diffusion_loss, guided, sample
from ddbench.methods.dpd.distiller import DPD
from ddbench.methods.dpd.finetune import Tuning, load_tuned, unfreeze
from ddbench.methods.dpd.latents import Latents
from ddbench.methods.dpd.training import checkpoints_beside
from ddbench.methods.latent_model import LatentModel, load_model
from ddbench.team import Team


@pytest.fixture
def method(pipeline) -> DPD:
    return DPD(base=str(pipeline), captioner="template", tune_steps=3, tune_batch=4, consistency=0.0, steps=3, batch=4)


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
    from ddbench.methods.dpd.finetune import Lesson, tuning_loss

    model = load_model(str(pipeline), torch.device("cpu"))
    how = method._tuning(context_of())
    judge = LatentClassifier(4, 3).eval().requires_grad_(False)
    z = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(0)).half()
    latents = Latents(z, torch.zeros_like(z), torch.arange(6) % 3, 1.0)
    lesson = Lesson(latents, model.words(["a", "b", "c", ""], [0, 1, 2, -1]), latents.labels)
    unfreeze(model.denoiser, how)

    def gradient(weight):
        model.denoiser.zero_grad()
        now = dataclasses.replace(how, consistency=weight)
        tuning_loss(model, lesson, now, judge)(0).backward()
        return {k: p.grad.clone() for k, p in model.denoiser.named_parameters() if p.grad is not None and p.grad.any()}

    without, moved = gradient(0.0), gradient(1e3)
    assert sum(g.norm() for g in moved.values()) > 3 * sum(g.norm() for g in without.values())
    assert all("lora" in name for name in moved)
    assert all(p.grad is None for p in judge.parameters())


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon", "sample"])
@pytest.mark.parametrize("class_embeds", [None, 3])
def test_every_kind_of_base_runs(prediction, class_embeds, make_pipeline, few_scenes, context_of, tmp_path):
    base = make_pipeline(tmp_path / "base", prediction, class_embeds)
    method = DPD(
        base=str(base),
        captioner="template",
        tune_steps=1,
        tune_batch=2,
        weights="all",
        consistency=0.1,
        classifier_steps=2,
        strength=1.0,
        pull=1.0,
    )
    dataclasses.replace(method, steps=2).distill(few_scenes, 1, context_of()).check(1)


def test_lora_learns_and_nothing_else_does(method, pipeline, few_scenes, context_of):
    ctx = context_of()
    method.distill(few_scenes, 1, ctx)
    folder = next((ctx.shared).glob("finetune-*"))
    from safetensors.torch import load_file

    trained = load_file(folder / "denoiser.safetensors")
    assert trained
    assert all(".lora_" in name for name in trained)
    fresh, tuned = (load_model(str(pipeline), torch.device("cpu")) for _ in range(2))
    how = Tuning("lora", 4, 0, 1, 0.0, 0, 0.0, 0.0, "fp32")
    unfreeze(fresh.denoiser, how)
    load_tuned(tuned, folder, how)
    start = fresh.denoiser.state_dict()
    changed = {name for name, weight in tuned.denoiser.state_dict().items() if not torch.equal(weight, start[name])}
    assert changed
    assert changed <= set(trained)


def test_too_few_images_are_named_before_any_work(method, few_scenes, context_of):
    ctx = context_of()
    with pytest.raises(ValueError, match=r"7 prototypes per class need 7 images per class, but: \w+ 6"):
        method.distill(few_scenes, 7, ctx)
    assert not ctx.shared.exists()


@pytest.mark.parametrize("name", ["UniPCMultistepScheduler", "DPMSolverSinglestepScheduler"])
def test_a_scheduler_that_forgets_the_pull_is_refused(name, method, few_scenes, context_of):
    ctx = context_of()
    with pytest.raises(UserError, match=f"{name} .* undoes the pull: set pull=0"):
        dataclasses.replace(method, scheduler=name, pull=1.0).distill(few_scenes, 1, ctx)
    assert not ctx.shared.exists()


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


def test_a_missing_base_names_the_ways_out(few_scenes, context_of, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"nobody/nothing(?s:.)*--preset tiny"):
        DPD(base="nobody/nothing").distill(few_scenes, 1, context_of())


def test_a_folder_that_is_no_pipeline_is_named(few_scenes, context_of, tmp_path):
    with pytest.raises(UserError, match=r"lacks vae/\*.safetensors, unet/\*.safetensors"):
        DPD(base=str(tmp_path)).distill(few_scenes, 1, context_of())


def test_an_autoencoder_we_do_not_know_is_named(make_pipeline, tmp_path):
    folder = make_pipeline(tmp_path / "base")
    config = folder / "vae" / "config.json"
    config.write_text(config.read_text().replace("AutoencoderKL", "VQModel"))
    with pytest.raises(UserError, match="its vae is a VQModel; known are AutoencoderKL, AutoencoderDC"):
        load_model(str(folder), torch.device("cpu"))


@pytest.mark.parametrize(
    ("name", "said"), [("DDIMSheduler", "mean DDIMScheduler"), ("EulerDiscreteScheduler", "not variance preserving")]
)
def test_an_unfit_scheduler_is_refused_before_any_work(name, said, method, few_scenes, context_of):
    ctx = context_of()
    with pytest.raises(UserError, match=said):
        dataclasses.replace(method, scheduler=name).distill(few_scenes, 1, ctx)
    assert not ctx.shared.exists()


def test_too_many_steps_are_refused_before_any_work(method, few_scenes, context_of):
    ctx = context_of()
    with pytest.raises(UserError, match="steps=2000: "):
        dataclasses.replace(method, steps=2000).distill(few_scenes, 1, ctx)
    assert not ctx.shared.exists()


@pytest.mark.parametrize("name", config.presets(DPD))
def test_every_preset_of_ours_can_be_built(name):
    assert config.build(DPD, name).base in ("tiny", "lcybuaa/Text2Earth")


def test_another_training_of_the_same_base_is_another_base(make_pipeline, tmp_path):
    folder = make_pipeline(tmp_path / "base")
    before = load_model(str(folder), torch.device("cpu"))
    _train_again(before, folder)
    assert load_model(str(folder), torch.device("cpu")).identity != before.identity


def test_bases_of_one_autoencoder_share_its_stages(method, make_pipeline, few_scenes, context_of, tmp_path):
    folder = make_pipeline(tmp_path / "base")
    judged = dataclasses.replace(method, base=str(folder), candidates=2, classifier_steps=2)
    judged.distill(few_scenes, 1, context_of())
    _train_again(load_model(str(folder), torch.device("cpu")), folder)
    ctx = context_of()
    judged.distill(few_scenes, 1, ctx)
    reused = [cost["stage"] for cost in ctx.costs if cost["reused"]]
    assert reused == ["latents", "prototypes", "classifier"]


def _train_again(model, folder):
    with torch.no_grad():
        for weight in model.denoiser.parameters():
            weight.mul_(1.01)
    model.denoiser.save_pretrained(folder / "unet")


@pytest.mark.parametrize(("precision", "tuned"), [("fp16", "fp32"), ("bf16", "bf16")])
def test_half_precision_draws_nearly_the_same_images(precision, tuned, method, few_scenes, context_of):
    half = dataclasses.replace(method, weights="none", precision=precision)
    assert half._tuning(context_of()).precision == tuned
    made = half.distill(few_scenes, 1, context_of()).images.int()
    whole = dataclasses.replace(method, weights="none").distill(few_scenes, 1, context_of()).images.int()
    assert 0 < (made - whole).abs().max() <= 16


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"strength": 2.0}, "strength must be in 0..1"), ({"steps": 0}, "steps must be at least 1"),
        ({"tune_batch": 0}, "tune_batch must be at least 1"), ({"prompt": "a {x}"}, "prompt must hold {} once"),
        ({"prompt": "a {"}, "prompt must hold {} once"), ({"tune_ema": 1.0}, "1 excluded"),
        ({"tune_rate": -1.0}, "tune_rate must be above 0"), ({"pull": -1.0}, "pull must be at least 0"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        DPD(**settings)


def test_a_size_that_does_not_fit_the_base_is_refused_before_any_work(method, few_scenes, context_of):
    odd = dataclasses.replace(few_scenes, images=few_scenes.images[..., :30, :30])
    with pytest.raises(UserError, match="30 px: this base takes multiples of 4; try 28 or 32"):
        method.distill(odd, 1, context_of())


def test_fine_tuning_that_was_killed_goes_on(method, few_scenes, context_of, tmp_path, monkeypatch):
    method = dataclasses.replace(method, tune_steps=4)
    whole = method.distill(few_scenes, 1, context_of()).images
    shutil.rmtree(tmp_path / "shared")
    monkeypatch.setattr("ddbench.methods.dpd.finetune.checkpoints_beside", partial(checkpoints_beside, every=1))
    losses, real = [], diffusion_loss

    def loss(*words, **more):
        losses.append(1)
        if len(losses) == 4:
            raise KeyboardInterrupt
        return real(*words, **more)

    monkeypatch.setattr("ddbench.methods.dpd.finetune.diffusion_loss", loss)
    with pytest.raises(KeyboardInterrupt):
        method.distill(few_scenes, 1, context_of())
    assert torch.equal(method.distill(few_scenes, 1, context_of()).images, whole)
    assert len(losses) == 5  # three steps and the one that was killed, then the last alone
    assert not list((tmp_path / "shared").glob(".*.checkpoints"))


def test_a_kill_at_the_end_of_a_stage_loses_no_step(method, few_scenes, context_of, tmp_path, monkeypatch):
    method = dataclasses.replace(method, tune_steps=4, captioner="palette")
    whole = method.distill(few_scenes, 1, context_of()).images
    shutil.rmtree(tmp_path / "shared")
    monkeypatch.setattr("ddbench.methods.dpd.finetune.checkpoints_beside", partial(checkpoints_beside, every=2))
    real = files._flush

    def flush(folder):
        if "finetune" in folder.name:
            raise KeyboardInterrupt
        real(folder)

    monkeypatch.setattr(files, "_flush", flush)
    with pytest.raises(KeyboardInterrupt):
        method.distill(few_scenes, 1, context_of())
    monkeypatch.setattr(files, "_flush", real)
    monkeypatch.setattr("ddbench.methods.dpd.finetune.diffusion_loss", None)  # no step is done again
    ctx = context_of()
    assert torch.equal(method.distill(few_scenes, 1, ctx).images, whole)
    record = next(cost for cost in ctx.costs if cost["stage"] == "finetune")
    assert (record["steps"], record["reused"]) == (4, False)
    assert record["seconds"] > 0
    assert record["loss"] > 0
    assert not list((tmp_path / "shared").glob(".*.partial*"))


def test_latents_that_are_not_finite_are_an_error(method, few_scenes, context_of, monkeypatch):
    real = LatentModel.denoise
    monkeypatch.setattr(LatentModel, "denoise", lambda self, z, t, words: real(self, z, t, words) / 0)
    with pytest.raises(FloatingPointError, match="3 of 3 latents are not finite: try precision=fp32"):
        dataclasses.replace(method, weights="none").distill(few_scenes, 1, context_of())


def test_a_base_whose_scheduler_scales_its_noise_is_sampled_by_ddim(
    method, make_pipeline, few_scenes, context_of, tmp_path, caplog
):
    folder = make_pipeline(tmp_path / "base")
    EulerDiscreteScheduler.from_pretrained(folder / "scheduler").save_pretrained(folder / "scheduler")
    replaced = dataclasses.replace(method, base=str(folder), weights="none")
    made = replaced.distill(few_scenes, 1, context_of()).images
    assert "EulerDiscreteScheduler is not variance preserving: DDIMScheduler takes its place" in caplog.text
    assert torch.equal(made, dataclasses.replace(method, weights="none").distill(few_scenes, 1, context_of()).images)


def test_pndm_may_start_in_the_middle(pipeline):
    """From noise on a known image, with a denoiser that knows it, every scheduler must come back to it."""
    model = load_model(str(pipeline), torch.device("cpu"))
    goal = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for name in ("DDIMScheduler", "PNDMScheduler"):
        plan = model.scheduler_named(name, pulled=True)

        def knows(z, t, plan=plan):
            abar = plan.alphas_cumprod[t]
            return (z - abar.sqrt() * goal) / (1 - abar).sqrt()

        noise = [torch.Generator().manual_seed(i) for i in range(2)]
        made, _ = sample(knows, plan, goal, Sampling(50, strength=0.5), noise)
        assert (made - goal).abs().max() < 0.2


def test_fewer_images_in_a_batch_than_processes_are_refused_before_any_work(method, few_scenes, context_of):
    ctx = dataclasses.replace(context_of(), team=Team(0, 8))
    with pytest.raises(UserError, match="tune_batch=4 is too little for 8 processes"):
        method.distill(few_scenes, 1, ctx)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_from_noise_it_draws_what_the_pipeline_of_diffusers_draws(prediction, make_pipeline, tmp_path):
    """Same noise, prompt, guidance and steps: the same latents."""
    from diffusers import StableDiffusionPipeline

    folder, prompt = make_pipeline(tmp_path / "base", prediction), "A satellite image of a river"
    model = load_model(str(folder), torch.device("cpu"))
    plan = DDIMScheduler.from_config(model.scheduler.config, steps_offset=1)  # as the pipeline wants it
    parts = (model.vae, model.text, model.tokenizer, model.denoiser, plan, None, None)
    pipe = StableDiffusionPipeline(*parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    more = {"guidance_scale": 3.0, "num_inference_steps": 5, "output_type": "latent"}
    theirs = pipe(prompt, latents=noise, height=32, width=32, **more).images
    words = model.words([prompt, ""], [0, -1])
    denoise = guided(model.denoise, words[:1], words[1:], 3.0)
    generators = [torch.Generator().manual_seed(5)]
    ours, _ = sample(denoise, plan, torch.zeros(1, 4, 8, 8), Sampling(5), generators)
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_latents_are_scaled_draws_of_the_posterior():
    mean, std = torch.tensor([[[[1.0]]], [[[2.0]]]]).half(), torch.tensor([[[[0.5]]], [[[0.25]]]]).half()
    latents = Latents(mean, std, torch.zeros(2), 3.0)
    noise = torch.randn(2, 1, 1, 1, generator=torch.Generator().manual_seed(1))
    drawn = latents.draw(torch.tensor([1, 0]), torch.Generator().manual_seed(1))
    assert torch.equal(drawn, (mean.flip(0).float() + std.flip(0).float() * noise) * 3)
