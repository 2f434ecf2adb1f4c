"""`ddbench quality`: measured against the functions themselves on the files on disk; kept; refused."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from sklearn.decomposition import PCA
from small_clip import write_clip
from third_party import write_anew, write_images, write_method

from ddbench.api.audits import audit
from ddbench.cli.main import cli
from ddbench.datasets.info import DataPaths
from ddbench.datasets.lookup import find_dataset
from ddbench.report.page import page
from ddbench.runner import quality as quality_module
from ddbench.runner.quality import feature_metrics
from ddbench.store import distilled_set, records
from ddbench.store.reader import read_runs
from evaluators import clip, fidelity
from evaluators.students import build, features
from evaluators.train import DivergedError

FEATURES = "convnet/quick@1"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A dataset of two classes and the run of a method that picks four real images of each."""
    home = tmp_path_factory.mktemp("home")
    write_images(home / "images", {"barn": 24, "pond": 20})
    write_method(home)
    done = ddbench(home, "run", "--method", f"{home}/pick.py:Pick", "--ipc", "4", "--protocol", f"{home}/few.toml")
    assert done.exit_code == 0, done.output
    return home


def ddbench(home, command, *words):
    (home / "few.toml").write_text('like = "quick@1"\n[recipes.convnet]\nmin_steps = 2\nmax_steps = 2\n')
    places = ["--runs", str(home / "runs"), "--shared", str(home / "shared"), "--device", "cpu", "-q"]
    return CliRunner().invoke(cli, [*places, command, *map(str, words), "--dataset", f"folder:{home}/images"])


def quality(home, folder, *words):
    done = ddbench(home, "quality", folder, "--format", "json", *words)
    assert done.exit_code == 0, done.output
    return {one["metric"]: one for one in json.loads(done.stdout)}


def run_of(home):
    (spec,) = (home / "runs").glob("folder-images8/pick/*/*/spec.json")
    return spec.parent


def test_of_many_real_images_a_part_is_paired(monkeypatch):
    real, fake = torch.randn(90, 5), torch.randn(20, 5)
    whole = feature_metrics(real, fake)
    assert whole["fid"] == fidelity.fid(real, fake)
    assert "paired_images" not in whole
    monkeypatch.setattr(quality_module, "MOST_PAIRED", 40)
    values = feature_metrics(real, fake)
    assert values["paired_images"] == 30
    assert values["fid"] == whole["fid"]
    assert values["kid"] == fidelity.kid(real[::3], fake)
    assert values["density"] == fidelity.neighbourhoods(real[::3], fake).density


@pytest.fixture(scope="module")
def measured(home):
    return quality(home, run_of(home), "--features", FEATURES)


@pytest.fixture(scope="module")
def sets(home):
    """Real training images and distilled ones, with labels."""
    train = find_dataset(f"folder:{home}/images").load(DataPaths(None, home / "shared", True), 8).train
    pictures = distilled_set.read(run_of(home) / "distilled")
    fake = torch.from_numpy(pictures.images).permute(0, 3, 1, 2).contiguous()
    return train.images, train.labels, fake, torch.from_numpy(pictures.labels)


@pytest.fixture(scope="module")
def embedded(home, measured, sets):
    """Features by the network that the stage trained, loaded by hand."""
    (stage,) = (home / "shared").glob("teacher-*")
    network = build("convnet", 8, 2, 0)
    network.load_state_dict(load_file(stage / "model.safetensors"))
    assert measured["fid"]["weights"].startswith(f"{stage.name}-")
    return features(network, sets[0]), features(network, sets[2])


def test_distances_are_those_of_the_features(measured, embedded):
    values = measured["fid"]["values"]
    assert values["fid"] == pytest.approx(fidelity.fid(*embedded), rel=1e-4)
    assert values["kid"] == pytest.approx(fidelity.kid(*embedded), rel=1e-4)
    near = fidelity.neighbourhoods(*embedded)
    assert (values["precision"], values["coverage"], values["nearest"]) == (near.precision, near.coverage, 5)


def test_coverage_is_that_of_the_features(measured, embedded, sets):
    values = measured["coverage"]["values"]
    expected = fidelity.intra_class_coverage(embedded[0], sets[1], embedded[1], sets[3])
    assert list(values["per_class"].values()) == pytest.approx(expected, abs=1e-5)
    assert list(values["per_class"]) == ["barn", "pond"]
    assert values["coverage"] == pytest.approx(np.mean(expected), abs=1e-5)


def test_copies_are_found(measured, sets):
    values = measured["ssim"]["values"]
    every = fidelity.nn_ssim(*sets).double()
    assert values["nn_ssim"] == pytest.approx(float(every.mean()), abs=1e-5)
    assert values["std"] == pytest.approx(float(every.std(correction=0)), abs=1e-5)
    assert measured["ssim"]["by"] == "256"


@pytest.mark.slow
def test_a_map_is_the_plane_in_which_real_features_vary_most(home, measured, sets, tmp_path):
    home = shutil.copytree(home, tmp_path / "home", ignore=shutil.ignore_patterns("images"))
    (home / "images").symlink_to(next(iter(measured.values()))["path"].partition("/runs/")[0] + "/images")
    found = quality(home, run_of(home), "--metric", "map", "--features", FEATURES)["map"]["values"]
    network = build("convnet", 8, 2, 0)
    (stage,) = (home / "shared").glob("teacher-*")
    network.load_state_dict(load_file(stage / "model.safetensors"))
    real, fake = features(network, sets[0]).double(), features(network, sets[2]).double()
    own = PCA(2).fit(real.numpy())
    assert found["explained"] == pytest.approx(own.explained_variance_ratio_.sum(), abs=1e-5)
    distilled_points = np.concatenate([found["distilled"][name] for name in ("barn", "pond")])
    assert np.abs(distilled_points) == pytest.approx(np.abs(own.transform(fake.numpy())), abs=5e-2)
    assert [len(found["real"][name]) for name in ("barn", "pond")] == [int((sets[1] == i).sum()) for i in (0, 1)]
    text = page(read_runs(home / "runs", costs=True))
    assert "its images (black edges) among real ones" in text


def test_what_was_measured_is_recorded(measured, home, sets):
    one = measured["fid"]
    assert one["by"] == FEATURES
    assert (one["distilled_images"], one["real_images"]) == (8, len(sets[1]))
    assert one["content"] == distilled_set.read(run_of(home) / "distilled").content()
    assert re.fullmatch(r"fid-convnet-quick-1-[0-9a-f]{6}\.json", Path(one["path"]).name)
    assert Path(one["path"]).parent == run_of(home) / "quality"


def test_what_is_measured_is_kept_and_the_real_features_are_shared(home, measured, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in run_of(home).glob("quality/*")}
    assert len(before) == 3
    assert quality(home, run_of(home), "--features", FEATURES) == measured
    assert {path: path.stat().st_mtime_ns for path in run_of(home).glob("quality/*")} == before
    assert len(list((home / "shared").glob("features-*"))) == 1


def test_a_folder_of_images_becomes_a_run(home, measured):
    """The same images from a folder have the same numbers."""
    found = quality(home, run_of(home) / "distilled", "--features", FEATURES, "--metric", "fid", "--size", "8")
    assert list(found) == ["fid"]
    assert found["fid"]["values"] == measured["fid"]["values"]
    assert "folder-distilled" in found["fid"]["path"]


def test_the_table_has_a_line_for_each_number(home, measured):
    shown = ddbench(home, "quality", run_of(home), "--features", FEATURES).stdout
    for name in ("fid", "kid", "precision", "coverage", "nn_ssim"):
        assert f" {name} " in shown
    assert f"{measured['fid']['values']['fid']:.4f}" in shown


def test_clip_is_asked_with_the_releases_prompt(home, sets, tmp_path):
    model = write_clip(tmp_path / "clip")
    found = quality(home, run_of(home), "--metric", "clip", "--clip", model)["clip"]["values"]
    loaded = clip.load(str(model))
    texts = clip.embed_texts(loaded, ["a remote sensing image of barn", "a remote sensing image of pond"])
    score, accuracy = fidelity.agreement(clip.embed_images(loaded, sets[2]), texts, sets[3])
    assert found == {"clip_score": pytest.approx(score), "zero_shot_accuracy": accuracy}


def test_a_clip_model_kept_in_half_precision_is_asked_in_full(tmp_path, sets):
    from transformers import CLIPModel

    model = write_clip(tmp_path / "clip")
    CLIPModel.from_pretrained(model).to(torch.bfloat16).save_pretrained(model)
    loaded = clip.load(str(model))
    assert {part.dtype for part in loaded.model.parameters()} == {torch.float32}
    assert clip.embed_images(loaded, sets[2]).dtype == torch.float32
    assert len(clip.digest(loaded)) == 64


def no_network(url, *_, **__):
    raise OSError("no route to host")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--features", "convnet"], "neither STUDENT/PROTOCOL nor STUDENT/imagenet"),
        (["--features", "convnet/quikc"], "did you mean 'quick@1'"),
        (["--features", "convnext/quick"], "neither STUDENT/PROTOCOL nor STUDENT/imagenet; convnet"),
        (["--metric", "fid", "--features", "convnet/imagenet"], "no ImageNet weights for convnet"),
        (["--metric", "coverage"], r"put it at .*resnet18-f37072fd.pth; choose other --features"),
        (["--metric", "clip", "--clip", "nobody/nothing"], "the CLIP model nobody/nothing cannot be used"),
    ],
)
def test_what_cannot_be_had_is_said(home, tmp_path, monkeypatch, words, said):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    done = ddbench(home, "quality", run_of(home), *words)
    assert done.exit_code == 2
    assert re.search(said, done.output)


def test_a_metric_without_its_weights_does_not_stop_the_others(home, measured, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    done = ddbench(home, "quality", run_of(home), "--format", "json")
    assert done.exit_code == 1
    assert json.loads(done.stdout) == [measured["ssim"]]
    assert re.search(r"metric fid not computed: .*put it at .*inception_v3", done.stderr)
    assert re.search(r"metric coverage not computed: .*put it at .*resnet18", done.stderr)


def test_a_name_without_its_version_is_the_same_measurement(home, measured):
    assert quality(home, run_of(home), "--features", "convnet/quick", "--metric", "fid")["fid"] == measured["fid"]


def test_models_of_one_name_in_two_folders_are_two_measurements(home, tmp_path):
    write_clip(tmp_path / "a" / "clip")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    paths = {
        quality(home, run_of(home), "--metric", "clip", "--clip", tmp_path / ab / "clip")["clip"]["path"] for ab in "ab"
    }
    assert len(paths) == 2


def test_a_set_that_was_changed_does_not_stop_the_others(home, measured, tmp_path):
    changed = tmp_path / "runs" / run_of(home).name
    shutil.copytree(run_of(home), changed)
    shutil.rmtree(changed / "quality")
    next((changed / "distilled").glob("*/*.png")).unlink()
    done = ddbench(home, "quality", changed, run_of(home), "--features", FEATURES, "--format", "json")
    assert done.exit_code == 1
    assert f"skipped {changed}: " in done.stderr
    assert "was changed: its images differ from its manifest.json" in done.stderr
    assert len(json.loads(done.stdout)) == 3


def test_a_set_made_anew_is_measured_anew(home, measured, tmp_path):
    anew = tmp_path / run_of(home).name
    shutil.copytree(run_of(home), anew)
    write_anew(anew, lambda images: 255 - images)
    found = quality(home, anew, "--metric", "ssim")["ssim"]
    assert found["content"] == records.distilled_digest(anew) != measured["ssim"]["content"]
    assert found["values"] != measured["ssim"]["values"]
    assert quality(home, anew, "--metric", "ssim")["ssim"] == found


def test_a_run_without_its_manifest_does_not_stop_the_others(home, measured, tmp_path):
    lacking = tmp_path / run_of(home).name
    shutil.copytree(run_of(home), lacking)
    (lacking / "distilled" / "manifest.json").unlink()
    done = ddbench(home, "quality", lacking, run_of(home), "--metric", "ssim", "--format", "json")
    assert done.exit_code == 1
    assert "manifest.json does not identify the distilled set" in done.stderr
    assert len(json.loads(done.stdout)) == 1


def test_a_teacher_that_diverges_is_said(home, monkeypatch):
    def diverging(*_, **__):
        raise DivergedError(3)

    monkeypatch.setattr("ddbench.runner.teacher.train_student", diverging)
    done = ddbench(home, "quality", run_of(home), "--metric", "fid", "--features", "convnet/quick-plain@1")
    assert done.exit_code == 1
    assert "the teacher (convnet by quick-plain@1) cannot be trained: training diverged" in done.stderr


def test_a_run_of_another_dataset_is_refused(home, tmp_path):
    write_images(tmp_path / "images", {"barn": 5, "pond": 6})
    write_method(tmp_path)
    done = ddbench(tmp_path, "quality", run_of(home), "--features", FEATURES)
    assert done.exit_code == 1
    assert "--dataset is folder:images, split" in done.stderr


def test_a_size_is_for_folders_of_images(home):
    done = ddbench(home, "quality", run_of(home), "--features", FEATURES, "--size", "16")
    assert "its images have 8 px; --size 16 is for a folder of images: leave it out" in done.stderr
    assert done.exit_code == 1


def test_a_clip_model_that_is_not_whole_is_refused_before_anything_is_stored(tmp_path):
    write_images(tmp_path / "images", {"barn": 4, "pond": 4})
    write_images(tmp_path / "set", {"barn": 1, "pond": 1})
    model = write_clip(tmp_path / "clip")
    (model / "tokenizer.json").unlink()
    words = ["quality", str(tmp_path / "set"), "--dataset", f"folder:{tmp_path}/images", "--metric", "clip"]
    places = ["--runs", str(tmp_path / "runs"), "--shared", str(tmp_path / "shared")]
    done = CliRunner().invoke(cli, [*places, *words, "--clip", str(model)])
    assert done.exit_code == 2, done.output
    assert "tokenizer" in done.output
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "shared").exists()


def test_an_audit_takes_the_same_network(home, measured, tmp_path):
    """And says that it knows the training images; the method names no image that it used."""
    home = shutil.copytree(home, tmp_path / "home")
    places = {"runs": home / "runs", "shared": home / "shared", "device": "cpu", "quiet": True}
    before = {path.name for path in (home / "shared").glob("teacher-*")}
    (result,) = audit(run_of(home), dataset=f"folder:{home}/images", features=FEATURES, **places)
    assert {path.name for path in (home / "shared").glob("teacher-*")} == before
    assert (result.trained, result.weights, result.use) == (True, measured["fid"]["weights"], None)
    assert result.distances.similarity == pytest.approx(1, abs=1e-5)
