"""`ddbench budget`: each budget against a student trained by hand; the run's own result; plots; refusals."""

import json
import math

import pytest
import torch
from third_party import few, run_command, write_images

import ddbench
from ddbench.protocols import load_protocol
from ddbench.runner.budget import Budgets, with_steps
from ddbench.store import distilled_set
from ddbench.store.measured import read_measured
from evaluators.accuracy import evaluate
from evaluators.protocols import protocol
from evaluators.train import learning_rate, train_student


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with images of two classes, a run of two random ones of each, and its records for 2 and 4 steps."""
    home = tmp_path_factory.mktemp("home")
    write_images(home / "images", {"barn": 14, "pond": 12})
    (home / "few.toml").write_text(few(4))
    command(home, "run", "--method", "random", "--ipc", 2)
    return home


def command(home, name, *words, status=0):
    places = ["--runs", home / "runs", "--shared", home / "shared", "--device", "cpu", "-q", name]
    own = ["--protocol", home / "few.toml", "--dataset", f"folder:{home}/images"]
    return run_command(*places, *([home / "runs"] if name == "budget" else []), *words, *own, status=status)


def records(home, *words):
    return json.loads(command(home, "budget", *words, "--format", "json").stdout)


def test_a_budget_is_a_training_of_so_many_steps(home):
    half, whole = records(home, "--fraction", 1, "--fraction", 0.5)
    assert [(one["steps"], one["full_steps"], one["share"]) for one in (half, whole)] == [(2, 4, 0.5), (4, 4, 1)]
    (folder,) = (home / "runs").glob("*/*/*/*")
    (own,) = folder.glob("results/*/*.json")
    assert json.loads(own.read_text())["overall"] == whole["mean"]  # taken over
    assert (
        read_measured(next(folder.glob("budget/*/steps4/*.json"))).result.seconds
        == json.loads(own.read_text())["seconds"]
    )
    pictures = distilled_set.read(folder / "distilled")
    test = ddbench.load_dataset(f"folder:{home}/images", size=8, shared=home / "shared").test
    (home / "two.toml").write_text(few(2))
    model = train_student(pictures.to_tensor(), torch.from_numpy(pictures.labels), student="convnet", num_classes=2,
                          protocol=load_protocol(str(home / "two.toml")), seed=0, device="cpu")  # fmt: skip
    assert half["mean"] == evaluate(model, test.images, test.labels, num_classes=2, device="cpu").overall
    assert (half["n"], half["students"]) == (1, 1)


def test_the_schedule_ends_with_the_budget():
    recipe = with_steps(protocol("quick"), "convnet", 50, 20, 2).recipe("convnet")
    assert recipe.steps(20) == 50
    rates = [learning_rate(recipe, step, 50) for step in range(50)]
    assert max(rates) == pytest.approx(recipe.lr, rel=0.01)
    assert rates[-1] < recipe.lr / 1000
    assert rates[0] < recipe.lr / 5


@pytest.mark.parametrize(("name", "student"), [("quick", "convnet"), ("dc@2", "convnet"), ("idc@2", "convnet6")])
def test_the_full_budget_is_the_protocol_itself(name, student):
    row = protocol(name)
    full = row.recipe(student).steps(100, 10)
    budget = with_steps(row, student, full, 100, 10)
    assert budget.recipe(student).steps(100, 10) == full
    if not row.recipe(student).tests:
        assert budget.identity(student) == row.identity(student)


def test_whole_epochs_take_the_nearest_number():
    row = protocol("dc@2")  # whole epochs, batches of 256
    recipe = row.recipe("convnet")
    per_epoch = math.ceil(600 / recipe.for_set(600, 10).batch)
    short = with_steps(row, "convnet", 2 * per_epoch + 1, 600, 10).recipe("convnet")
    assert (recipe.whole_epochs, short.steps(600, 10)) == (True, 2 * per_epoch)
    assert with_steps(row, "convnet", 1, 600, 10).recipe("convnet").epochs == 1


def test_budgets_of_one_length_are_one():
    assert Budgets((1.0, 0.01, 0.1)).of(10) == {1: 0.01, 10: 1.0}
    assert Budgets(steps=(7, 3, 7)).of(10) == {3: 3.0, 7: 7.0}


def test_tables_and_a_plot_in_three_formats(home):
    words = ["--steps", 2, "--steps", 4]
    for suffix, begin in ((".svg", b"<?xml"), (".png", b"\x89PNG"), (".pdf", b"%PDF")):
        done = command(home, "budget", *words, "--plot", home / f"plot{suffix}")
        assert (home / f"plot{suffix}").read_bytes().startswith(begin)
    assert "2 steps" in done.stdout
    assert "optimizer steps" in (home / "plot.svg").read_text()
    latex = command(home, "budget", *words, "--format", "latex").stdout
    assert r"method & 2 steps & 4 steps \\" in latex


def test_the_command_and_python_agree(home):
    where = {"dataset": f"folder:{home}/images", "shared": home / "shared", "device": "cpu"}
    measure = ddbench.budget(home / "runs", steps=[2, 4], protocol=home / "few.toml", **where)
    assert str(measure) == command(home, "budget", "--steps", 2, "--steps", 4).stdout
    assert len(measure.plot().axes) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", 2, "--fraction", 1], "exclude each other"),
        (["--fraction", 0], "0"),
        (["--fraction", "nan"], "fractions = [nan] are not above 0 and at most 100"),
        (["--plot", "plot.gif"], "a plot is one of .svg, .png, .pdf"),
        (["--steps", 10**9], "steps are not 1 to"),
    ],
)
def test_impossible_budgets_are_refused(home, words, message):
    assert message in command(home, "budget", *words, status=2).stderr
