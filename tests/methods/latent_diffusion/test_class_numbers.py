"""Test the map of classes to a base's numbers, and an untuned DiT that draws its own classes."""

from __future__ import annotations

import dataclasses
import tomllib

import pytest
import torch
from small_models import write_dit
from torchvision.models import ResNet18_Weights

from ddbench.errors import UserError
from ddbench.methods.d4m import D4M
from ddbench.methods.dpd.distiller import DPD
from ddbench.methods.latent_diffusion.class_numbers import EMBEDDED, class_numbers, normalise, read_class_numbers
from ddbench.methods.latent_diffusion.model import load_model
from ddbench.methods.mgd3 import MGD3
from ddbench.methods.plain_diffusion import Diffusion

CPU = torch.device("cpu")
SHORT = {"steps": 3, "batch": 4}


def write_map(folder, text):
    path = folder / "classes.toml"
    path.write_text(text)
    return str(path)


def test_a_class_is_looked_up_by_its_name_or_its_words(tmp_path):
    path = write_map(tmp_path, 'beach = 978\n"Golf-Ball" = 574\n"dry river" = 3')
    assert class_numbers(path, ("n1", "golf_ball", "DryRiver"), ("Beach", "golf ball", "dry river")) == (978, 574, 3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("beach = 1", "has no number for golf"), ('beach = 1\ngolf = "2"', "golf = '2' is invalid"),
     ("beach = 1\ngolf = -1", "golf = -1 is invalid"), ("beach = 1\ngolf = 1", "several classes: beach, golf"),
     ("beach = ", "not valid TOML")],
)  # fmt: skip
def test_a_map_that_does_not_fit_is_named(text, expected, tmp_path):
    with pytest.raises(UserError, match=expected):
        class_numbers(write_map(tmp_path, text), ("beach", "golf"), ("beach", "golf"))


def test_of_many_classes_without_a_number_ten_are_named(tmp_path):
    names = [f"class {i}" for i in range(25)]
    with pytest.raises(UserError, match=r"for class 0, (?:class \d, ){8}class 9 and 15 more\. Add lines NAME = NUMBER"):
        class_numbers(write_map(tmp_path, "beach = 1"), names, names)


def test_a_missing_map_names_the_embedded_ones(tmp_path):
    with pytest.raises(UserError, match="no such file; embedded are imagenet, imagenet10, imagenette, imagewoof"):
        class_numbers(str(tmp_path / "gone.toml"), ("a",), ("a",))


@pytest.mark.parametrize(
    ("name", "count"), [("imagenet", 1000), ("imagenet10", 10), ("imagenette", 10), ("imagewoof", 10)]
)
def test_embedded_maps_name_classes_by_id_and_by_words(name, count):
    """By WordNet id, whose order is that of ImageNet's numbers, and by the words that torchvision has for a number."""
    table = tomllib.loads(EMBEDDED[name].read_text(encoding="utf-8"))
    everything = tomllib.loads(EMBEDDED["imagenet"].read_text(encoding="utf-8"))
    ids = sorted(key for key in table if key[0] == "n" and key[1:].isdigit())
    assert len(ids) == count
    assert [everything[key] for key in ids] == [table[key] for key in ids] == sorted({table[key] for key in ids})
    words = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    named = {number: normalise(key) for key, number in table.items() if key not in ids}
    assert len(table) == len(ids) + len(named)
    assert all(normalise(words[number]) == key for number, key in named.items())
    without = [words[table[key]] for key in ids if table[key] not in named]
    assert without == (["Cardigan", "cardigan"] if name == "imagenet" else [])  # a dog and a garment: one name


def test_the_classes_of_idc_have_the_numbers_of_its_public_list():
    numbers = class_numbers("imagenet10", ("n02869837", "Doberman", "vacuum"), ("a", "b", "c"))
    assert numbers == (452, 236, 882)
    assert class_numbers("imagenet", ("n02869837", "Doberman", "vacuum"), ("a", "b", "c")) == numbers
    assert sorted(set(read_class_numbers("imagenet10").values())) == [64, 74, 176, 236, 374, 452, 503, 882, 904, 993]


def test_a_number_that_the_base_does_not_have_is_named(few_scenes, context_of, tmp_path):
    numbers = write_map(tmp_path, "\n".join(f"{name} = {i + 2}" for i, name in enumerate(few_scenes.classes)))
    method = MGD3(base=str(write_dit(tmp_path / "dit")), base_classes=numbers, **SHORT)
    with pytest.raises(UserError, match="base_classes has the number 4, but this base has 4 classes"):
        method.distill(few_scenes, 1, context_of())


def test_a_base_conditioned_by_text_has_no_numbers(pipeline, few_scenes, context_of, tmp_path):
    numbers = write_map(tmp_path, "\n".join(f"{name} = {i}" for i, name in enumerate(few_scenes.classes)))
    with pytest.raises(UserError, match="conditioned by text and has no numbers"):
        D4M(base=str(pipeline), base_classes=numbers, **SHORT).distill(few_scenes, 1, context_of())


def test_another_map_is_another_run(tmp_path):
    method = MGD3(base=str(write_dit(tmp_path / "dit")), base_classes=write_map(tmp_path, "beach = 1"))
    before = method.identity()
    write_map(tmp_path, "beach = 2")
    assert method.identity() != before
    assert dataclasses.replace(method, base_classes="").identity() != before


def test_a_base_may_work_at_another_size(pipeline, few_scenes, context_of):
    """Images of 32 px are encoded at 64 px, and samples of 64 px are returned at 32 px; stages are not shared."""
    method = D4M(base=str(pipeline), strength=0.5, **SHORT)
    plain = method.distill(few_scenes, 2, context_of())
    ctx = context_of()
    large = dataclasses.replace(method, base_size=64).distill(few_scenes, 2, ctx)
    assert large.images.shape == plain.images.shape
    assert not {cost["stage"]: cost["reused"] for cost in ctx.costs}["latents"]
    model = load_model(str(pipeline), CPU).adapted(64, ())
    means, _ = model.encode(few_scenes.images[:2], iter, 8)
    resized = torch.nn.functional.interpolate(
        few_scenes.images[:2].float(), (64, 64), mode="bicubic", antialias=True
    ).clamp(0, 255)
    expected = model.vae.encode(resized / 127.5 - 1).latent_dist.mean
    assert means.shape[-1] == 16
    torch.testing.assert_close(means.float(), expected, rtol=1e-2, atol=1e-2)


def test_a_dit_takes_other_sizes_at_its_own(few_scenes, context_of, tmp_path):
    few = dataclasses.replace(few_scenes, images=few_scenes.images[..., :24, :24])
    numbers = write_map(tmp_path, "\n".join(f"{name} = {i}" for i, name in enumerate(few.classes)))
    method = MGD3(base=str(write_dit(tmp_path / "dit")), base_classes=numbers, **SHORT)
    with pytest.raises(UserError, match="base_size=32"):
        method.distill(few, 1, context_of())
    assert dataclasses.replace(method, base_size=32).distill(few, 1, context_of()).images.shape[-1] == 24


def test_epochs_or_classes_decide_the_steps():
    method = Diffusion(tune_batch=32, tune_steps=5, tune_epochs=8)
    assert method._finetune_config(CPU, 100, 21).steps == 8 * 4
    assert dataclasses.replace(method, tune_epochs=0)._finetune_config(CPU, 100, 21).steps == 5
    assert dataclasses.replace(method, tune_epochs=0, tune_class_steps=10)._finetune_config(CPU, 100, 21).steps == 215
    with pytest.raises(ValueError, match="tune_steps must be at least 1"):
        dataclasses.replace(method, tune_steps=0)


def test_steps_for_each_class_reach_fine_tuning(pipeline, few_scenes, context_of):
    few = {"steps": 2, "tune_batch": 2, "tune_steps": 0, "tune_class_steps": 2}
    ours = DPD(base=str(pipeline), captioner="template", consistency=0.0, **few)
    for method in (Diffusion(base=str(pipeline), **few), ours):
        ctx = context_of()
        method.distill(few_scenes, 1, ctx)
        assert [c["steps"] for c in ctx.costs if c["stage"] == "finetune"] == [2 * len(few_scenes.classes)]
