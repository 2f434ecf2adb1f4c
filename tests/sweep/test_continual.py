"""`ddbench continual`: against students trained by hand on the sets on disk; orders; refusals; in no leaderboard."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from third_party import few, run_command, snapshot, write_images, write_method

import ddbench
from ddbench.datasets.class_subset import ClassSubset, only_classes
from ddbench.datasets.info import DataPaths
from ddbench.datasets.lookup import find_dataset
from ddbench.protocols import load_protocol
from ddbench.runner.continual import class_order, union
from ddbench.store.class_folders import read_image
from ddbench.store.distilled_set import Pictures
from ddbench.store.measured import read_measured
from ddbench.store.reader import find_run_folders
from ddbench.sweep.continual import continual_work, read_continual
from evaluators.accuracy import evaluate
from evaluators.train import train_student

NAMES = ("barn", "coast", "field", "pond")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with images of four classes, and a plan of two steps and two orders that was carried out."""
    home = tmp_path_factory.mktemp("home")
    write_images(home / "images", dict.fromkeys(NAMES, 10))
    (home / "few.toml").write_text(few(2))
    write_plan(home, "plan.toml")
    command(home, "plan.toml")
    return home


def write_plan(home, name, methods='"random"', **values):
    chosen = {"dataset": f'"folder:{home}/images"', "ipc": 2, "steps": 2, "orders": 2} | values
    chosen |= {"protocol": values.get("protocol", f'"{home}/few.toml"'), "methods": f"[{methods}]"}
    lines = [f"{key} = {value}" for key, value in chosen.items() if value is not None]
    (home / name).write_text("\n".join(lines))


def command(home, plan, *words, status=0):
    places = ["--runs", home / "runs", "--shared", home / "shared", "--device", "cpu", "-q", "continual", home / plan]
    return run_command(*places, *words, status=status)


def records(home):
    return sorted((home / "runs" / "continual" / "students").rglob("step*.json"))


def test_a_student_learns_the_sets_so_far_and_is_tested_on_their_classes(home):
    first, second = json.loads(command(home, "plan.toml", "--format", "json").stdout)
    assert [(one["classes"], one["step"], one["n"]) for one in (first, second)] == [(2, 1, 2), (4, 2, 2)]
    data = ddbench.load_dataset(f"folder:{home}/images", shared=home / "shared")
    by_step = {1: [], 2: []}
    for seed in (0, 1):
        order = class_order(NAMES, seed)
        for step in (1, 2):
            seen = sorted(order[: 2 * step])
            images, labels = [], []
            for i in range(step):
                group = sorted(order[2 * i : 2 * i + 2])
                name = f"folder-images-{group[0]}-{group[1]}-8"
                (run,) = (home / "runs" / "continual" / name).glob(f"random/ipc2/seed{seed}-*")
                for label in group:
                    for path in sorted((run / "distilled" / NAMES[label]).glob("*.png")):
                        images.append(torch.tensor(read_image(path)).permute(2, 0, 1))
                        labels.append(seen.index(label))
            place = sorted(range(len(labels)), key=labels.__getitem__)
            test = [i for i, label in enumerate(data.test.labels.tolist()) if label in seen]
            model = train_student(
                torch.stack([images[i] for i in place]), torch.tensor(sorted(labels)), student="convnet", seed=0,
                num_classes=len(seen), protocol=load_protocol(str(home / "few.toml")), device="cpu",
            )  # fmt: skip
            true = torch.tensor([seen.index(int(data.test.labels[i])) for i in test])
            scores = evaluate(model, data.test.images[test], true, num_classes=len(seen), device="cpu")
            by_step[step].append(scores.overall)
    assert (first["mean"], second["mean"]) == (np.mean(by_step[1]), np.mean(by_step[2]))
    assert first["std"] == pytest.approx(np.std(by_step[1], ddof=1))


def test_a_repeated_command_does_only_what_is_missing(home):
    gone = records(home)[0]
    content = gone.read_bytes()
    gone.unlink()
    before = snapshot(home / "runs")
    rows = json.loads(command(home, "plan.toml", "--dry-run", "--format", "json").stdout)
    assert [row["state"] for row in rows] == ["done"] * 4 + ["to do"] + ["done"] * 3
    assert snapshot(home / "runs") == before
    command(home, "plan.toml")
    assert read_measured(gone).result.overall == json.loads(content)["overall"]
    assert {name for name, data in snapshot(home / "runs").items() if before.get(name) != data} == {
        str(gone.relative_to(home / "runs"))
    }


def test_no_table_of_whole_datasets_reads_them(home):
    for runs in (home / "runs", home / "runs" / "continual"):
        assert run_command("--runs", runs, "leaderboard").stdout == "no results yet\n"
    assert "there is no run at" in run_command("redundancy", home / "runs", status=2).stderr
    (run,) = find_run_folders((home / "runs" / "continual").glob("*0-3-8/random/ipc2"))
    assert "name the run's dataset with --dataset" in run_command("redundancy", run, status=2).stderr


def test_a_set_that_fails_costs_its_students_only(home, monkeypatch):
    method = write_method(home)
    write_plan(home, "fails.toml", f'{{method = "{method}", set = ["do=fail"]}}, "random"', orders=1)
    failed = command(home, "fails.toml", "--format", "json", status=1)
    assert "out of ideas" in failed.stderr
    assert "2 students are not trained: a set of theirs is missing" in failed.stderr
    assert [one["method"] for one in json.loads(failed.stdout)] == ["random", "random"]
    monkeypatch.setenv("PICK_WORKS", "1")
    both = command(home, "fails.toml", "--retry", "--format", "json").stdout
    assert [one["method"] for one in json.loads(both)] == ["random", "random", "pick", "pick"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 3}, "4 classes of folder:"),
        ({"steps": None}, "do not come in five or three equal groups of two classes or more: steps = 2"),
        ({"step": 2}, "unknown key of a plan"),
        ({"ipc": None}, "random needs images per class: add ipc = 20"),
        ({"ipc": "true"}, "ipc = True is invalid"),
        ({"orders": "[]"}, "orders is empty"),
        ({"protocol": '"soft@1"'}, "soft@1 has a teacher, which was trained on all classes at once"),
        ({"protocol": '"mtt@1"'}, "trains at the rate that a set carries"),
        ({"dataset": None}, "dataset must be the name of one"),
        ({"methods": '{method = "random", ipcs = [1]}'}, "random has ipcs of its own; a plan of this kind has one ipc"),
    ],
)
def test_an_impossible_plan_is_refused(home, values, message):
    write_plan(home, "wrong.toml", values.pop("methods", '"random"'), **values)
    assert message in " ".join(command(home, "wrong.toml", status=2).stderr.split())


def test_orders_are_permutations_that_differ_and_stay():
    orders = [class_order(NAMES, seed) for seed in range(5)]
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    assert len(set(orders)) > 2
    assert orders[:2] == [(1, 2, 0, 3), (0, 2, 1, 3)]  # as on every machine


def test_the_union_keeps_each_image_with_its_label_and_soft_label():
    grey = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    soft = np.array([[0.75, 0.25], [0.5, 0.5]], np.float32)
    two = [Pictures(grey[i : i + 2], np.array([0, 1]), ("x", "y"), soft, floats=grey[i : i + 2] / np.float32(2),
                    weights=np.array([1 + i, 3 + 3 * i], np.float32)) for i in (0, 2)]  # fmt: skip
    joined = union([(two[0], (1, 3)), (two[1], (0, 2))], ("a", "b", "c", "d"))
    assert joined.labels.tolist() == [0, 1, 2, 3]
    assert joined.images[:, 0, 0, 0].tolist() == [2, 0, 3, 1]
    assert joined.floats[:, 0, 0, 0].tolist() == [1, 0, 1.5, 0.5]
    assert joined.weights.tolist() == [0.5, 0.5, 1.5, 1.5]
    assert joined.soft.tolist() == [[0.75, 0, 0.25, 0], [0, 0.75, 0, 0.25], [0.5, 0, 0.5, 0], [0, 0.5, 0, 0.5]]


def test_some_classes_are_a_dataset_of_their_own(home):
    paths, whole = DataPaths(None, home / "shared", True), find_dataset(f"folder:{home}/images")
    part = ClassSubset(whole, (1, 3))
    data, every = part.load(paths, 8), whole.load(paths, 8)
    assert (data.train.classes, part.classes) == (("coast", "pond"),) * 2
    rows = [i for i, label in enumerate(every.test.labels.tolist()) if label in (1, 3)]
    assert torch.equal(data.test.images, every.test.images[rows])
    assert data.test.labels.tolist() == [int(label == 3) for label in every.test.labels[rows].tolist()]
    split = part.describe(paths)
    assert split.fingerprint == data.fingerprint != every.fingerprint
    assert data.content != every.content
    assert split.train[1] == whole.describe(paths).train[3]
    assert torch.equal(only_classes(every.train, (1, 3)).images, data.train.images)


def test_jobs_can_be_sent_to_another_process(home):
    plan = read_continual(Path(home / "plan.toml"))
    work = continual_work(*plan, DataPaths(None, home / "shared", True), home / "runs")
    assert pickle.loads(pickle.dumps(work)) == work


def test_a_plot_and_python(home):
    command(home, "plan.toml", "--plot", home / "steps.svg")
    assert "classes so far" in (home / "steps.svg").read_text()
    measure = ddbench.continual(home / "plan.toml", runs=home / "runs", shared=home / "shared", device="cpu")
    assert str(measure) == command(home, "plan.toml").stdout
