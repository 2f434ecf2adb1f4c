"""`import ddbench`: the same files as the command line, torch datasets as datasets, clear errors, examples that run."""

from __future__ import annotations

import doctest
import inspect
import json
import logging
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from third_party import few, snapshot, write_images, write_method
from torch.utils.data import DataLoader, Subset, TensorDataset

import ddbench
from ddbench.cli.main import cli
from ddbench.store import distilled_set
from ddbench.types import DistilledSet

TIMES = {"seconds", "memory_bytes", "memory"}  # what differs between two runs of the same work


@pytest.fixture
def here(tmp_path, monkeypatch, no_settings):
    """A folder to stand in, with images of two classes, a method and a protocol of a few steps."""
    write_images(tmp_path / "images", {"barn": 10, "pond": 12})
    write_method(tmp_path)
    (tmp_path / "few.toml").write_text(few(3))
    (tmp_path / "presets" / "pick").mkdir(parents=True)
    (tmp_path / "presets" / "pick" / "bright.toml").write_text("shift = 9\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def few_steps(**words):
    """Arguments of a call on the images."""
    return {"dataset": "folder:images", "protocol": "few.toml", "device": "cpu", "quiet": True} | words


def timeless(files):
    """The files, JSON without times and memory."""

    def drop(value):
        if isinstance(value, dict):
            return {key: drop(inner) for key, inner in value.items() if key not in TIMES}
        return [drop(inner) for inner in value] if isinstance(value, list) else value

    return {name: drop(json.loads(data)) if name.endswith(".json") else data for name, data in files.items()}


def command(*words):
    result = CliRunner().invoke(cli, ["--device", "cpu", "--runs", "by_command", *map(str, words)])
    assert result.exit_code == 0, (result.output, result.exception)


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        (["random", "--ipc", 2], {"method": "random", "ipc": 2}),
        (["full"], {"method": "full"}),
        (
            ["pick.py:Pick", "--ipc", 1, "--set", "shift=2", "--seed", 3, "--student-seeds", 2, "--size", 16],
            {"method": "pick.py:Pick", "ipc": 1, "settings": {"shift": 2}, "seed": 3, "student_seeds": 2, "size": 16},
        ),
        (
            ["pick.py:Pick", "--preset", "bright", "--set", "batch=3", "--ipc", 2],
            {"method": "pick.py:Pick", "preset": "bright", "settings": {"batch": 3}, "ipc": 2},
        ),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value[0],
)
def test_a_call_writes_the_files_of_the_command(here, words, arguments):
    run = ddbench.run(arguments.pop("method"), runs="by_call", **few_steps(**arguments))
    command("run", "--dataset", "folder:images", "--protocol", "few.toml", "--method", *words)
    called, commanded = timeless(snapshot(here / "by_call")), timeless(snapshot(here / "by_command"))
    assert called == commanded
    assert any(name.endswith("000.png") for name in called)
    assert run.folder.is_dir()
    assert len(run.results) == arguments.get("student_seeds", 1)
    before = snapshot(here)
    again = ddbench.run(words[0], runs="by_call", **few_steps(**arguments))
    assert torch.equal(again.images, run.images)
    assert snapshot(here) == before


def test_the_defaults_are_those_of_the_command(here):
    """Down to the digest and the protocol; the environment counts as it does there."""
    arguments = inspect.signature(ddbench.run).parameters
    options = {option.name: option.default for option in cli.commands["run"].params}
    assert [*arguments["students"].default] == [*options["students"]]
    assert arguments["student_seeds"].default == options["student_seeds"]
    assert arguments["protocol"].default == options["protocol"]
    assert arguments["resize"].default == next(o.default for o in cli.params if o.name == "resize")


def test_the_environment_names_the_folders(here, monkeypatch):
    monkeypatch.setenv("DDBENCH_RUNS", "elsewhere")
    monkeypatch.setenv("DDBENCH_SHARED", str(here / "packs"))
    run = ddbench.run("random", ipc=1, **few_steps())
    assert run.folder.parts[0] == "elsewhere"
    assert len(list((here / "packs").glob("packed-*"))) == 1


def test_progress_is_lines_where_there_is_no_terminal(here, monkeypatch, capsys):
    monkeypatch.setattr("ddbench.utils.progress.SECONDS_BETWEEN_LINES", 0)
    ddbench.run("random", ipc=1, **few_steps(quiet=False))
    assert re.search(r"^packing: \d+ of 22", capsys.readouterr().err, re.MULTILINE)
    ddbench.run("random", ipc=1, runs="again", shared="anew", **few_steps())
    assert "packing: " not in capsys.readouterr().err


def test_the_record_is_what_is_on_disk(here):
    run = ddbench.run("random", ipc=2, **few_steps())
    on_disk = distilled_set.read(run.folder / "distilled")
    assert torch.equal(run.images, on_disk.to_tensor())
    assert run.labels.tolist() == [0, 0, 1, 1]
    assert run.classes == ("barn", "pond")
    (stored,) = run.results
    assert json.loads(stored.path.read_text())["overall"] == stored.result.overall
    assert re.search(r"^random +\d", str(run.results), re.MULTILINE)
    assert "tensor" not in repr(run)


def test_evaluating_writes_the_files_of_the_command(here):
    run = ddbench.run("random", ipc=2, **few_steps())
    evaluated = ddbench.evaluate(run, runs="by_call", **few_steps())
    smaller = ddbench.run("random", ipc=1, **few_steps(size=16))
    assert ddbench.evaluate(smaller, **few_steps()).images.shape[-1] == 16
    command("evaluate", run.folder / "distilled", "--dataset", "folder:images", "--protocol", "few.toml")
    assert timeless(snapshot(here / "by_call")) == timeless(snapshot(here / "by_command"))
    assert evaluated.results[0].result.overall == run.results[0].result.overall


def test_images_in_memory_are_judged_as_a_folder_of_them(here):
    images = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    soft = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]])
    given = DistilledSet(images, torch.tensor([0, 1, 1]), ("barn", "pond"), ("barn", "pond"), soft_labels=soft)
    in_memory = ddbench.evaluate(given, name="mine", **few_steps())
    folder = ddbench.evaluate(in_memory.folder / "distilled", **few_steps())
    (one,), (other,) = in_memory.results, folder.results
    assert one.spec.method == "memory:mine"
    assert one.spec.params == other.spec.params
    assert one.result.overall == other.result.overall
    pair = ddbench.evaluate((images, [0, 1, 1]), **few_steps())
    assert torch.equal(pair.images, images)
    assert pair.results[0].spec.params != one.spec.params  # soft labels count


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ((torch.zeros(2, 3, 8, 8), torch.arange(2)), "images must be uint8"),
        ((torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 2])), r"labels must be int64 in 0\.\.1"),
        ((torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 0])), "every class needs an image, but: pond 0"),
        ((torch.zeros(2, 3, 8, 9, dtype=torch.uint8), torch.arange(2)), "9x8 px, not 9x9: resize them yourself"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), r"images are a folder, a run, a DistilledSet .*not a Tensor"),
        ("nowhere", "nowhere is not a folder"),
    ],
)
def test_images_that_cannot_be_judged_are_refused(here, images, said):
    with pytest.raises(ddbench.UserError, match=said):
        ddbench.evaluate(images, **few_steps())
    assert not (here / "runs").exists()


def tensors(seed=0, count=8, size=8):
    """Images of two classes and their labels."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(2).repeat(count // 2)
    return torch.randint(0, 120, (count, 3, size, size), generator=draw, dtype=torch.uint8) + 120 * labels.view(
        -1, 1, 1, 1
    ).byte(), labels


class Dicts:
    """A dataset as torchgeo has them: dicts, floats 0 to 255."""

    classes = ("barn", "pond")

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"image": self.images[index].float(), "label": self.labels[index]}


class Changed(Dicts):
    """The same items in another form."""

    def __init__(self, images, labels, form):
        super().__init__(images, labels)
        self.form = form

    def __getitem__(self, index):
        return self.form(self.images[index]), int(self.labels[index])


FORMS = {
    "pillow": lambda image: Image.fromarray(image.permute(1, 2, 0).numpy()),
    "array": lambda image: image.permute(1, 2, 0).numpy(),
    "to_tensor": lambda image: image.float() / 255,
    "double": lambda image: image.double() / 255,
    "int64": lambda image: image.long(),
    "fractions": lambda image: image.float() + 0.25,  # as torchgeo's UCMerced resizes
}


def pair(kind=Dicts, *rest):
    return kind(*tensors(), *rest), kind(*tensors(1), *rest)


@pytest.mark.parametrize("form", FORMS)
def test_a_pair_of_datasets_is_the_same_in_every_form(here, form):
    names = {"dataset_name": "two", "quiet": True}
    expected = ddbench.load_dataset(pair(), **names)
    data = ddbench.load_dataset(pair(Changed, FORMS[form]), **names)
    assert (data.fingerprint, data.content, data.name) == (expected.fingerprint, expected.content, "memory:two")
    images, labels = tensors()
    order = labels.argsort(stable=True)
    assert torch.equal(data.train.images, images[order])
    assert torch.equal(data.test.images, tensors(1)[0][order])
    assert data.train.labels.tolist() == sorted(labels.tolist())
    assert len(list((here / "shared").glob("packed-memory-two8-*"))) == 1


def test_the_identity_of_a_pair_is_its_pixels_and_labels(here):
    """The same images as a folder split alike give the same pixels; one pixel, label or name more is another set."""

    def loaded(train, test, **words):
        return ddbench.load_dataset((train, test), dataset_name="two", quiet=True, **words)

    (images, labels), test = tensors(), Dicts(*tensors(1))
    first = loaded(Dicts(images, labels), test)
    touched, turned = images.clone(), labels.clone()
    touched[0, 0, 0, 0] ^= 1
    turned[:2] = turned[:2].flip(0)
    others = [
        loaded(Dicts(touched, labels), test),
        loaded(Dicts(images, turned), test),
        loaded(Dicts(images, labels), test, classes=["barn", "lake"]),
        loaded(test, Dicts(images, labels)),
        loaded(Dicts(images, labels), test, resize="bilinear"),
    ]
    prints = {data.fingerprint for data in (first, *others)}
    assert len(prints) == 6
    across = torch.tensor([1, 0, 3, 2, 5, 4, 7, 6])  # each class keeps its order
    assert loaded(Dicts(images[across], labels[across]), test).fingerprint == first.fingerprint

    for side, (pixels, numbers) in (("train", tensors()), ("test", tensors(1))):
        for index, (image, label) in enumerate(zip(pixels, numbers, strict=True)):
            path = here / "tree" / side / Dicts.classes[label] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    assert ddbench.load_dataset("folder:tree", quiet=True).content == first.content


def test_a_run_on_a_pair_of_datasets(here):
    run = ddbench.run("random", ipc=1, **few_steps(dataset=pair(), dataset_name="two fields"))
    assert run.folder.parts[:2] == ("runs", "memory-two-fields8")
    assert run.results[0].spec.dataset == "memory:two fields"
    assert run.results[0].spec.split == "train/test pair of torch datasets"
    again = ddbench.run("random", ipc=1, **few_steps(dataset=pair(Changed, FORMS["pillow"]), dataset_name="two fields"))
    assert again.folder == run.folder
    assert ddbench.load_results("runs")[0].spec == run.results[0].spec


def test_parts_of_datasets_and_larger_images(here):
    whole = Dicts(*tensors(count=12, size=20))
    train, test = Subset(Subset(whole, range(10)), range(8)), Subset(whole, range(8, 12))
    data = ddbench.load_dataset((train, test), size=10, quiet=True)
    assert (data.name, data.train.images.shape, len(data.test.labels)) == ("memory:Dicts", (8, 3, 10, 10), 4)
    assert ddbench.load_dataset((train, test), quiet=True).train.images.shape[-1] == 20


def test_grey_images_are_repeated(here):
    data = ddbench.load_dataset(pair(Changed, lambda image: image[:1].float() / 255), quiet=True)
    assert torch.equal(data.train.images[:, 0], data.train.images[:, 2])


def test_black_images_tell_no_range(here):
    images, labels = tensors()
    images[0] = 0
    data = ddbench.load_dataset([Changed(images, labels, FORMS["to_tensor"])] * 2, quiet=True)
    assert torch.equal(data.train.images[0], torch.zeros(3, 8, 8, dtype=torch.uint8))
    assert data.train.images.max() > 200


def test_test_images_that_were_trained_on_are_said(here, caplog):
    ddbench.load_dataset((Dicts(*tensors()), Dicts(*tensors())), quiet=True)
    assert "8 training images are test images too" in caplog.text


class Shaky(Dicts):
    """A dataset with a random transform."""

    def __getitem__(self, index):
        return (self.images[index] + torch.randint(0, 9, (3, 8, 8)).byte()), int(self.labels[index])


class Endless:
    """A dataset without a length."""

    classes = ("barn", "pond")

    def __iter__(self):
        return iter(())


def lone(images=None, labels=None, form=None):
    """A pair whose training side is special."""
    own, numbers = tensors()
    images, labels = own if images is None else images, numbers if labels is None else labels
    train = Changed(images, labels, form) if form else Dicts(images, labels)
    return train, Dicts(*tensors(1))


BAD_PAIRS = {
    "two ranges": (
        (Dicts(*tensors()), Changed(*tensors(1), FORMS["to_tensor"])),
        r"item 0 to test on: its floats are in 0\.\.1, those of an image before it in 0\.\.255",
    ),
    "normalised": (lone(form=lambda image: image.float() / 128 - 1), r"item 0 to train on: its floats are from -"),
    "overshoot": (lone(form=lambda image: image.float() / 200), r"floats are from 0.* to 1\.\d+; expected 0 to 1"),
    "not finite": (lone(form=lambda image: image.float() * torch.nan), "its floats are from nan"),
    "bands": (lone(form=lambda image: image.repeat(4, 1, 1)[:13]), r"shape \(12, 8, 8\), not \(3, h, w\).*three bands"),
    "layout": (lone(form=lambda image: image.numpy()), r"shape \(3, 8, 8\), not \(h, w, 3\)"),
    "sixteen bits": (lone(form=lambda image: image.int() * 256), "its image is int32 from .* not grey values"),
    "mode": (lone(form=lambda image: Image.fromarray(image[0].float().numpy())), "has the mode F, not 8 bits"),
    "label": (lone(labels=torch.tensor([0, 1, 2, 1] * 2)), "item 2 to train on: its label is 2; the labels of 2"),
    "one-hot": (lone(labels=torch.eye(2).repeat(4, 1)), "item 0 to train on: .*integer"),
    "class": (lone(labels=torch.zeros(8, dtype=torch.int64)), "no image to train on in pond"),
    "shaky": ((Shaky(*tensors()), Dicts(*tensors(1))), "item 0 to train on is another one .*random transforms"),
    "endless": ((Endless(), Dicts(*tensors(1))), "Endless, to train on, has no length"),
    "nameless": ((TensorDataset(*tensors()), TensorDataset(*tensors(1))), "TensorDataset has no attribute classes"),
    "one": ((Dicts(*tensors()),), r"dataset is a name or \(train, test\)"),
    "image alone": (([tensors()[0][0]] * 2, Dicts(*tensors(1))), "list has no attribute classes"),
}


@pytest.mark.parametrize("name", BAD_PAIRS)
def test_a_pair_that_is_none_is_refused(here, name):
    datasets, said = BAD_PAIRS[name]
    with pytest.raises(ddbench.UserError, match=said):
        ddbench.load_dataset(datasets, quiet=True)
    assert not list((here / "shared").glob("packed-*"))


@pytest.mark.parametrize("classes", [["a"], ["a", "a"], ["a", "b/c"], ["a", ".."], ["a", ""], [1, 2]])
def test_classes_that_cannot_be_folders_are_refused(here, classes):
    with pytest.raises(ddbench.UserError, match="name the classes"):
        ddbench.load_dataset(pair(), classes=classes)


def test_two_sides_with_other_classes_are_refused(here):
    train, test = pair()
    test.classes = ("barn", "lake")
    with pytest.raises(ddbench.UserError, match=r"are \['barn', 'pond'\] to train on, \['barn', 'lake'\] to test"):
        ddbench.load_dataset((train, test))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"method": "randm"}, "unknown method 'randm'; did you mean random"),
        ({"dataset": "ucn"}, "unknown dataset 'ucn'; did you mean ucm"),
        ({"dataset": "ucm"}, "needs a data root"),
        ({"dataset": "memory:two"}, "was given in memory"),
        ({"students": ["convnt"]}, "unknown student 'convnt'"),
        ({"students": "resnt18"}, "unknown student 'resnt18'"),
        ({"protocol": "quik"}, "unknown protocol 'quik'"),
        ({"preset": "small"}, "unknown preset of random"),
        ({"settings": {"steps": 3}}, r"unknown key of random \(settings\) 'steps'"),
        ({"ipc": None}, "random needs a number of images per class"),
        ({"ipc": 101}, "needs 101 training images of every class, and barn of folder:images has 8: ask for 8"),
        ({"ipc": 0}, "ipc = 0 is invalid; expected an integer, 1 or more"),
        ({"ipc": 1.5}, r"ipc = 1\.5 is invalid"),
        ({"ipc": True}, "ipc = True is invalid"),
        ({"size": 4}, "size = 4 is invalid; expected an integer, 8 or more"),
        ({"seed": -1}, "seed = -1 is invalid"),
        ({"student_seeds": 0}, "student_seeds = 0 is invalid"),
        ({"device": "gpu"}, "'gpu' is not one of auto, cpu, cuda"),
        ({"resize": "nearest"}, "resize = 'nearest' is not one of lanczos, bilinear"),
        ({"runs": "few.toml"}, "few.toml is a file: name a folder of runs"),
        ({"dataset": pair(), "dataset_name": "a\nb"}, "cannot be the name of a dataset"),
        ({"classes": ["a", "b"]}, "classes and dataset_name are for two torch datasets"),
    ],
)
def test_wrong_arguments_are_user_errors_and_write_nothing(here, words, said):
    with pytest.raises(ddbench.UserError, match=said) as caught:
        ddbench.run(words.pop("method", "random"), **few_steps(**{"ipc": 1} | words))
    assert isinstance(caught.value, ddbench.Error)
    assert not (here / "runs").exists()


def test_a_failed_run_raises_with_the_reason_and_the_way_out(here, monkeypatch, caplog):
    caplog.set_level(logging.CRITICAL)
    words = few_steps(ipc=1, settings={"do": "fail"})
    for _ in range(2):  # now, and earlier
        with pytest.raises(ddbench.FailedRunError, match=r"distil: failed: .*ideas; see .*failed.json\nretry=True"):
            ddbench.run("pick.py:Pick", **words)
    monkeypatch.setenv("PICK_WORKS", "1")
    assert len(ddbench.run("pick.py:Pick", retry=True, **words).results) == 1


def test_a_value_of_settings_is_checked_and_a_file_comes_before_it(here):
    with pytest.raises(ddbench.UserError, match=r"settings: shift = '1' is invalid; expected an integer"):
        ddbench.run("pick.py:Pick", ipc=1, settings={"shift": "1"}, **few_steps())
    (here / "own.toml").write_text("shift = 3\nbatch = 5\n")
    run = ddbench.run("pick.py:Pick", ipc=1, config="own.toml", settings={"shift": 1}, **few_steps())
    assert run.results[0].spec.params == {"shift": 1, "batch": 5, "do": "nothing"}


def test_a_distilled_set_is_a_torch_dataset(here):
    run = ddbench.run("random", ipc=2, **few_steps())
    distilled = ddbench.load_distilled(run.folder)
    (batch,) = DataLoader(distilled, batch_size=4)
    assert torch.equal(batch.image, run.images)
    assert batch.label.tolist() == [0, 0, 1, 1]
    assert batch.target.tolist() == [[1, 0], [1, 0], [0, 1], [0, 1]]
    assert batch.weight.tolist() == [1, 1, 1, 1]
    assert distilled.soft_labels is None
    assert len(distilled) == 4


def test_soft_labels_and_what_else_a_set_has_are_read(here):
    run = ddbench.run("random", ipc=1, **few_steps())
    pictures = distilled_set.read(run.folder / "distilled")
    soft = np.array([[0.75, 0.25], [0.5, 0.5]], np.float32)
    floats = pictures.images.transpose(0, 3, 1, 2).astype(np.float32) / 255
    zca = {"mean": floats[0], "matrix": np.eye(192, dtype=np.float32) / 2}
    carried = {"soft": soft, "floats": floats, "learning_rate": 0.5, "weights": soft[:, 0], "whitening": zca}
    (here / "own").mkdir()
    distilled_set.write(here / "own", replace(pictures, **carried))
    distilled = ddbench.load_distilled("own")
    assert torch.equal(distilled.targets, torch.from_numpy(soft))
    assert torch.equal(distilled[1].target, torch.from_numpy(soft[1]))
    assert torch.equal(distilled.float_images, torch.from_numpy(floats))
    assert distilled.learning_rate == 0.5
    assert distilled[1].weight == 0.5
    assert torch.allclose(distilled.whitening.apply(distilled.images), torch.from_numpy((floats - floats[0]) / 2))


def test_anybodys_folder_is_a_distilled_set_too(here):
    distilled = ddbench.load_distilled("images")
    assert (len(distilled), distilled.classes, distilled.images.shape[-1]) == (22, ("barn", "pond"), 8)


def test_a_folder_that_is_no_distilled_set_is_refused(here):
    with pytest.raises(ddbench.UserError, match="nowhere is not a folder"):
        ddbench.load_distilled("nowhere")
    (here / "empty" / "barn").mkdir(parents=True)
    with pytest.raises(ddbench.UserError, match="empty has no image"):
        ddbench.load_distilled("empty")
    run = ddbench.run("random", ipc=1, **few_steps())
    image = run.folder / "distilled" / "barn" / "000.png"
    Image.new("RGB", (8, 8)).save(image)
    with pytest.raises(ddbench.UserError, match="was changed"):
        ddbench.load_distilled(run.folder)


def test_results_as_tables_and_as_a_frame(here):
    for seed in (0, 1):
        ddbench.run("random", ipc=1, seed=seed, student_seeds=2, **few_steps())
    results = ddbench.load_results("runs")
    frame = results.to_pandas()
    assert len(results) == len(frame) == 4
    assert frame["seed"].tolist() == [0, 0, 1, 1]
    assert frame["student_seed"].tolist() == [0, 1, 0, 1]
    assert frame["overall"].tolist() == [stored.result.overall for stored in results]
    assert set(frame["protocol"]) == {results[0].result.title}
    table = CliRunner().invoke(cli, ["--runs", "runs", "leaderboard", "--format", "latex", "--with", "interval"])
    assert results.to_latex(extras=["interval"]) == table.stdout
    assert str(results) == CliRunner().invoke(cli, ["--runs", "runs", "leaderboard"]).stdout
    assert results._repr_markdown_() == CliRunner().invoke(cli, ["leaderboard", "--format", "markdown"]).stdout
    assert len(results.select(dataset="folder:images", ipc=1, student="convnet")) == 4
    assert len(results.select(ipc=2)) == len(results.select(protocol="quick")) == 0
    with pytest.raises(ddbench.UserError, match="unknown student 'convnt'; did you mean convnet"):
        results.select(student="convnt")
    for call in (results.to_latex, lambda extras: results.to_pandas(cells=True, extras=extras)):
        with pytest.raises(ddbench.UserError, match="unknown number of a table 'gains'; did you mean gain"):
            call(extras=["gains"])
    with pytest.raises(ddbench.UserError, match=r"ratio: numbers of cells.*to_pandas\(cells=True"):
        results.to_pandas(extras=["ratio"])
    cells = results.to_pandas(cells=True, extras=["ratio", "gain"])
    words = ["--format", "csv", "--with", "ratio", "--with", "gain"]
    assert cells.to_csv(index=False) == CliRunner().invoke(cli, ["--runs", "runs", "leaderboard", *words]).stdout
    assert cells[["ratio", "ratio_relation", "gain"]].values.tolist() == [[1.0, "=", 0.0]]
    CliRunner().invoke(cli, ["export", "results", "all.jsonl"])
    assert ddbench.load_results("all.jsonl").to_pandas()["overall"].tolist() == frame["overall"].tolist()


def test_a_selection_keeps_the_curve_of_random():
    worked = ddbench.load_results(Path(__file__).parents[2] / "experiments" / "worked" / "results.jsonl.gz")
    names, place = ["ratio", "slope"], ["method", "dataset", "ipc", "student"]
    frames = [
        results.to_pandas(cells=True, extras=names).set_index(place) for results in (worked, worked.select(ipc=10))
    ]
    whole, part = (frame.sort_index() for frame in frames)
    of_dpd = ("dpd", "ucm", 10, "convnet")
    assert part.loc[of_dpd, "ratio"] == whole.loc[of_dpd, "ratio"] < 1
    assert part.loc[of_dpd, "slope"] == whole.loc[of_dpd, "slope"]
    both = worked.select(student=["convnet", "resnet18"], ipc=10, dataset="ucm")
    assert set(both.to_pandas(cells=True)["student"]) == {"convnet", "resnet18"}
    assert "all students" in both.to_latex(extras=["cross"])


def test_no_results_are_an_empty_frame_and_no_folder_is_an_error(here):
    (here / "runs").mkdir()
    frame = ddbench.load_results().to_pandas()
    assert len(frame) == 0
    assert "overall" in frame
    with pytest.raises(ddbench.UserError, match="there is no folder or file rnus"):
        ddbench.load_results("rnus")


def test_a_file_that_cannot_be_used_is_named(here, caplog):
    run = ddbench.run("random", ipc=1, **few_steps())
    run.results[0].path.write_text("{")
    results = ddbench.load_results("runs")
    assert len(results) == 0
    assert [problem.path for problem in results.problems] == [run.results[0].path]
    assert "skipped" in caplog.text


def test_without_pandas_the_error_says_what_to_install(here, monkeypatch):
    (here / "runs").mkdir()
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ddbench.UserError, match=r'pip install "ddbench\[pandas\]"'):
        ddbench.load_results("runs").to_pandas()


LIGHT = """
import sys
import ddbench
assert not [name for name in sys.modules if name.startswith("ddbench.") and name not in {light}]
assert "run" in dir(ddbench) and not hasattr(ddbench, "runn")
ddbench.run, ddbench.evaluate, ddbench.load_dataset, ddbench.load_distilled, ddbench.Run, ddbench.Results
assert "random" in ddbench.list_methods()
assert len(ddbench.load_results("runs")) == 1
for call in (lambda: ddbench.run("randm", dataset="folder:images"), lambda: ddbench.load_dataset("ucm")):
    try:
        call()
    except ddbench.UserError:
        pass
heavy = [name for name in {heavy} if name in sys.modules]
assert not heavy, heavy
import ddbench.api.distilled
assert "torch" in sys.modules
"""


def test_no_torch_until_it_is_needed(here):
    ddbench.run("random", ipc=1, **few_steps())
    heavy = ("torch", "torchvision", "kornia", "diffusers", "transformers", "pandas", "scipy", "sklearn")
    text = LIGHT.format(light=("ddbench.errors", "ddbench.version"), heavy=heavy)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_explained_and_options_are_keywords():
    assert set(ddbench.__all__) <= set(dir(ddbench))
    for name in set(ddbench.__all__) - {"__version__"}:
        value = getattr(ddbench, name)
        assert inspect.getdoc(value), name
        if inspect.isfunction(value):
            kinds = [parameter.kind for parameter in inspect.signature(value).parameters.values()]
            assert kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD) <= 1, name
            assert ">>>" in inspect.getdoc(value), name


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """A folder with images/ of 8 px and one run, for all examples: what exists is not computed again."""
    home = tmp_path_factory.mktemp("examples")
    write_images(home / "images", {"barn": 10, "pond": 12})
    write_images(home / "images4", dict.fromkeys("abcd", 25))
    (home / "few_steps.toml").write_text(few(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        ddbench.run("random", dataset="folder:images", ipc=1)
    return home


@pytest.mark.parametrize(
    "name",
    [
        "list_methods",
        "load_dataset",
        "load_distilled",
        "load_results",
        "run",
        "evaluate",
        "redundancy",
        "budget",
        "audit",
        "continual",
        "Results",
    ],
)
def test_the_docstrings_examples_run(examples, monkeypatch, name):
    monkeypatch.chdir(examples)
    tests = doctest.DocTestFinder().find(
        getattr(ddbench, name), globs={"ddbench": ddbench, "torch": torch, "Path": Path}
    )
    results = [doctest.DocTestRunner().run(test) for test in tests]
    assert sum(result.attempted for result in results) > 0
    assert sum(result.failed for result in results) == 0


def test_the_package_says_that_it_is_typed():
    assert (Path(ddbench.__file__).parent / "py.typed").is_file()
