"""Captions through real vision-language model classes, small and random; and what DPD does with captions."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
import torch
from small_models import write_asked, write_dit, write_unasked

from ddbench.errors import UserError
from ddbench.methods.dpd.distiller import DPD
from ddbench.methods.latent_diffusion import captions
from ddbench.methods.latent_diffusion.captions import caption_all, describe_colours, load_captioner
from ddbench.methods.mgd3 import MGD3
from ddbench.methods.vlcp import VLCP
from ddbench.utils.files import read_json

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=[write_asked, write_unasked], ids=["chat template", "none"])
def captioner(request, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp("captioner"))


def test_a_model_of_the_hub_says_something_of_every_image(captioner, few_scenes):
    describe = load_captioner(captioner, CPU)
    found = describe(few_scenes.images[:5])
    assert len(found) == 5
    assert all(isinstance(caption, str) and captions.QUESTION not in caption for caption in found)
    assert describe(few_scenes.images[:5]) == found


def test_captions_are_made_once_and_lie_in_a_file(captioner, few_scenes, context_of):
    found = caption_all(str(captioner), few_scenes, context_of(), 4)
    ctx = context_of(1)
    assert caption_all(str(captioner), few_scenes, ctx, 7) == found
    assert ctx.costs[0]["reused"]
    record = read_json(next(ctx.shared.glob("captions-*")) / "captions.json")
    assert record == dict(zip(few_scenes.names, found, strict=True))


def test_a_killed_captioner_goes_on_behind_its_last_batch(few_scenes, context_of, monkeypatch):
    seen, real = [], captions.describe_colours

    def describe(images):
        seen.append(len(images))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return real(images)

    monkeypatch.setattr(captions, "describe_colours", describe)
    with pytest.raises(KeyboardInterrupt):
        caption_all("palette", few_scenes, context_of(), 5)
    kept = next(context_of().shared.glob(".*captions.jsonl"))
    kept.write_text(kept.read_text() + '"half a lin')  # as a kill in the middle of writing leaves it
    assert caption_all("palette", few_scenes, context_of(), 5) == real(few_scenes.images)
    assert seen == [5, 5, 5, 5, 3]
    assert not list(context_of().shared.glob(".*captions.jsonl"))


def test_a_missing_captioner_names_the_ways_out(few_scenes, context_of, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"captioner 'nobody/nothing'(?s:.)*--set captioner=palette"):
        caption_all("nobody/nothing", few_scenes, context_of(), 4)
    with pytest.raises(UserError, match="lacks config"):
        caption_all(str(tmp_path), few_scenes, context_of(), 4)


def test_dpd_draws_each_cluster_by_a_caption_of_a_member(pipeline, captioner, few_scenes, context_of):
    method = DPD(base=str(pipeline), captioner=str(captioner), tune_steps=1, tune_batch=4, consistency=0.0, steps=2)
    ctx = context_of()
    made = method.distill(few_scenes, 2, ctx)
    said = read_json(next(ctx.shared.glob("captions-*")) / "captions.json")
    owner = read_json(next(ctx.shared.glob("prototypes-*")) / "clusters.json")
    for record in made.extras["prototypes"]:
        members = [row for row in few_scenes.of_class(record["label"]).tolist() if owner[row] == record["cluster"]]
        start = f"A satellite image of {few_scenes.readable[record['label']]}. "
        assert record["prompt"] in {start + said[few_scenes.names[row]] for row in members}


def test_many_prompts_are_kept_on_disk_and_change_nothing(pipeline, few_scenes, context_of, tmp_path, monkeypatch):
    method = DPD(base=str(pipeline), captioner="palette", tune_steps=2, tune_batch=4, consistency=0.0, steps=2)
    small = method.distill(few_scenes, 1, context_of()).images
    monkeypatch.setattr("ddbench.methods.latent_diffusion.stages.FEW_PROMPTS", 1)
    elsewhere = dataclasses.replace(context_of(), shared=tmp_path / "elsewhere")
    many = method.distill(few_scenes, 1, elsewhere).images
    assert "words" in [cost["stage"] for cost in elsewhere.costs]
    assert (small.int() - many.int()).abs().max() <= 2  # half precision


def test_template_alone_while_fine_tuning(pipeline, few_scenes, context_of):
    method = DPD(base=str(pipeline), captioner="palette", tune_steps=1, tune_batch=4, consistency=0.0, steps=2)
    ctx = context_of()
    dataclasses.replace(method, captioner="template").distill(few_scenes, 1, ctx)
    shared = context_of()
    dataclasses.replace(method, tune_captions=False).distill(few_scenes, 1, shared)
    assert {cost["stage"]: cost["reused"] for cost in shared.costs}["finetune"]
    own = context_of()
    method.distill(few_scenes, 1, own)
    assert not {cost["stage"]: cost["reused"] for cost in own.costs}["finetune"]


@pytest.fixture
def dit(tmp_path):
    return partial(write_dit, tmp_path / "dit")


def test_a_base_conditioned_by_class(dit, few_scenes, context_of):
    base = str(dit())
    method = DPD(
        base=base,
        captioner="template",
        tune_steps=2,
        tune_batch=4,
        tune_empty=0.5,
        classifier_steps=2,
        candidates=2,
        steps=2,
    )
    ctx = context_of()
    method.distill(few_scenes, 1, ctx).check(1)
    from safetensors.torch import load_file

    trained = load_file(next(ctx.shared.glob("finetune-*")) / "denoiser.safetensors")
    assert any(".class_embedder." in name for name in trained)
    assert all(".lora_" in name or ".class_embedder." in name for name in trained)


def test_what_a_base_conditioned_by_class_cannot_do_is_refused(dit, few_scenes, context_of):
    base = str(dit(classes=2))
    with pytest.raises(UserError, match="3 classes: this base is conditioned by class and has 2"):
        DPD(base=base, captioner="template").distill(few_scenes, 1, context_of())
    with pytest.raises(UserError, match="captioner=palette: this base is conditioned by class and reads no text"):
        DPD(base=str(dit()), captioner="palette").distill(few_scenes, 1, context_of())
    for method in (MGD3(base=str(dit())), DPD(base=str(dit()), captioner="template", weights="none")):
        with pytest.raises(UserError, match="would sample the first 3 of its 4 classes; give their numbers"):
            method.distill(few_scenes, 1, context_of())
    with pytest.raises(UserError, match="vlcp needs a text-conditioned base"):
        VLCP(base=str(dit()), captioner="palette").distill(few_scenes, 1, context_of())
    with pytest.raises(UserError, match="32 px: this base, a transformer, takes 64 px only"):
        DPD(base=str(dit(sample_size=16)), captioner="template").distill(few_scenes, 1, context_of())
    assert not context_of().shared.exists()


def plain(red: int, green: int, blue: int, size: int = 64) -> torch.Tensor:
    return torch.tensor([red, green, blue], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, size, size)


@pytest.mark.parametrize(
    ("colour", "name"),
    [
        ((0, 0, 0), "black"), ((70, 70, 70), "dark gray"), ((130, 130, 130), "gray"), ((240, 240, 240), "white"),
        ((200, 20, 20), "bright red"), ((20, 60, 20), "dark green"), ((40, 150, 40), "green"),
        ((20, 20, 80), "dark blue"), ((150, 90, 50), "brown"), ((160, 150, 40), "yellow"), ((150, 20, 40), "red"),
        ((130, 40, 140), "purple"),
    ],
)  # fmt: skip
def test_plain_colours_have_their_names(colour, name):
    assert describe_colours(plain(*colour)) == [f"{name}, smooth texture, few edges"]


def test_two_colours_edges_and_texture():
    halves = plain(240, 240, 240).clone()
    halves[..., :24] = plain(20, 60, 20)[..., :24]
    assert describe_colours(halves) == ["white and dark green, uneven texture, some edges"]
    noise = torch.randint(0, 256, (1, 1, 32, 32), generator=torch.Generator().manual_seed(0)).expand(1, 3, 32, 32)
    assert describe_colours(noise.to(torch.uint8))[0].endswith("rough texture, many edges")


def test_a_caption_does_not_depend_on_its_batch_or_the_size():
    images = torch.randint(0, 256, (5, 3, 32, 32), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    together = describe_colours(images)
    assert together == [describe_colours(image[None])[0] for image in images]
    assert together == describe_colours(images.repeat_interleave(2, 2).repeat_interleave(2, 3))
