"""The embedded base model: what ships, and the command that made it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click import UsageError
from safetensors import safe_open

from ddbench import registry
from ddbench.base_model import FOLDER
from ddbench.base_model.__main__ import Plan, make_autoencoder, make_denoiser
from ddbench.base_model.card import psnr, reconstruct
from ddbench.base_model.images import base_images
from ddbench.base_model.tokenizer import learn_merges, train_tokenizer
from ddbench.datasets.info import DataPaths
from ddbench.datasets.scenes import painter
from ddbench.methods.dpd.distiller import DPD
from ddbench.methods.herding import Herding
from ddbench.methods.latent_diffusion.model import draw_batch, load_model, to_uint8
from ddbench.methods.latent_diffusion.model_files import BY_TEXT
from ddbench.methods.random import Random
from ddbench.registry import load_method
from ddbench.testing import check_method


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny", torch.device("cpu"))


def test_what_ships_is_small_half_precision_and_complete():
    weights = list(FOLDER.rglob("*.safetensors"))
    assert sum(f.stat().st_size for f in FOLDER.rglob("*") if f.is_file()) < 20e6
    assert {f.parent.name for f in weights} == {"vae", "unet", "text_encoder"}
    assert all((FOLDER / part).is_dir() for part in BY_TEXT)
    for path in weights:
        with safe_open(path, "pt") as tensors:
            assert {tensors.get_tensor(k).dtype for k in tensors.keys()} <= {torch.float16, torch.int64}  # noqa: SIM118
    assert "dB PSNR" in (FOLDER / "README.md").read_text()
    assert (FOLDER / "samples.png").is_file()


def test_the_latent_grid_is_small_and_pictures_survive_it(tiny):
    images = torch.stack(
        [torch.from_numpy(painter.scene(c, painter.TEST_START, 64)).permute(2, 0, 1) for c in range(10)]
    )
    mean, std = tiny.encode(images, lambda x: x, 10)
    assert mean.shape == std.shape == (10, 32, 8, 8)
    made = tiny.decode(mean.float() * tiny.vae.config.scaling_factor, 10)
    assert psnr(images, made) > psnr(images, images.roll(1, 0)) + 8
    assert (made.int() - reconstruct(tiny.vae, images).int()).abs().max() < 8  # latents are cached in half precision


def test_every_prompt_has_an_embedding_of_its_own(tiny):
    words = tiny.words(["A satellite image of forest.", "A satellite image of zürich 77.", ""], [0, 1, -1])
    assert words.shape[0] == 3
    assert torch.isfinite(words).all()
    assert (words[0] - words[1]).norm() > 1
    assert (words[0] - words[2]).norm() > 1


def test_merges_worked_by_hand():
    """es 9 (before st, 9: alphabet), est 9, lo 7, ew 6 (before ne, 6), ew+est 6."""
    words = ["low"] * 5 + ["lower"] * 2 + ["newest"] * 6 + ["widest"] * 3
    merges = learn_merges(words, 5)
    assert merges == [("e", "s"), ("es", "t</w>"), ("l", "o"), ("e", "w"), ("ew", "est</w>")]


def test_the_tokenizer_is_always_the_same(tmp_path):
    made = [train_tokenizer(tmp_path / name) for name in "abb"]
    texts = [(tmp_path / name / "tokenizer.json").read_text() for name in "ab"]
    assert texts[0] == texts[1]
    assert made[0].get_vocab() == made[1].get_vocab() == made[2].get_vocab()
    assert len(made[0]) <= 1024


def test_tokenizer_spells_what_it_does_not_know(tmp_path):
    tokenizer = train_tokenizer(tmp_path)
    assert tokenizer.tokenize("dense residential area") == ["dense</w>", "residential</w>", "area</w>"]
    assert "".join(tokenizer.tokenize("qzxv")).replace("</w>", "") == "qzxv"
    assert tokenizer.unk_token_id not in tokenizer("Zürich 77 qzxv").input_ids[1:-1]


def test_symmetries_keep_every_pixel(few_scenes):
    images, labels = draw_batch(few_scenes, 12, "test", 1)
    again, _ = draw_batch(few_scenes, 12, "test", 1)
    assert torch.equal(images, again)
    known = [{int(x) for x in few_scenes.images[i].flatten().unique()} for i in range(18)]
    for image, label in zip(to_uint8(images), labels, strict=True):
        rows = few_scenes.of_class(int(label)).tolist()
        assert {int(x) for x in image.flatten().unique()} in [known[r] for r in rows]


def build_base(work: Path, data) -> tuple:
    plan = Plan(work, autoencoder=4, denoiser=4, precision="fp32")
    plan.begin()
    vae = make_autoencoder(plan, data)
    return vae, make_denoiser(plan, data, vae, train_tokenizer(work / "tokenizer"))


def stopping(part: str, at: int):
    """A progress bar of a process that is killed in step `at` of a part."""

    def bar(desc, iterable):
        for i, item in enumerate(iterable):
            if desc == part and i == at:
                raise KeyboardInterrupt
            yield item

    return bar


@pytest.fixture(scope="module")
def whole_base(few_scenes, tmp_path_factory):
    return build_base(tmp_path_factory.mktemp("base"), few_scenes)


@pytest.mark.parametrize("part", ["autoencoder", "denoiser"])
def test_training_stopped_and_resumed_gives_the_same_weights(part, whole_base, few_scenes, tmp_path, monkeypatch):
    for module in ("autoencoder", "__main__"):
        monkeypatch.setattr(f"ddbench.base_model.{module}.EVERY", 1)
    with monkeypatch.context() as patch:
        patch.setattr("ddbench.base_model.__main__.bar", stopping(part, 2))
        with pytest.raises(KeyboardInterrupt):
            build_base(tmp_path, few_scenes)
    assert (tmp_path / part / "state.safetensors").is_file()
    assert not (tmp_path / f"{part}.safetensors").exists()
    for one, other in zip(whole_base, build_base(tmp_path, few_scenes), strict=True):
        for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
            assert torch.equal(a, b), name


def test_a_work_folder_of_other_settings_is_refused(tmp_path):
    plan = Plan(tmp_path, autoencoder=4, denoiser=4, precision="fp32")
    plan.begin()
    plan.begin()
    with pytest.raises(UsageError, match="another --work"):
        replace(plan, autoencoder=3).begin()


@pytest.mark.real
def test_base_images_are_the_training_split_and_unused_scenes(tmp_path):
    root = os.environ.get("DDBENCH_DATA")
    if not root or not (Path(root) / "eurosat").is_dir():
        pytest.skip("needs EuroSAT below DDBENCH_DATA")
    data = base_images(DataPaths(Path(root), tmp_path, quiet=True), 2)
    assert data.counts()[:10] == (2400, 2400, 2400, 2000, 2000, 1600, 2000, 2400, 2000, 2400)
    assert data.counts()[10:] == (2,) * 10
    drawn = replace(data, images=data.images[-20:], labels=data.labels[-20:])
    starts = (painter.TRAIN_START, painter.TEST_START)
    used = {painter.scene(0, start + i, 64).tobytes() for start in starts for i in range(2)}
    assert not used & {image.permute(1, 2, 0).contiguous().numpy().tobytes() for image in drawn.images}


@pytest.mark.parametrize("method", [DPD, Random, Herding])
def test_our_methods_keep_the_contract(method):
    broken = [f"{outcome.name}: {outcome.detail}" for outcome in check_method(method) if not outcome.ok]
    assert not broken


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(registry.names("methods")) - {"dpd", "random", "herding"}))
def test_every_other_method_keeps_the_contract(name):
    test_our_methods_keep_the_contract(load_method(name))
