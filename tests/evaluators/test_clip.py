"""CLIP embeddings against the model's own forward pass, on a small random model in the format of the real ones."""

import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_clip import write_clip

from evaluators import clip
from evaluators.fidelity import agreement
from evaluators.model_checks import ModelError

TEXTS = ["a remote sensing image of forest", "a remote sensing image of river"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip"))


def pictures(n=5, size=24):
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_embeddings_are_those_that_the_model_compares(folder):
    loaded = clip.load(str(folder))
    images, texts = clip.embed_images(loaded, pictures(), batch=2), clip.embed_texts(loaded, TEXTS)
    both = loaded.processor(images=list(pictures()), text=TEXTS, padding="max_length", return_tensors="pt")
    with torch.no_grad():
        whole = loaded.model(**both)
    cosines = torch.nn.functional.normalize(images) @ torch.nn.functional.normalize(texts).T
    expected = whole.logits_per_image / math.exp(loaded.model.logit_scale.item())
    torch.testing.assert_close(cosines, expected, atol=1e-5, rtol=1e-4)
    score, accuracy = agreement(images, texts, torch.tensor([0, 1, 0, 1, 0]))
    assert score == pytest.approx(float(expected[torch.arange(5), [0, 1, 0, 1, 0]].mean()), abs=1e-5)
    assert accuracy == pytest.approx(float((expected.argmax(1) == torch.tensor([0, 1, 0, 1, 0])).float().mean()))


def test_weights_in_torchs_file_are_read_as_tensors_only(folder, tmp_path):
    old = shutil.copytree(folder, tmp_path / "old")
    torch.save(load_file(old / "model.safetensors"), old / "pytorch_model.bin")
    (old / "model.safetensors").unlink()
    expected = clip.embed_images(clip.load(str(folder)), pictures())
    assert torch.equal(clip.embed_images(clip.load(str(old)), pictures()), expected)
    torch.save({"model": torch.nn.Linear(1, 1)}, old / "pytorch_model.bin")  # would run code if it were unpickled
    with pytest.raises(ModelError, match="cannot be loaded as a CLIP model"):
        clip.load(str(old))


def test_a_model_without_some_of_its_weights_is_an_error(folder, tmp_path):
    part = shutil.copytree(folder, tmp_path / "part")
    weights = load_file(part / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "visual_projection" not in k}, part / "model.safetensors")
    with pytest.raises(OSError, match=r"lacks 1 weights, such as visual_projection\.weight"):
        clip.load(str(part))


def test_other_weights_have_another_digest(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    save_file(weights | {"logit_scale": weights["logit_scale"] + 1}, other / "model.safetensors")
    assert clip.digest(clip.load(str(folder))) == clip.digest(clip.load(str(folder)))
    assert clip.digest(clip.load(str(folder))) != clip.digest(clip.load(str(other)))


def test_a_model_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(OSError, match="none"):
        clip.load(str(tmp_path / "none"))


def test_a_tokenizer_without_its_vocabulary_is_an_error(folder, tmp_path):
    part = shutil.copytree(folder, tmp_path / "part")
    (part / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="tokenizer"):
        clip.load(str(part))


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"{"])
def test_damaged_files_are_an_error(folder, tmp_path, content):
    part = shutil.copytree(folder, tmp_path / "part")
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        saved = (part / name).read_bytes()
        (part / name).write_bytes(content)
        with pytest.raises(ModelError, match=name):
            clip.load(str(part))
        (part / name).write_bytes(saved)


def test_texts_that_are_one_to_the_model_are_an_error(folder):
    loaded, long = clip.load(str(folder)), "land principally occupied by agriculture with significant areas of "
    assert clip.check_texts(loaded, TEXTS) == {}
    assert len(clip.check_texts(loaded, [f"{long}rock", "a river"])) == 1
    with pytest.raises(ValueError, match="are one text to the CLIP model"):
        clip.check_texts(loaded, [f"{long}natural vegetation", f"{long}bare rock"])


def test_files_of_another_name_and_pointers_are_named(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    (other / "model.safetensors").rename(other / "model.fp16.safetensors")
    with pytest.raises(ModelError, match=r"under another name only \(model\.fp16\.safetensors\)"):
        clip.load(str(other))
    (other / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin is a pointer of git-lfs"):
        clip.load(str(other))
    whole = shutil.copytree(folder, tmp_path / "whole")
    (whole / "processor_config.json").unlink()
    with pytest.raises(ModelError, match=r"lacks preprocessor_config\.json"):
        clip.load(str(whole))
