"""The demo and the figure: what they print, what they write, what they refuse."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from third_party import few, write_images, write_method
from third_party import run_command as ddbench

from ddbench import load_dataset
from ddbench.cli.demo import steps
from ddbench.runner.options import GlobalOptions
from ddbench.store import distilled_set
from ddbench.utils.contact_sheet import TILE
from ddbench.utils.files import read_json, write_json


@pytest.fixture
def here(tmp_path, monkeypatch, no_settings):
    """Two runs of two classes: `pick` with a record of prototypes, and `random`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "few.toml").write_text(few(1))
    write_method(tmp_path)
    write_images(tmp_path / "images", {"barn": 8, "pond": 8})
    for method in ("pick.py:Pick", "random"):
        ddbench("run", "--method", method, "--dataset", "folder:images", "--ipc", 2, "--protocol", "few.toml")
    (path,) = tmp_path.glob("runs/*/pick/*/*/distilled/manifest.json")
    manifest = read_json(path)
    places = [{"label": label, "row": row} for label in (0, 1) for row in (6 * label + 1, 6 * label + 3)]
    write_json(path, manifest | {"extras": {"prototypes": places}})
    return tmp_path


def test_a_figure_has_real_images_prototypes_and_each_run(here):
    done = ddbench("figure", "runs", "--real", "--images", 2)
    assert done.stdout == "figure.png: 2 classes; columns: real, prototype of pick (real), pick, random\n"
    with Image.open("figure.png") as drawn:
        page = np.asarray(drawn)
    (pick,) = here.glob("runs/*/pick/*/*")
    (random,) = here.glob("runs/*/random/*/*")
    train = load_dataset("folder:images", quiet=True).train.images.permute(0, 2, 3, 1).numpy()
    assert len(train) == 12
    own = [distilled_set.read(run / "distilled").images for run in (pick, random)]
    for column, images in enumerate([train[[0, 1, 6, 7]], train[[1, 3, 7, 9]], *own]):
        for number, image in enumerate(images):
            assert near(page, image, column, number % 2, number // 2)


def near(page, image, column, place, row):
    """True if the cell's tile has the colours of the image: means of 8 px squares of an enlargement by 16."""
    wide = 2 * (TILE + 4) + 12
    left = page.shape[1] - (4 - column) * wide + 12 + place * (TILE + 4)
    top = page.shape[0] - (2 - row) * (TILE + 4) - 4 + 4
    cell = page[top : top + TILE, left : left + TILE].astype(float)
    small = cell.reshape(8, 16, 8, 16, 3).mean((1, 3))
    return np.abs(small - image).mean() < 12


def test_a_figure_of_chosen_classes_without_real_images(here):
    done = ddbench("figure", "runs", "--class", "pond", "--no-prototypes", "--output", "one.jpg")
    assert done.stdout == "one.jpg: 1 classes; columns: pick, random\n"
    with Image.open("one.jpg") as drawn:
        assert drawn.format == "JPEG"


def test_runs_of_the_same_prototypes_show_them_once_under_titles_of_the_user(here):
    ddbench("run", "--method", "pick.py:Pick", "--dataset", "folder:images", "--ipc", 3, "--protocol", "few.toml")
    (first,) = here.glob("runs/*/pick/ipc2/*/distilled/manifest.json")
    (other,) = here.glob("runs/*/pick/ipc3/*/distilled/manifest.json")
    write_json(other, read_json(other) | {"extras": read_json(first)["extras"]})
    runs = [next(here.glob("runs/*/random")), *(path.parents[1] for path in (first, other))]
    done = ddbench("figure", *runs, *(word for title in ("real", "few", "more") for word in ("--title", title)))
    assert done.stdout == "figure.png: 2 classes; columns: real, prototype (real), few, more\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("runs", "--title", "ours"), r"there are 1 --title for 2 runs \(runs.*: give one for each, or none"),
        (("runs", "--class", "barm"), r"unknown class 'barm'; did you mean barn\?"),
        (("images",), "there is no run at images"),
        (("runs", "--output", "figure.txt"), r"a figure is one of \.png, "),
        (("runs", "--dataset", "folder:images@50"), "name the run's dataset with --dataset"),
        (("runs", "--dataset", "folder:gone"), "--no-prototypes without --real draws the distilled images alone"),
    ],
)
def test_what_cannot_be_drawn_is_explained(here, words, message):
    assert re.search(message, ddbench("figure", *words, status=2).stderr.replace("\n", " "))


def test_runs_of_two_splits_are_two_figures(here):
    ddbench("run", "--method", "random", "--dataset", "folder:images@50", "--ipc", 2, "--protocol", "few.toml")
    assert "draw two figures" in ddbench("figure", "runs", status=2).stderr


def test_the_demo_prints_commands_that_exist(tmp_path):
    """Every command of it parses; --help prints instead of running."""
    todo = steps(tmp_path / "demo", GlobalOptions(tmp_path, None, tmp_path, "cpu", True))
    assert len(todo) == 6
    for step in todo:
        assert "--quiet" in step.words
        assert step.seconds > 0
        ddbench(*step.words, "--help")


@pytest.mark.slow
def test_the_demo_compares_three_methods(tmp_path):
    """From an empty folder, as its own process, with warnings as errors."""
    settings = {key: value for key, value in os.environ.items() if not key.startswith("DDBENCH_")}
    command = [sys.executable, "-W", "error", "-m", "ddbench", "--device", "cpu", "demo"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=settings, check=False)
    assert done.returncode == 0, done.stderr
    for method in ("random", r"herding \(tiny\)", r"dpd \(tiny\)"):
        assert re.search(rf"^{method} +\d+\.\d \(n=1\)$", done.stdout, re.MULTILINE)
    assert "columns: real, prototype of dpd (tiny) (real), dpd (tiny), random, herding (tiny)" in done.stdout
    assert re.search(r"^demo/report\.html: ", done.stdout, re.MULTILINE)
    with Image.open(tmp_path / "demo" / "figure.png") as drawn:
        assert drawn.height > 10 * TILE
    assert done.stderr.count("$ ddbench ") == 6
    assert re.search(r"\[3/6\] DPD: .*: about .* more", done.stderr)
    again = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=settings, check=False)
    assert (again.returncode, again.stdout) == (0, done.stdout)
