"""Exported sets: as `datasets` reads them, with a card, and judged as the run was, to the last digit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from third_party import few, snapshot, write_images, write_method
from third_party import run_command as ddbench

from ddbench.api.distilled import read_pictures
from ddbench.datasets.info import DataPaths
from ddbench.datasets.lookup import find_dataset
from ddbench.errors import UserError
from ddbench.runner.dataset_card import CardContent, statistics, write_card
from ddbench.runner.external_folder import read_folder
from ddbench.runner.image_folder import named_by_number
from ddbench.store import distilled_set
from ddbench.store.distilled_set import Pictures
from ddbench.store.records import RunSpec
from ddbench.utils.files import read_json, write_json

SOFT = '''
import dataclasses

import torch
from pick import Pick


@dataclasses.dataclass(frozen=True)
class Soft(Pick):
    """Pick with soft labels."""

    name = "soft"

    def distill(self, train, ipc, ctx):
        hard = torch.nn.functional.one_hot(super().distill(train, ipc, ctx).labels, len(train.classes))
        return dataclasses.replace(super().distill(train, ipc, ctx), soft_labels=0.1 / len(train.classes) + 0.9 * hard)
'''


@pytest.fixture
def here(tmp_path, monkeypatch, no_settings):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    (tmp_path / "few.toml").write_text(few(5))
    write_method(tmp_path)
    (tmp_path / "soft.py").write_text(SOFT)
    return tmp_path


def run_once(here, classes, method="pick.py:Pick"):
    """Distil two images of each class, train a student; return the run's folder and its accuracy."""
    write_images(here / "images", dict.fromkeys(classes, 8))
    ddbench("run", "--method", method, "--dataset", "folder:images", "--ipc", 2, "--protocol", "few.toml")
    (result,) = here.glob("runs/*/*/*/*/results/*/*.json")
    return result.parents[2], read_json(result)


def load(folder, **how):
    """The set as `datasets` reads it: (class of each image, its pixels)."""
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(**how, cache_dir=str(folder / ".." / "cache"))
    assert list(loaded) == ["train"]
    label = loaded["train"].features["label"]
    names = [label.int2str(one["label"]) if hasattr(label, "int2str") else one["label"] for one in loaded["train"]]
    return names, np.stack([np.asarray(one["image"]) for one in loaded["train"]])


@pytest.mark.parametrize(
    ("method", "classes", "coded"),
    [
        ("pick.py:Pick", ["barn", "large pond", "\u6797\u5730", "\u043b\u0435\u0441"], False),
        ("soft.py:Soft", ["pond", "test", "barn: red*", "50%"], True),
    ],
)
def test_an_exported_set_is_judged_as_its_run(here, method, classes, coded):
    run, result = run_once(here, classes, method)
    before = snapshot(run)
    assert "1 accuracies" in ddbench("export", "images", run, "out/set").stdout
    assert snapshot(run) == before
    assert sorted(path.name for path in (here / "out").iterdir()) == ["set"]
    assert (here / "out/set/train/metadata.jsonl").exists() == coded

    done = ddbench("--runs", "again", "evaluate", "out/set", "--protocol", "few.toml")
    (again,) = here.glob("again/*/*/*/*/results/*/*.json")
    again = read_json(again)
    for name in ("overall", "average", "confusion", "per_class", "content", "kappa", "calibration"):
        assert again[name] == result[name], name
    assert "was distilled from" not in done.stderr

    pictures = distilled_set.read(run / "distilled")
    names = [pictures.classes[label] for label in pictures.labels]
    for how in ({"path": "imagefolder", "data_dir": "out/set"}, {"path": "out/set"}):
        loaded, images = load(here / "out/set", **how)
        order = sorted(range(len(names)), key=lambda i: (loaded.index(names[i]), i))
        assert loaded == [names[i] for i in order]
        np.testing.assert_array_equal(images, pictures.images[order])
    assert read_pictures(here / "out/set")[1].content() == pictures.content()


def test_the_card_says_what_a_user_needs(here):
    run, result = run_once(here, ["barn", "pond"])
    ddbench("export", "images", run, "set")
    text = (here / "set/README.md").read_text(encoding="utf-8")
    yaml = pytest.importorskip("yaml")
    _, head, body = text.split("---\n", 2)
    head = yaml.safe_load(head)
    assert head["license"] == "unknown"
    assert head["configs"] == [{"config_name": "default", "data_files": [{"split": "train", "path": "train/**"}]}]
    assert head["pretty_name"] == "folder:images, 2 images per class by pick"
    spec = read_json(run / "spec.json")
    for part in (
        f"| split | {spec['split']}; fingerprint {spec['fingerprint']} |",
        "| method | pick, version 1 |",
        "shift=0",
        f"| content (SHA-256) | {result['content']} |",
        "| 1 | pond | train/pond | 2 |",
        f"| {result['protocol']}@1 | convnet | scratch | 0 | {100 * result['overall']:.2f} |",
        "ddbench evaluate set --dataset folder:images --size 8 --student convnet",
        "licence of the source, folder:images: unknown",
    ):
        assert part in body, part


def test_the_card_of_a_registered_dataset_has_its_licence_and_values(tmp_path):
    pictures = Pictures(np.zeros((2, 8, 8, 3), np.uint8), np.array([0, 1]), ("b", "a"))
    spec = RunSpec("herding", 1, None, {}, "scenes", "some rule", "0" * 64, 8, 1, 0)
    content = CardContent("set", spec, pictures, ("train/b", "train/a"), ())
    write_card(tmp_path / "card.md", content, DataPaths(None, tmp_path))
    text = (tmp_path / "card.md").read_text(encoding="utf-8")
    for part in (
        "license: apache-2.0",
        "licence of the source, scenes: Apache-2.0",
        "No student was trained on this set yet.",
        "quick@1, convnet: subtract the mean (0.5, 0.5, 0.5), divide by the deviation (0.25, 0.25, 0.25)",
        "`imagefolder` numbers the classes in the order of their names, which is another one.",
        "- method: Welling",
    ):
        assert part in text, part


def test_the_card_has_the_statistics_of_the_training_images(here):
    write_images(here / "images", {"barn": 10, "pond": 10})
    paths = DataPaths(None, here / "shared")
    source = find_dataset("folder:images")
    spec = RunSpec("random", 1, None, {}, "folder:images", "", source.describe(paths).fingerprint, 8, 1, 0)
    train = source.load(paths, 8).train.images.double() / 255
    text = statistics("data", spec, source, paths)
    for value in train.mean((0, 2, 3)).tolist():
        assert f"{value:.6g}" in text
    assert "not at hand" in statistics("data", replace(spec, fingerprint="0" * 64), source, paths)


def test_what_is_no_run_or_exists_is_refused(here):
    run, _ = run_once(here, ["barn", "pond"])
    ddbench("export", "images", run, "set")
    before = snapshot(here)
    for words, message in (
        ((run, "set"), "set exists already and is not overwritten"),
        ((run, run / "set"), "is in the folder of a run"),
        (("images", "other"), "images is not a run: name a folder with a spec.json"),
        ((run / "distilled", "other"), "is not a run"),
        ((run, "images", "other"), f"2 runs, of which one can be exported: {run}, images"),
    ):
        assert message in ddbench("export", "images", *words, status=2).stderr
    assert "names no dataset: add --dataset" in ddbench("evaluate", "images", status=2).stderr
    pixels = np.asarray(Image.open(run / "distilled/barn/000.png")) + np.uint8(1)
    assert snapshot(here) == before
    Image.fromarray(pixels).save(run / "distilled/barn/000.png")
    assert "was changed" in ddbench("export", "images", run, "other", status=2).stderr
    assert not (here / "other").exists()


def test_another_split_is_warned_of(here):
    run, _ = run_once(here, ["barn", "pond"])
    ddbench("export", "images", run, "set")
    words = ("evaluate", "set", "--dataset", "folder:images@50", "--protocol", "few.toml", "--dry-run")
    assert "was distilled from the split" in ddbench(*words).stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"folders": ["train/barn"]}, "its folders are not one for each class"),
        ({"folders": ["train/barn", 3]}, "its folders are not one for each class"),
        ({"folders": "train"}, "its folders are not one for each class"),
        ({"folders": ["train/barn", "../pond"]}, "../pond is not below this folder"),
        ({"folders": ["train/barn", "/pond"]}, "/pond is not below this folder"),
        ({"folders": ["train/barn", "train/lake"]}, "without an image: pond"),
        ({"classes": ["barn", "lake"]}, "missing: pond; not a class of the dataset: lake"),
    ],
)
def test_a_damaged_list_of_folders_is_refused(tmp_path, change, message):
    for name in ("barn", "pond"):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "train" / name / "000.png")
    write_json(
        tmp_path / "manifest.json", {"classes": ["barn", "pond"], "folders": ["train/barn", "train/pond"]} | change
    )
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        read_folder(tmp_path, ("barn", "pond"), 8)


@pytest.mark.parametrize(
    ("classes", "coded"),
    [
        (["a", "b"], False),
        (["sea/lake", "a"], True),
        (["only"], True),
        (["a", "A"], True),
        (["train_station", "a"], True),
        (["trainstation", "a"], False),
        (["dense residential", "a"], False),
        (["con", "a"], True),
        (["a.", "b"], True),
        (["__a", "b"], True),
        (["what?", "b"], True),
        (["\u6e2f", "\u00e9t\u00e9"], False),
    ],
)
def test_names_that_cannot_be_folders_everywhere(classes, coded):
    assert named_by_number(classes) == coded
