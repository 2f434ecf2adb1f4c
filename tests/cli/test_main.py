"""The command line: words, exit status, what goes where; one whole run as its own process."""

import io
import json
import logging
import os
import re
import subprocess
import sys

import pytest
from PIL import Image
from test_records import write
from third_party import run_command as ddbench
from third_party import snapshot, write_images, write_method, write_package

from ddbench.cli.common import log, log_to_stderr
from ddbench.config import describe_fields, preset_purpose, presets
from ddbench.registry import load_method, names
from evaluators.protocols import PROTOCOLS
from evaluators.recipes import Augment, Recipe


@pytest.fixture
def here(tmp_path, monkeypatch, no_settings):
    """An empty folder to stand in, without a user's settings."""
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data") / "images", {"barn": 10, "pond": 12})


@pytest.fixture(scope="module")
def pick(tmp_path_factory):
    return write_method(tmp_path_factory.mktemp("method"))


RUN = ("run", "--method", "random", "--dataset", "scenes", "--ipc", "1", "--size", "8")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*RUN, "--method", "randm"), r"unknown method 'randm'; did you mean random\?.*Known: .*herding"),
        ((*RUN, "--dataset", "scene"), r"unknown dataset 'scene'; did you mean scenes\?.*Known: .*ucm"),
        ((*RUN, "--dataset", "folder:nowhere"), "nowhere"),
        ((*RUN, "--student", "convnt"), r"unknown student 'convnt'; did you mean convnet or convnet6.*\?.*vit_tiny"),
        ((*RUN, "--protocol", "quik"), "unknown protocol 'quik'; did you mean .*quick@1"),
        ((*RUN, "--protocol", "fid"), "fid@1 is for teachers only"),
        ((*RUN, "--method", "full"), "full takes every training image: leave out --ipc"),
        ((*RUN[:5], "--size", "8"), "add --ipc 10"),
        ((*RUN, "--preset", "small"), "unknown preset of random 'small'"),
        ((*RUN, "--set", "steps=3"), r"unknown key of random \(--set\) 'steps'"),
        ((*RUN, "--set", "steps"), "is not key=value"),
        ((*RUN, "--method", "herding", "--set", "embedding=resnet"), "embedding.*resnet18"),
        ((*RUN, "--method", "dpd", "--set", "strength=2"), "strength must be in 0..1"),
        ((*RUN, "--config", "none.toml"), "cannot read none.toml"),
        ((*RUN, "--method", "none.py:Mine"), "there is no file none.py"),
        ((*RUN, "--seed", "1", "--seeds", "2"), "exclude each other"),
        ((*RUN, "--ipc", "0"), "0 is not in the range"),
        (("--device", "gpu", *RUN), "'gpu' is not one of auto, cpu, cuda"),
        (("evaluate", "nowhere", "--dataset", "scenes"), "nowhere is not a folder"),
        (
            ("leaderboard", "--reported", __file__, "--format", "json"),
            "--reported does not apply to --format json: use text",
        ),
        (
            ("leaderboard", "--with", "ratios"),
            "'ratios' is not one of .*'ratio', 'slope', 'cross'",
        ),
        (("show", "rnadom"), r"unknown name 'rnadom'; did you mean random\?"),
        (("check", "randon"), r"unknown method 'randon'; did you mean random\?"),
        (("data", "show", "ucn"), r"unknown dataset 'ucn'; did you mean ucm\?"),
        (("lst",), "No such command 'lst'"),
    ],
)
def test_words_that_are_off_end_with_2_and_write_nothing(here, words, said):
    result = ddbench(*words, status=2)
    assert re.search(said, " ".join(result.stderr.split()))
    assert result.stdout == ""
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--dataset", "scnes", r"unknown dataset 'scnes'; did you mean scenes\?"),
        ("--student", "convet", r"unknown student 'convet'; did you mean convnet or convnet6"),
        ("--protocol", "quik@1", r"unknown protocol 'quik@1'; did you mean quick@1"),
    ],
)
def test_a_filter_of_an_unknown_name_ends_with_2(here, option, value, said):
    (here / "runs").mkdir()
    assert re.search(said, " ".join(ddbench("leaderboard", option, value, status=2).stderr.split()))


def test_a_base_model_that_is_not_there_is_said_at_once(here, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    result = ddbench(*RUN, "--method", "dpd", status=2)
    assert re.search(r"'lcybuaa/Text2Earth'(?s:.)*hf download lcybuaa/Text2Earth(?s:.)*--preset tiny", result.stderr)
    assert list(here.iterdir()) == []


def test_missing_data_ends_with_2_and_says_where_it_was_looked_for(here):
    result = ddbench("--data-root", here / "data", *RUN, "--dataset", "ucm", status=2)
    assert str(here / "data") in result.stderr
    assert list(here.iterdir()) == []


def test_a_full_disk_is_named_with_the_way_out(here, pick, images):
    words = ("run", "--method", pick, "--set", "do=full", "--dataset", f"folder:{images}", "--ipc", "2")
    result = ddbench(*words, status=2)
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    message = r"Error: runs/\S+/distilled cannot be written \(No space left on device\): free space; the same command"
    assert len(lines) == 1
    assert re.match(message, lines[0])


def test_a_dry_run_names_the_work_and_writes_nothing(here, pick, images):
    budgets = ("--ipc", "2", "--ipc", "1", "--ipc", "2")
    words = ("run", "--method", pick, "--dataset", f"folder:{images}", *budgets, "--seeds", "2", "--dry-run")
    lines = ddbench(*words).stdout.splitlines()
    assert [line.rpartition(": ")[2] for line in lines] == ["distil", "train convnet seed 0"] * 4
    places = [f"to do: runs/folder-images8/pick/ipc{ipc}/seed{seed}-" for ipc in (2, 1) for seed in (0, 0, 1, 1)]
    assert all(line.startswith(place) for line, place in zip(lines, places, strict=True))
    assert list(here.iterdir()) == []


def test_a_whole_run_by_entry_point(here, images, tmp_path):
    """As its own process, with warnings as errors: results on one stream, the rest on the other; then nothing to do."""
    write_package(tmp_path / "site")
    path = os.pathsep.join([str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])
    words = ["run", "--method", "pick", "--set", "shift=1", "--dataset", f"folder:{images}", "--ipc=2", "--seed=5"]
    command = [sys.executable, "-W", "error", "-m", "ddbench", "--device", "cpu", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^pick +\d+\.\d \(n=1\)$", done.stdout, re.MULTILINE)
    sheet = re.search(r"^images: (.*contact\.png)$", done.stdout, re.MULTILINE).group(1)
    assert (here / sheet).read_bytes()[:4] == b"\x89PNG"
    assert "train convnet" not in done.stdout
    assert "train convnet seed 0" in done.stderr
    assert "%|" not in done.stderr  # no bars where nobody looks

    before = snapshot(here)
    again = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}, check=False)
    assert (again.returncode, again.stdout) == (0, done.stdout)
    assert "nothing to do" in again.stderr
    assert snapshot(here) == before

    (result,) = json.loads(ddbench("leaderboard", "--format", "json").stdout)["results"]
    assert (result["spec"]["seed"], result["spec"]["params"]["shift"]) == (5, 1)
    assert sorted(result["result"]["per_class"]) == ["barn", "pond"]


def test_a_failed_run_ends_with_1(here, pick, images):
    words = ("run", "--method", pick, "--set", "do=fail", "--dataset", f"folder:{images}", "--ipc=1")
    for _ in range(2):
        result = ddbench(*words, status=1)
        assert "out of ideas" in result.stderr
        assert result.stdout == "no results yet\n"


def test_what_the_user_must_provide_ends_with_2(here, pick, images):
    words = ("run", "--method", pick, "--set", "do=ask", "--dataset", f"folder:{images}", "--ipc=1")
    assert ddbench(*words, status=2).stderr.rstrip().endswith("there is no base model; get it from a shop")
    assert not (here / "runs").exists()


def test_the_leaderboard_names_and_skips_a_truncated_result(here):
    write(here / "runs")
    whole = ddbench("leaderboard").stdout
    bad = write(here / "runs", seed=1, overall=1.0)
    bad.write_text(bad.read_text()[:100])
    result = ddbench("leaderboard", status=1)
    assert result.stdout == whole
    assert f"skipped {bad.relative_to(here)}: is not readable JSON" in result.stderr


def test_the_leaderboard_can_be_narrowed_and_written(here):
    write(here / "runs")
    assert "62.5 (n=1)" in ddbench("leaderboard", "--dataset", "scenes", "--ipc", "2", "--protocol", "quick").stdout
    assert ddbench("leaderboard", "--ipc", "3").stdout == "no results yet\n"
    assert ddbench("leaderboard", "--dataset", "ucm").stdout == "no results yet\n"
    assert (
        "no results yet that match: board.csv was not"
        in ddbench("leaderboard", "--ipc", "3", "--format", "latex", "--output", "board.csv", status=2).stderr
    )
    assert not (here / "board.csv").exists()
    result = ddbench("leaderboard", "--format", "csv", "--output", "board.csv")
    assert result.stdout == ""
    assert (here / "board.csv").read_text() == ddbench("leaderboard", "--format", "csv").stdout


def test_environment_variables_stand_for_options(here, monkeypatch):
    write(here / "elsewhere")
    monkeypatch.setenv("DDBENCH_RUNS", "elsewhere")
    assert "62.5" in ddbench("leaderboard").stdout
    (here / "runs").mkdir()
    assert ddbench("--runs", "runs", "leaderboard").stdout == "no results yet\n"


@pytest.mark.parametrize(
    ("what", "some"),
    [
        ("methods", {"random", "herding", "dpd"}),
        ("datasets", {"scenes", "ucm", "eurosat"}),
        ("students", {"convnet", "resnet18", "vit_tiny"}),
        ("protocols", {"quick@1"}),
    ],
)
def test_list_prints_names(what, some):
    assert some <= set(ddbench("list", what).stdout.split())


def test_list_presets_names_method_and_preset(here, tmp_path, monkeypatch):
    write_package(tmp_path / "site")
    (tmp_path / "site" / "presets").mkdir()
    (tmp_path / "site" / "presets" / "bright.toml").write_text("shift = 9\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert "pick bright" in ddbench("list", "presets").stdout.splitlines()


@pytest.mark.parametrize(
    ("name", "some"),
    [
        ("scenes", ["procedural", "beach", "licence"]),
        ("convnet", ["(student)", "ConvNet", "quick@1"]),
        ("quick@1", ["(protocol)", "weight_decay", "resnet18"]),
        ("quick", ["(protocol)"]),
        ("mtt", ["cifar10-ipc10", "IPC 10: 65.4 ± 0.7 % (ConvNet, mtt-zca@1;"]),
        ("random", ["random (method, version", "preset"]),
    ],
)
def test_show_explains(name, some):
    shown = ddbench("show", name).stdout
    assert [word for word in some if word not in shown] == []


def test_presets_name_protocols_that_exist():
    purposes = [preset_purpose(file) for name in names("methods") for file in presets(load_method(name)).values()]
    named = {title for purpose in purposes for title in re.findall(r"[\w-]+@\d+", purpose)}
    assert {"dc-float@1", "dc-plain-float@1", "mtt@1", "mtt-zca@1"} <= named <= set(PROTOCOLS)


def test_a_reader_of_the_log_that_left_fails_no_run(monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(log, "handlers", [])
    monkeypatch.setattr(log, "level", 0)
    log_to_stderr(logging.INFO)
    monkeypatch.setattr(sys, "stderr", Closed())
    log.info("distil")


@pytest.mark.parametrize("name", names("methods"))
def test_every_field_of_a_method_has_a_meaning(name):
    assert [field.name for field in describe_fields(load_method(name)) if not field.meaning] == []


@pytest.mark.parametrize("kind", [Recipe, Augment])
def test_every_field_of_a_recipe_has_a_meaning_at_the_field(kind):
    assert [field.name for field in describe_fields(kind) if not field.meaning] == []


@pytest.mark.parametrize("name", ["kmeans", "dpd", "d4m"])
def test_the_embedded_base_is_called_so(name):
    meaning = next(field.meaning for field in describe_fields(load_method(name)) if field.name == "base")
    assert "tiny (embedded)" in meaning


def test_show_explains_each_change_of_the_images(here):
    shown = ddbench("show", "soft@1").stdout
    assert re.search(r"^augment\.cutmix( +0\.5)+ +probability", shown, re.MULTILINE)
    assert "augment.cutout" not in shown  # at its default for every student


def test_show_prints_every_field_with_default_and_meaning(pick):
    shown = ddbench("show", pick).stdout
    assert re.search(r"^shift +0 +an integer \(grey levels\) +added to every pixel$", shown, re.MULTILINE)
    assert re.search(r"^do +nothing +text +what else happens$", shown, re.MULTILINE)


def test_data_of_a_folder(here, images):
    assert "18 training, 4 test images" in ddbench("data", "prepare", f"folder:{images}").stdout
    shown = ddbench("data", "show", f"folder:{images}").stdout
    assert re.search(r"found +18 training, 4 test", shown)
    assert re.search(r"fingerprint +[0-9a-f]{64}", shown)
    assert "22 images" in ddbench("data", "verify", f"folder:{images}").stdout


def test_data_verify_ends_with_1_for_a_damaged_image(here, tmp_path):
    folder = write_images(tmp_path / "images", {"barn": 3, "pond": 3})
    broken = folder / "pond" / "001.png"
    broken.write_bytes(broken.read_bytes()[:60])
    assert "pond/001.png" in ddbench("data", "verify", f"folder:{folder}", status=1).stdout


def test_data_for_a_program(here, images):
    (row,) = json.loads(ddbench("data", "prepare", f"folder:{images}", "--format", "json").stdout)
    assert (row["state"], row["name"]) == ("prepared", f"folder:{images}")
    shown = json.loads(ddbench("data", "show", f"folder:{images}", "--format", "json").stdout)
    fields = {row["field"]: row["value"] for row in shown}
    assert fields["images found"] == "18 training, 4 test"
    overviews = [row["value"] for row in shown if row["field"] == "overview image"]
    assert [(here / path).is_file() for path in overviews] == [True, True]
    report = json.loads(ddbench("data", "verify", f"folder:{images}", "--format", "json").stdout)
    assert (report["ok"], report["counts"]) == (True, {"barn": 10, "pond": 12})
    assert sum(row["images"] for row in report["sizes"]) == 22


def test_data_verify_sums_up_many_sizes_and_says_what_it_leaves(here, tmp_path):
    """Photographs have a size each, and a third folder beside train and test is not read."""
    for side in ("train", "test", "val"):
        for label in ("barn", "pond"):
            (tmp_path / "images" / side / label).mkdir(parents=True)
            for number in range(4):
                size = (20 + number, 30 + 2 * number + (label == "pond"))
                Image.new("RGB", size, (number * 50, 0, 90)).save(tmp_path / "images" / side / label / f"{number}.png")
    shown = ddbench("data", "verify", f"folder:{tmp_path}/images").stdout
    (line,) = (line for line in shown.splitlines() if line.startswith("sizes"))
    assert line.endswith("3 other sizes, 21 to 23 px wide, 33 to 37 px high: 6")
    assert line.count(":") == 7
    assert "files that are not read: 8 files of .png, such as val/barn/0.png" in shown


def test_a_folder_in_place_of_a_dataset_is_recognised(here, images):
    said = ddbench("run", "--method", "random", "--dataset", str(images), "--ipc", "1", status=2).stderr
    assert f"folder:{images} reads its images" in said
    assert not list(here.iterdir())


def test_data_list_goes_on_past_missing_data(here):
    shown = ddbench("data", "list").stdout
    assert re.search(r"^ucm .*missing$", shown, re.MULTILINE)
    assert re.search(r"^scenes .*\d+ training, \d+ test$", shown, re.MULTILINE)


def test_check_prints_each_promise(pick, tmp_path):
    lines = ddbench("check", pick).stdout.splitlines()
    assert len(lines) == 10
    assert all(line.startswith("ok") for line in lines)
    broken = tmp_path / "broken.py"
    broken.write_text("class Broken:\n    def distill(self, train, ipc, ctx):\n        return None\n")
    result = ddbench("check", f"{broken}:Broken", status=1)
    assert "FAILED  is a frozen dataclass: decorate Broken with @dataclass(frozen=True)" in result.stdout


@pytest.mark.parametrize("words", [(), ("run",), ("leaderboard",), ("evaluate",), ("check",), ("data",), ("show",)])
def test_help_teaches_with_examples(words):
    assert "ddbench " in ddbench(*words, "--help").stdout.partition("Options:")[0].partition("\n")[2]
