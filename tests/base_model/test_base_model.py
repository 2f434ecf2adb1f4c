"""The embedded base model: what ships, and the command that made it."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click import BadParameter, UsageError
from safetensors import safe_open

from ddbench import config, registry
from ddbench.base_model import FOLDER, card
from ddbench.base_model.__main__ import SHARES, WorkFolder, budgets, make_autoencoder, make_decoder, make_denoiser
from ddbench.base_model.budget import Amount, TrainingBudget
from ddbench.base_model.card import psnr, reconstruct, write_card
from ddbench.base_model.data import base_images, pack_images, unpack_images
from ddbench.base_model.denoiser import encode_views, limited_weight
from ddbench.base_model.tokenizer import learn_merges, train_tokenizer
from ddbench.datasets.info import DataPaths
from ddbench.datasets.scenes import painter
from ddbench.methods.dpd.distiller import DPD
from ddbench.methods.herding import Herding
from ddbench.methods.latent_diffusion.decoder import draw_images
from ddbench.methods.latent_diffusion.model import load_model
from ddbench.methods.latent_diffusion.model_files import BY_TEXT
from ddbench.methods.latent_diffusion.training import Schedule
from ddbench.methods.plain_diffusion import Diffusion
from ddbench.methods.random import Random
from ddbench.registry import load_method
from ddbench.testing import check_method
from ddbench.utils.files import Stopwatch
from ddbench.utils.images import to_uint8


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny", torch.device("cpu"))


def test_what_ships_is_small_half_precision_and_complete():
    weights = list(FOLDER.rglob("*.safetensors"))
    assert sum(f.stat().st_size for f in FOLDER.rglob("*") if f.is_file()) < 40e6
    assert {f.parent.name for f in weights} == {"vae", "unet", "text_encoder"}
    assert all((FOLDER / part).is_dir() for part in BY_TEXT)
    for path in weights:
        with safe_open(path, "pt") as tensors:
            assert {tensors.get_tensor(k).dtype for k in tensors.keys()} <= {torch.float16, torch.int64}  # noqa: SIM118
    assert "dB PSNR" in (FOLDER / "README.md").read_text()
    assert (FOLDER / "samples.png").is_file()


def test_the_card_samples_as_the_preset_does():
    preset = config.build(Diffusion, "tiny")
    assert {key: getattr(preset, key) for key in card.SAMPLING} == card.SAMPLING


def test_the_latent_grid_is_small_and_pictures_survive_it(tiny):
    images = torch.stack(
        [torch.from_numpy(painter.scene(c, painter.TEST_START, 64)).permute(2, 0, 1) for c in range(10)]
    )
    mean, std = tiny.encode(images, lambda x: x, 10)
    assert mean.shape == std.shape == (10, 8, 16, 16)
    made = tiny.decode(mean.float() * tiny.vae.config.scaling_factor, 10)
    assert psnr(images, made) > psnr(images, images.roll(1, 0)) + 8
    assert (made.int() - reconstruct(tiny.vae, images).int()).abs().max() < 8  # latents are cached in half precision


def test_every_prompt_has_an_embedding_of_its_own(tiny):
    words = tiny.encode_prompts(["A satellite image of forest.", "A satellite image of zürich 77.", ""], [0, 1, -1])
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
    def draw(seed: int) -> torch.Tensor:
        return to_uint8(draw_images(few_scenes.images, 12, torch.Generator().manual_seed(seed)))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    pixels = {tuple(image.flatten().sort().values.tolist()) for image in few_scenes.images}
    assert all(tuple(image.flatten().sort().values.tolist()) in pixels for image in draw(1))


def test_views_are_the_eight_symmetries(tiny, few_scenes):
    """Each view decodes to the image, turned and mirrored: all eight differ."""
    image = few_scenes.images[:1]
    z = encode_views(tiny.vae, image, torch.device("cpu"), iter)
    assert z.shape[:2] == (8, 1)
    turns = [image.rot90(k, (2, 3)) for k in range(4)]
    for latent, view in zip(z[:, 0], [*turns, *(turn.flip(3) for turn in turns)], strict=True):
        assert torch.equal(latent, encode_views(tiny.vae, view, torch.device("cpu"), iter)[0, 0])


def test_little_noise_counts_little():
    """min(1, 10 (1 - abar)), by hand."""
    weights = limited_weight(torch.tensor([0.0, 0.5, 0.9, 0.95, 0.99, 1.0]), "v_prediction")
    assert torch.allclose(weights, torch.tensor([1.0, 1.0, 1.0, 0.5, 0.1, 0.0]), atol=1e-6)


BUDGET = TrainingBudget("4", 4, 1e-3, 0.9)


def build_base(work: Path, data, budget: TrainingBudget = BUDGET) -> tuple:
    folder = WorkFolder(work, torch.device("cpu"), "few scenes")
    vae = make_autoencoder(folder, data, budget)
    make_decoder(folder, data, vae, budget)
    return vae, make_denoiser(folder, data, vae, train_tokenizer(work / "tokenizer"), budget)


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


@pytest.mark.slow
@pytest.mark.parametrize("part", ["autoencoder", "decoder", "denoiser"])
def test_training_stopped_and_resumed_gives_the_same_weights(part, whole_base, few_scenes, tmp_path, monkeypatch):
    for module in ("autoencoder", "denoiser"):
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
    work = WorkFolder(tmp_path, torch.device("cpu"), "scenes")
    tensors = {"x": torch.ones(2)}
    assert torch.equal(work.part("latents", {"a": 1}, lambda: tensors)["x"], tensors["x"].half())
    work.part("latents", {"a": 1}, pytest.fail)
    with pytest.raises(UsageError, match="another --work"):
        work.part("latents", {"a": 2}, lambda: tensors)
    with pytest.raises(UsageError, match="another --work"):
        replace(work, data="others").part("latents", {"a": 1}, lambda: tensors)


def test_minutes_end_the_training_and_anneal_the_rate(few_scenes, tmp_path):
    """Time decides: another number of steps every time, and the last at a hundredth of the rate."""
    budget = TrainingBudget("0.01min", 2, 1e-3, 0.9)
    assert (budget.steps, budget.seconds) == (0, 0.6)
    work = WorkFolder(tmp_path, torch.device("cpu"), "few scenes")
    watch = Stopwatch()
    make_autoencoder(work, few_scenes, budget)
    assert watch.seconds >= 0.6
    assert work.records()["autoencoder"]["seconds"] >= 0.6
    schedule = Schedule(0, 1.0, cosine=True, seconds=10.0)
    rates = [schedule.rate_at(100, schedule.progress_at(100, seconds)) for seconds in (0, 5, 10)]
    assert rates == pytest.approx([1.0, 0.505, 0.01])


def test_amounts_are_of_the_parts_and_precision_follows_the_device():
    steps = ["6000", "3000", "20000"]
    assert [part.steps for part in budgets(steps, "auto", gpu=False)] == [6000, 3000, 20000]
    assert [part.seconds for part in budgets(["1min", "0.5min", "6min"], "auto", gpu=True)] == [60, 30, 360]
    assert sum(SHARES) == pytest.approx(1)
    assert [budgets(steps, "auto", gpu=gpu)[2].precision for gpu in (False, True)] == ["fp32", "bf16"]
    assert budgets(steps, "bf16", gpu=False)[2].memory_format == torch.channels_last


def test_a_decoder_that_is_trained_on_reads_the_same_latents(whole_base, few_scenes, tmp_path):
    before = make_autoencoder(WorkFolder(tmp_path, torch.device("cpu"), "few scenes"), few_scenes, BUDGET)
    z = encode_views(before, few_scenes.images[:2], torch.device("cpu"), iter)
    assert torch.equal(z, encode_views(whole_base[0], few_scenes.images[:2], torch.device("cpu"), iter))
    pairs = zip(before.decoder.parameters(), whole_base[0].decoder.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs)


def test_a_finished_training_gets_its_card(few_scenes, tmp_path, monkeypatch):
    """The last thing that hours of training do."""
    split = SimpleNamespace(test=replace(few_scenes, images=few_scenes.images.repeat(1, 1, 2, 2)))
    eurosat = SimpleNamespace(load=lambda paths, size: split, readable=("forest",))
    monkeypatch.setattr("ddbench.base_model.card.EUROSAT", eurosat)
    monkeypatch.setattr("ddbench.base_model.card.SAMPLES", 1)
    monkeypatch.setattr("ddbench.base_model.card.SAMPLING", card.SAMPLING | {"steps": 2})
    folder = shutil.copytree(FOLDER, tmp_path / "base")
    record = {"settings": {"amount": "7min", "batch": 3}, "seconds": 420.0, "device": "cpu (2 threads)"}
    write_card(folder, DataPaths(None, tmp_path), {"denoiser": record})
    text = (folder / "README.md").read_text()
    assert "denoiser: 7.0 minutes on cpu (2 threads); amount 7min, batch 3" in text
    assert "mean over 4 test images" in text


@pytest.mark.parametrize("amount", ["0", "-3", "2.5", "0min", "min", "3 minutes", "nan", "infmin"])
def test_amounts_that_are_none_are_refused(amount):
    with pytest.raises(BadParameter, match="as 9000"):
        Amount().convert(amount, None, None)


def test_training_images_travel_as_one_file(few_scenes, tmp_path, monkeypatch):
    split = SimpleNamespace(train=few_scenes)
    monkeypatch.setattr("ddbench.base_model.data.EUROSAT", SimpleNamespace(load=lambda paths, size: split))
    pack_images(DataPaths(None, tmp_path), tmp_path / "new" / "images.zip")
    images, labels = unpack_images(tmp_path / "new" / "images.zip")
    assert torch.equal(labels, few_scenes.labels)
    assert psnr(images, few_scenes.images) > 30


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


@pytest.mark.parametrize("method", [pytest.param(DPD, marks=pytest.mark.slow), Random, Herding])
def test_our_methods_keep_the_contract(method):
    broken = [f"{outcome.name}: {outcome.detail}" for outcome in check_method(method) if not outcome.ok]
    assert not broken


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(registry.names("methods")) - {"dpd", "random", "herding"}))
def test_every_other_method_keeps_the_contract(name):
    test_our_methods_keep_the_contract(load_method(name))
