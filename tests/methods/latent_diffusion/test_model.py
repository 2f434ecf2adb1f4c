"""Base models: what is read, what is refused, and that the sampler draws what diffusers draws with them."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import warnings
from fnmatch import fnmatch

import pytest
import torch
from click.testing import CliRunner
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, PNDMScheduler
from safetensors.torch import load_file, save_file
from small_models import write_asked, write_dit

from ddbench.cli.main import cli
from ddbench.errors import UserError
from ddbench.methods.dpd.distiller import DPD
from ddbench.methods.latent_diffusion.diffusion import SamplerConfig, guided_denoiser, sample
from ddbench.methods.latent_diffusion.model import load_model
from ddbench.methods.latent_diffusion.model_files import EMBEDDED, model_identity
from ddbench.methods.plain_diffusion import Diffusion

CPU = torch.device("cpu")


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon", "sample"])
@pytest.mark.parametrize("more", [{}, {"num_class_embeds": 3}, {"class_embed_type": "timestep"}])
def test_every_kind_of_base_runs(prediction, more, make_pipeline, few_scenes, context_of, tmp_path):
    base = make_pipeline(tmp_path / "base", prediction, **more)
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


@pytest.mark.parametrize("name", ["UniPCMultistepScheduler", "DPMSolverSinglestepScheduler"])
def test_a_scheduler_that_forgets_the_pull_is_refused(name, method, few_scenes, context_of):
    ctx = context_of()
    with pytest.raises(UserError, match=f"{name} .* undoes the guidance: set pull=0"):
        dataclasses.replace(method, scheduler=name, pull=1.0).distill(few_scenes, 1, ctx)
    assert not ctx.shared.exists()


def test_a_missing_base_names_the_ways_out(few_scenes, context_of, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"nobody/nothing(?s:.)*--preset tiny"):
        DPD(base="nobody/nothing").distill(few_scenes, 1, context_of())


def test_a_folder_that_is_no_pipeline_is_named(few_scenes, context_of, tmp_path):
    with pytest.raises(UserError, match="it lacks vae, unet, text_encoder, tokenizer"):
        DPD(base=str(tmp_path)).distill(few_scenes, 1, context_of())


def keep_every_second_weight(path):
    weights = load_file(path)
    save_file({name: weights[name] for name in sorted(weights)[::2]}, path)


def replace_text_encoder(folder):
    from transformers import XLMRobertaConfig, XLMRobertaModel

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    shutil.rmtree(folder)
    XLMRobertaModel(XLMRobertaConfig(vocab_size=100, max_position_embeddings=80, **sizes)).save_pretrained(folder)


def remove_vocabulary(folder):
    for path in folder.iterdir():
        if path.name != "tokenizer_config.json":
            path.unlink()


def fill_weights(path, value):
    save_file({name: torch.full_like(weight, value) for name, weight in load_file(path).items()}, path)


UNET = "unet/diffusion_pytorch_model.safetensors"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3463726500\n"
BROKEN = {
    "pointer": (UNET, lambda path: path.write_text(POINTER), "is a pointer of git-lfs"),
    "pointer for words": ("tokenizer/tokenizer.json", lambda path: path.write_text(POINTER), "is a pointer of git-lfs"),
    "cut weights": (UNET, lambda path: path.write_bytes(path.read_bytes()[:-4]), "is damaged"),
    "empty weights": ("vae/diffusion_pytorch_model.safetensors", lambda path: path.write_bytes(b""), "is damaged"),
    "cut schedule": ("scheduler/scheduler_config.json", lambda path: path.write_text('{"_class_name": "DD'), "damaged"),
    "schedule without class": ("scheduler/scheduler_config.json", lambda path: path.write_text("{}"), "names no class"),
    "half a denoiser": (UNET, keep_every_second_weight, "unet is not the whole model .* lacks"),
    "half a text encoder": ("text_encoder/model.safetensors", keep_every_second_weight, "encoder is not the whole"),
    "half an autoencoder": ("vae/diffusion_pytorch_model.safetensors", keep_every_second_weight, "is not the whole"),
    "foreign weights": (
        "text_encoder/model.safetensors",
        lambda path: save_file(load_file(path) | {"head.weight": torch.zeros(2)}, path),
        "1 weights that the model does not know, such as head.weight",
    ),
    "another shape": ("unet/config.json", lambda path: edit(path, block_out_channels=[16, 64]), "unet"),
    "only fp16": (UNET, lambda path: path.rename(path.with_name("diffusion_pytorch_model.fp16.safetensors")), "name"),
    "no words": ("tokenizer", remove_vocabulary, "has no vocabulary"),
    "another tokenizer": (
        "tokenizer/tokenizer_config.json", lambda path: edit(path, tokenizer_class="T5Tokenizer"), "is a T5Tokenizer"
    ),
    "zeros": ("text_encoder/model.safetensors", lambda path: fill_weights(path, 0), "of nothing but zeros"),
    "no numbers": (UNET, lambda path: fill_weights(path, float("nan")), "not finite, such as"),
    "pointer for the index": ("model_index.json", lambda path: path.write_text(POINTER), "is a pointer of git-lfs"),
    "a schedule of two times": (
        "scheduler/scheduler_config.json", lambda path: edit(path, trained_betas=[0.1, 0.2]), "grows over 1000 times"
    ),
    "a schedule that is no number": (
        "scheduler/scheduler_config.json", lambda path: edit(path, num_train_timesteps="many"), "of another kind"
    ),
    "no scale of latents": ("vae/config.json", lambda path: edit(path, scaling_factor=0), "scaling_factor is 0"),
    "another text encoder": ("text_encoder", replace_text_encoder, "is of the kind XLMRobertaModel"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_base_that_is_not_whole_is_refused_before_anything_is_packed(kind, pipeline, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = shutil.copytree(pipeline, tmp_path / "base")
    name, damage, message = BROKEN[kind]
    damage(base / name)
    words = ["--method", "diffusion", "--set", f"base={base}", "--dataset", "scenes", "--ipc", "1", "--size", "32"]
    result = CliRunner().invoke(cli, ["run", *words])
    assert result.exit_code == 2, (result.output, result.exception)
    assert re.search(message, result.output), result.output
    assert str(base) in result.output
    assert not (tmp_path / "shared").exists()
    assert not (tmp_path / "runs").exists()


TORCH_FILES = {
    "unet/diffusion_pytorch_model": "unet/diffusion_pytorch_model.bin",
    "vae/diffusion_pytorch_model": "vae/diffusion_pytorch_model.bin",
    "text_encoder/model": "text_encoder/pytorch_model.bin",
}


@pytest.fixture
def torch_pipeline(pipeline, tmp_path):
    """The small pipeline with its weights in torch's files."""
    base = shutil.copytree(pipeline, tmp_path / "torch")
    for stem, name in TORCH_FILES.items():
        torch.save(load_file(base / f"{stem}.safetensors"), base / name)
        (base / f"{stem}.safetensors").unlink()
    return base


def test_torchs_files_are_read_as_safetensors_are(pipeline, torch_pipeline):
    model, other = load_model(str(torch_pipeline), CPU), load_model(str(pipeline), CPU)
    for part in ("denoiser", "vae", "text"):
        weights, same = getattr(model, part).state_dict(), getattr(other, part).state_dict()
        assert weights.keys() == same.keys()
        assert all(torch.equal(weights[name], same[name]) for name in weights)
    assert model.identity != other.identity
    for name in TORCH_FILES.values():  # every byte counts
        content = bytearray((torch_pipeline / name).read_bytes())
        content[len(content) // 2] ^= 1
        (torch_pipeline / name).write_bytes(content)
        assert model_identity(str(torch_pipeline), torch_pipeline) != model.identity


def test_parts_of_torchs_files_and_old_files_are_read(pipeline, torch_pipeline):
    whole = torch_pipeline / TORCH_FILES["unet/diffusion_pytorch_model"]
    weights = torch.load(whole, weights_only=True)
    whole.unlink()
    names = [f"diffusion_pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
    for i, name in enumerate(names):
        torch.save({key: weights[key] for key in sorted(weights)[i::2]}, whole.with_name(name))
    index = {"metadata": {}, "weight_map": {key: names[i % 2] for i, key in enumerate(sorted(weights))}}
    whole.with_name(f"{whole.name}.index.json").write_text(json.dumps(index))
    encoder = torch_pipeline / TORCH_FILES["text_encoder/model"]
    torch.save(torch.load(encoder, weights_only=True), encoder, _use_new_zipfile_serialization=False)
    model, other = load_model(str(torch_pipeline), CPU), load_model(str(pipeline), CPU)
    assert all(torch.equal(a, b) for a, b in zip(model.denoiser.parameters(), other.denoiser.parameters(), strict=True))
    whole.with_name(names[1]).unlink()
    with pytest.raises(UserError, match=f"lacks 1 parts of its weights, such as {names[1]}"):
        load_model(str(torch_pipeline), CPU)


def test_torchs_files_beside_safetensors_are_not_read(pipeline, tmp_path):
    base = shutil.copytree(pipeline, tmp_path / "base")
    before = model_identity(str(base), base)
    (base / "unet/diffusion_pytorch_model.bin").write_text(POINTER)
    (base / "safety_checker").mkdir()
    (base / "safety_checker/pytorch_model.bin").write_text(POINTER)
    load_model(str(base), CPU)
    assert model_identity(str(base), base) == before


class Harmful:
    """Unpickled, it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("new", [True, False])
def test_a_file_of_torch_that_would_run_code_is_refused(torch_pipeline, tmp_path, new):
    path, proof = torch_pipeline / TORCH_FILES["unet/diffusion_pytorch_model"], tmp_path / "proof"
    weights = torch.load(path, weights_only=True) | {"more": Harmful(proof)}
    torch.save(weights, path, _use_new_zipfile_serialization=new)
    with pytest.raises(
        UserError, match=r"model\.bin holds more than tensors and is not read, because it could run code"
    ):
        load_model(str(torch_pipeline), CPU)
    assert not proof.exists()
    torch.load(path, weights_only=False)["more"].close()
    assert proof.exists()  # the file is what the test says


BROKEN_TORCH = {
    "pointer": (lambda path: path.write_text(POINTER), "is a pointer of git-lfs"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-4]), "is damaged"),
    "empty": (lambda path: path.write_bytes(b""), "is damaged"),
    "a page": (lambda path: path.write_text("<html>"), "is damaged"),
    "half": (
        lambda path: torch.save(dict(list(torch.load(path, weights_only=True).items())[::2]), path),
        "unet is not the whole model .* lacks",
    ),
    "a whole checkpoint": (
        lambda path: torch.save({"epoch": 3, "state_dict": torch.load(path, weights_only=True)}, path),
        "more than tensors by name: save the model's state_dict",
    ),
    "another name": (lambda path: path.rename(path.with_name("unet.ckpt")), r"another name only \(unet.ckpt\)"),
}


@pytest.mark.parametrize("kind", BROKEN_TORCH)
def test_a_file_of_torch_that_is_not_whole_is_refused(kind, torch_pipeline):
    damage, message = BROKEN_TORCH[kind]
    damage(torch_pipeline / TORCH_FILES["unet/diffusion_pytorch_model"])
    with pytest.raises(UserError, match=message):
        load_model(str(torch_pipeline), CPU)


def test_torchs_files_are_downloaded_for_parts_without_safetensors(pipeline, torch_pipeline, tmp_path, monkeypatch):
    """The hub's client is replaced by one that copies what the patterns allow."""
    shutil.copytree(pipeline / "vae", torch_pipeline / "vae", dirs_exist_ok=True)  # the autoencoder in both forms
    got = tmp_path / "got"

    def snapshot(name, allow_patterns, **_):
        for path in torch_pipeline.rglob("*"):
            relative = path.relative_to(torch_pipeline)
            if path.is_file() and any(fnmatch(str(relative), pattern) for pattern in allow_patterns):
                (got / relative).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, got / relative)
        return got

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    load_model("me/base", CPU)
    assert sorted(str(path.relative_to(got)) for path in got.rglob("*.bin")) == [
        "text_encoder/pytorch_model.bin",
        "unet/diffusion_pytorch_model.bin",
    ]


def test_a_captioner_that_is_not_whole_is_refused_before_anything_is_packed(tmp_path):
    (tmp_path / "vlm").mkdir()
    captioner = write_asked(tmp_path / "vlm")
    method = DPD(base="tiny", captioner=str(captioner))
    method.check_models(["barn", "pond"])
    keep_every_second_weight(captioner / "model.safetensors")
    with pytest.raises(UserError, match=r"captioner .* is not the whole model .* lacks(?s:.)*captioner=palette"):
        method.check_models(["barn", "pond"])
    (captioner / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"captioner .* cannot be used: it has no tokenizer\.json"):
        method.check_models(["barn", "pond"])


def test_every_byte_of_an_own_base_counts(pipeline, tmp_path):
    base = shutil.copytree(pipeline, tmp_path / "base")
    seen = {model_identity(str(base), base)}
    for number, path in enumerate(sorted(path for path in base.rglob("*") if path.is_file()), 2):
        if path.suffix == ".json":
            path.write_text(path.read_text() + " ")
        else:
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.write_bytes(content)
        seen.add(model_identity(str(base), base))
        assert len(seen) == number, path


def test_bytes_that_are_no_text_count_too(tmp_path):
    seen = set()
    for content in (b"\x80", b"\x81", b"a\n", b"a\r\n"):
        (tmp_path / "spiece.model").write_bytes(content)
        seen.add(model_identity(str(tmp_path), tmp_path, ""))
    assert len(seen) == 4


def test_the_identity_of_the_embedded_base_stays():
    assert model_identity("tiny", EMBEDDED["tiny"]) == "8e0a781a460f4062"


def test_classes_of_one_condition_are_refused(pipeline, caplog):
    method = DPD(base=str(pipeline), captioner="template")
    long = "land principally occupied by agriculture with significant areas of "
    method.check_models([f"{long}rock", "rock"])
    for names in ([f"{long}natural vegetation", f"{long}bare rock"], ["pond", "barn", "pond"]):
        with pytest.raises(UserError, match="have one condition"):
            method.check_models(names)
    model = load_model(str(pipeline), CPU)
    with caplog.at_level("WARNING"):
        model.encode_prompts([f"{long}rock", "rock"], [0, 1])
    assert "1 of 2 prompts have more tokens than the 32" in caplog.text


@pytest.mark.parametrize(
    ("unet", "said"),
    [
        ({"in_channels": 9}, "it takes 9 channels, the autoencoder gives 4"),
        ({"cross_attention_dim": 24}, "it reads texts of width 24, the text encoder writes 16"),
        ({"class_embed_type": "identity"}, "its class embedding is 'identity'"),
    ],
)
def test_a_denoiser_that_wants_something_else_is_refused(unet, said, make_pipeline, tmp_path):
    base = make_pipeline(tmp_path / "base", **unet)
    with pytest.raises(UserError, match=f"not a text-to-image model: {said}"):
        load_model(str(base), CPU)


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"_class_name": "NoSuchScheduler"}, "NoSuchScheduler does not exist in diffusers"),
     ({"prediction_type": "flow"}, "predicts 'flow'; known are epsilon")],
)  # fmt: skip
def test_a_scheduler_we_do_not_know_is_named(changes, said, make_pipeline, tmp_path):
    folder = make_pipeline(tmp_path / "base")
    edit(folder / "scheduler" / "scheduler_config.json", **changes)
    with pytest.raises(UserError, match=said):
        load_model(str(folder), CPU)


def test_the_index_of_a_pipeline_says_its_scheduler(make_pipeline, tmp_path):
    """As diffusers reads it: the scheduler's own file may name another, from which it was made."""
    folder = make_pipeline(tmp_path / "base")
    before = load_model(str(folder), CPU)
    (folder / "model_index.json").write_text(json.dumps({"scheduler": ["diffusers", "PNDMScheduler"]}))
    after = load_model(str(folder), CPU)
    assert [type(m.scheduler).__name__ for m in (before, after)] == ["DDIMScheduler", "PNDMScheduler"]
    assert before.identity != after.identity


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # diffusers' own, in DPMSolver
@pytest.mark.parametrize("own", [EulerDiscreteScheduler, DPMSolverMultistepScheduler, DDIMScheduler])
@pytest.mark.parametrize("name", ["base", "DDIMScheduler", "DDPMScheduler"])
def test_no_scheduler_clips_latents(own, name, make_pipeline, tmp_path):
    """From noise, with a denoiser that knows a goal far outside [-1, 1]; DDIM's and DDPM's own default is to clip."""
    folder = make_pipeline(tmp_path / "base")
    own().save_pretrained(folder / "scheduler")
    plan = load_model(str(folder), CPU).make_scheduler(name)
    goal = 3 * torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def knows(z, t):
        abar = plan.alphas_cumprod[t]
        return (z - abar.sqrt() * goal) / (1 - abar).sqrt()

    made, _ = sample(knows, plan, goal, SamplerConfig(50), [torch.Generator().manual_seed(i) for i in range(2)])
    assert (made - goal).abs().mean() < 0.3


def test_an_autoencoder_we_do_not_know_is_named(make_pipeline, tmp_path):
    folder = make_pipeline(tmp_path / "base")
    config = folder / "vae" / "config.json"
    config.write_text(config.read_text().replace("AutoencoderKL", "VQModel"))
    with pytest.raises(UserError, match="its vae is a VQModel; known are AutoencoderKL, AutoencoderDC"):
        load_model(str(folder), CPU)


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


def test_another_training_of_the_same_base_is_another_base(make_pipeline, tmp_path):
    folder = make_pipeline(tmp_path / "base")
    before = load_model(str(folder), CPU)
    _train_again(before, folder)
    assert load_model(str(folder), CPU).identity != before.identity


def test_bases_of_one_autoencoder_share_its_stages(method, make_pipeline, few_scenes, context_of, tmp_path):
    folder = make_pipeline(tmp_path / "base")
    judged = dataclasses.replace(method, base=str(folder), candidates=2, classifier_steps=2)
    judged.distill(few_scenes, 1, context_of())
    _train_again(load_model(str(folder), CPU), folder)
    ctx = context_of()
    judged.distill(few_scenes, 1, ctx)
    reused = [cost["stage"] for cost in ctx.costs if cost["reused"]]
    assert reused == ["latents", "prototypes", "classifier"]


def _train_again(model, folder):
    with torch.no_grad():
        for weight in model.denoiser.parameters():
            weight.mul_(1.01)
    model.denoiser.save_pretrained(folder / "unet")


def test_a_size_that_does_not_fit_the_base_is_refused_before_any_work(method, few_scenes, context_of):
    odd = dataclasses.replace(few_scenes, images=few_scenes.images[..., :30, :30])
    with pytest.raises(UserError, match="30 px: this base takes multiples of 4; try 28 or 32"):
        method.distill(odd, 1, context_of())


def test_a_base_whose_scheduler_scales_its_noise_is_sampled_by_ddim(
    method, make_pipeline, few_scenes, context_of, tmp_path, caplog
):
    folder = make_pipeline(tmp_path / "base")
    EulerDiscreteScheduler.from_pretrained(folder / "scheduler").save_pretrained(folder / "scheduler")
    replaced = dataclasses.replace(method, base=str(folder), weights="none")
    made = replaced.distill(few_scenes, 1, context_of()).images
    assert "EulerDiscreteScheduler is not variance preserving: DDIMScheduler replaces it" in caplog.text
    assert torch.equal(made, dataclasses.replace(method, weights="none").distill(few_scenes, 1, context_of()).images)


def test_pndm_may_start_in_the_middle(pipeline):
    """From noise on a known image, with a denoiser that knows it, every scheduler must come back to it."""
    model = load_model(str(pipeline), CPU)
    goal = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for name in ("DDIMScheduler", "PNDMScheduler"):
        plan = model.make_scheduler(name, moving=["pull"])

        def knows(z, t, plan=plan):
            abar = plan.alphas_cumprod[t]
            return (z - abar.sqrt() * goal) / (1 - abar).sqrt()

        noise = [torch.Generator().manual_seed(i) for i in range(2)]
        made, _ = sample(knows, plan, goal, SamplerConfig(50, strength=0.5), noise)
        assert (made - goal).abs().max() < 0.2


def draw_from_noise(model, scheduler, pipe, prompt):
    """Return the latents of our sampler and of diffusers' pipeline: same noise, prompt, guidance and steps."""
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    more = {"guidance_scale": 3.0, "num_inference_steps": 5, "output_type": "latent"}
    theirs = pipe(prompt, latents=noise, height=32, width=32, **more).images
    words = model.encode_prompts([prompt, ""], [0, -1])
    denoise = guided_denoiser(model.denoise, words[:1], words[1:], lambda t: 3.0)
    generators = [torch.Generator().manual_seed(5)]
    ours, _ = sample(denoise, scheduler, torch.zeros(1, 4, 8, 8), SamplerConfig(5), generators)
    return ours, theirs


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_from_noise_it_draws_what_the_pipeline_of_diffusers_draws(prediction, make_pipeline, tmp_path):
    """Same noise, prompt, guidance and steps: the same latents."""
    from diffusers import StableDiffusionPipeline

    folder, prompt = make_pipeline(tmp_path / "base", prediction), "A satellite image of a river"
    model = load_model(str(folder), CPU)
    plan = DDIMScheduler.from_config(model.scheduler.config, steps_offset=1)  # as the pipeline wants it
    parts = (model.vae, model.text, model.tokenizer, model.denoiser, plan, None, None)
    pipe = StableDiffusionPipeline(*parts, requires_safety_checker=False)
    ours, theirs = draw_from_noise(model, plan, pipe, prompt)
    assert torch.allclose(ours, theirs, atol=1e-4)


NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
OTHER_BASES = {
    "without prediction_type and scaling_factor": PNDMScheduler(**NOISE, skip_prk_steps=True, steps_offset=1),
    "sample": DDIMScheduler(**NOISE, prediction_type="sample", clip_sample=False),
    "zero signal at the end": DDIMScheduler(
        **NOISE, prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing",
        clip_sample=True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHER_BASES)
def test_a_base_of_another_kind_draws_what_the_pipeline_of_diffusers_draws(kind, make_pipeline, tmp_path):
    """Configurations of 2022, a denoiser of clean latents, a schedule that ends without signal; from their files."""
    from diffusers import StableDiffusionPipeline

    folder, prompt = make_pipeline(tmp_path / "base"), "A satellite image of a river"
    OTHER_BASES[kind].save_pretrained(folder / "scheduler")
    if kind.startswith("without"):
        files = {"scheduler/scheduler_config.json": "prediction_type", "vae/config.json": "scaling_factor"}
        for path, key in files.items():
            config = json.loads((folder / path).read_text())
            del config[key]
            (folder / path).write_text(json.dumps(config))
    model = load_model(str(folder), CPU)
    scheduler = type(OTHER_BASES[kind]).from_pretrained(folder / "scheduler")
    parts = (model.vae, model.text, model.tokenizer, model.denoiser, scheduler, None, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the pipeline turns clip_sample off, and says so
        pipe = StableDiffusionPipeline(*parts, requires_safety_checker=False)
    own = model.make_scheduler("base")
    own.register_to_config(steps_offset=scheduler.config.steps_offset)
    ours, theirs = draw_from_noise(model, own, pipe, prompt)
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert model.vae.config.scaling_factor == (0.18215 if kind.startswith("without") else 0.5)


@pytest.mark.parametrize("name", ["PNDMScheduler", "DDIMScheduler"])
def test_from_a_latent_it_draws_what_image_to_image_of_diffusers_draws(name, pipeline):
    """D4M's and VLCP's sampling: noise of strength 0.7 on a latent, the rest of the steps; also by PNDM, their own."""
    import diffusers

    prompt, centre = "A satellite image of a river", torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(6))
    model = load_model(str(pipeline), CPU)
    plan = getattr(diffusers, name).from_config(model.scheduler.config, steps_offset=1)  # as the pipeline wants it
    parts = (model.vae, model.text, model.tokenizer, model.denoiser, plan, None, None)
    pipe = diffusers.StableDiffusionImg2ImgPipeline(*parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    more = {"guidance_scale": 3.0, "num_inference_steps": 10, "output_type": "latent", "strength": 0.7}
    noise = torch.Generator().manual_seed(5)
    theirs = pipe(prompt, centre, negative_prompt="cartoon", generator=noise, **more).images
    words = model.encode_prompts([prompt, "cartoon"], [0, -1])
    denoise = guided_denoiser(model.denoise, words[:1], words[1:], lambda t: 3.0)
    ours, _ = sample(denoise, plan, centre, SamplerConfig(10, strength=0.7), [torch.Generator().manual_seed(5)])
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert not torch.allclose(ours, centre, atol=0.1)


def test_an_untuned_dit_draws_what_the_pipeline_of_diffusers_draws(few_scenes, context_of, tmp_path):
    """A base of the true shape of ImageNet's: its classes 978, 3 and 574 for ours, its class 1000 for none."""
    from diffusers import DiTPipeline

    base = write_dit(tmp_path / "dit", classes=1000)
    numbers = tmp_path / "classes.toml"
    lines = (f"{name} = {number}" for name, number in zip(few_scenes.classes, (978, 3, 574), strict=True))
    numbers.write_text("\n".join(lines))
    method = Diffusion(base=str(base), weights="none", guidance=4.0, steps=3)
    ctx = context_of()
    with pytest.raises(UserError, match=r"base_classes=FILE\.toml"):
        method.distill(few_scenes, 1, ctx)
    ours = dataclasses.replace(method, base_classes=str(numbers)).distill(few_scenes, 1, ctx)
    model = load_model(str(base), CPU)
    pipe = DiTPipeline(model.denoiser, model.vae, DDIMScheduler.from_config(model.scheduler.config))
    pipe.set_progress_bar_config(disable=True)
    generators = [ctx.generator("sample", i) for i in range(3)]
    theirs = pipe([978, 3, 574], 4.0, generators, num_inference_steps=3, output_type="pt", return_dict=False)[0]
    assert (ours.images.float() / 255 - theirs).abs().max() < 0.01
