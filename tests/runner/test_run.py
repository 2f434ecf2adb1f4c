"""Planning, doing, skipping, failing, resuming: on small images, with somebody's method in one file."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from third_party import results_and_problems, snapshot, write_images, write_method

from ddbench import registry
from ddbench.datasets.info import DataPaths
from ddbench.datasets.lookup import find_dataset
from ddbench.errors import UserError
from ddbench.runner import plan as planning
from ddbench.runner import run
from ddbench.runner.external import plan_external
from ddbench.runner.plan import ExecutionSettings, Request
from ddbench.store import distilled_set, failures, paths, reader
from ddbench.store.class_folders import read_image
from evaluators import VERSION


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with images of two classes and the method's file."""
    home = tmp_path_factory.mktemp("home")
    write_images(home / "images", {"barn": 10, "pond": 12})
    write_method(home)
    return home


def plan_for(home, *sets, students=("convnet",), **words):
    request = Request(f"{home}/pick.py:Pick", f"folder:{home}/images", **{"ipcs": (2,), "sets": sets, **words})
    return planning.plan(request, planning.evaluation_setup(students, "quick", 1), place_of(home))


def place_of(home):
    return DataPaths(None, home / "shared", True)


def setting(home, runs_dir):
    return ExecutionSettings(runs_dir, place_of(home), "cpu", True)


@pytest.fixture(scope="module")
def done(home, tmp_path_factory):
    """A finished run: its plan, the runs folder, the outcome."""
    place = tmp_path_factory.mktemp("done")
    plan = plan_for(home)
    return plan, place, run.run(plan, setting(home, place))


def test_a_plan_writes_nothing(home, tmp_path):
    plan = plan_for(home, "shift=1", seeds=(3, 4))
    spec = plan.specs[0]
    assert [s.seed for s in plan.specs] == [3, 4]
    assert (spec.method, spec.dataset, spec.size) == ("pick", "folder:images", 8)
    assert spec.params == {"shift": 1, "do": "nothing", "batch": 4}
    assert spec.source == registry.source_of(f"{home}/pick.py:Pick")
    assert [task.description for task in planning.tasks(plan, tmp_path)] == ["distil", "train convnet seed 0"] * 2
    assert list(tmp_path.iterdir()) == []


def test_full_takes_every_training_image_and_no_budget(home, tmp_path):
    request = Request("full", f"folder:{home}/images", ())
    plan = planning.plan(request, planning.evaluation_setup((), "quick", 1), place_of(home))
    assert run.run(plan, setting(home, tmp_path)) == run.TaskCounts(1, 0, 0)
    train = plan.source.load(place_of(home), plan.specs[0].size).train
    (folder,) = (tmp_path / "folder-images8" / "full").glob("ipc0/seed0-*")
    found = distilled_set.read(folder / "distilled")
    assert found.counts == train.counts()
    assert np.array_equal(found.images, train.images.permute(0, 2, 3, 1).numpy())
    assert np.array_equal(found.labels, train.labels.numpy())


@pytest.mark.parametrize(("student", "size"), [("vit_tiny", 67), ("convnet", 7)])
def test_a_size_that_a_student_cannot_take_is_refused_at_planning(home, student, size):
    with pytest.raises(UserError, match=f"{size}.*--student or --size"):
        plan_for(home, students=(student,), size=size)


def test_a_run_leaves_what_the_design_says(done):
    plan, place, outcome = done
    assert (outcome.done, outcome.failed, outcome.existing) == (2, 0, 0)
    folder = plan.specs[0].folder(place)
    assert sorted(snapshot(folder)) == [
        "contact.png",
        "distill.json",
        "distilled/barn/000.png",
        "distilled/barn/001.png",
        "distilled/manifest.json",
        "distilled/pond/000.png",
        "distilled/pond/001.png",
        f"results/quick-v1-judge{VERSION}/convnet-scratch-seed0.json",
        "spec.json",
    ]
    costs = json.loads((folder / "distill.json").read_text())
    assert costs["seconds"] > 0
    assert costs["memory"]["rss_bytes"] > 1e7
    assert costs["versions"]["torch"] == torch.__version__.partition("+")[0]


def test_what_is_on_disk_is_real_training_images(done, home):
    plan, place, _ = done
    made = distilled_set.read(plan.specs[0].folder(place) / "distilled")
    names = [name for side in plan.split.train for name in side]
    real = {read_image(home / "images" / name).tobytes() for name in names}
    assert {image.tobytes() for image in made.images} <= real
    assert dict(made.extras) == {"shift": 0}


def test_the_result_says_what_was_judged_and_how(done):
    plan, place, _ = done
    (entry,), problems = results_and_problems(place)
    assert problems == []
    assert entry.spec == plan.specs[0]
    found = entry.result
    assert found.content == distilled_set.read(plan.specs[0].folder(place) / "distilled").content()
    assert found.protocol_hash == plan.evaluation.protocol.identity("convnet")
    confusion = np.array(found.confusion)
    assert found.n_test == confusion.sum() == sum(map(len, plan.split.test))
    assert found.overall == pytest.approx(np.trace(confusion) / found.n_test)
    assert list(found.per_class) == ["barn", "pond"]
    assert found.average == pytest.approx(np.mean(list(found.per_class.values())))
    assert found.overall > 0.9  # the classes differ by their colour


def test_what_is_there_is_kept(done, home):
    plan, place, _ = done
    before = snapshot(place)
    assert run.run(plan, setting(home, place)) == run.TaskCounts(0, 0, 2)
    assert snapshot(place) == before


def test_a_seed_is_an_image_set(done, home, tmp_path):
    """The same seed gives the same images elsewhere; another seed gives others."""
    plan, place, _ = done
    contents = []
    for seed in (0, 1):
        again = plan_for(home, seeds=(seed,), students=())
        run.run(again, setting(home, tmp_path))
        contents.append(distilled_set.read(again.specs[0].folder(tmp_path) / "distilled").content())
    assert contents[0] == distilled_set.read(plan.specs[0].folder(place) / "distilled").content()
    assert contents[1] != contents[0]


@pytest.mark.parametrize(
    ("do", "status", "said"),
    [
        ("fail", "failed", "out of ideas"),
        ("oom", "oom", "--set batch=4 at 8 px: smaller"),
        ("diverge", "diverged", "iteration 7: try a smaller learning rate"),
    ],
)
def test_a_failure_is_recorded_and_is_no_result(home, tmp_path, caplog, do, status, said):
    plan = plan_for(home, f"do={do}")
    assert run.run(plan, setting(home, tmp_path)) == run.TaskCounts(0, 1, 0)
    recorded = failures.read_failure(plan.specs[0].folder(tmp_path))
    assert recorded.status == status
    assert said in recorded.error
    assert "in distill" in recorded.trace
    assert "there is no distilled set" in caplog.text
    assert results_and_problems(tmp_path) == ([], [])


def test_what_diverged_keeps_its_last_state(home, tmp_path):
    plan = plan_for(home, "do=diverge")
    run.run(plan, setting(home, tmp_path))
    (kept,) = plan.specs[0].folder(tmp_path).rglob("state")
    assert kept.read_text() == "the last that was good"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("of the GPU"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: not enough memory: you tried to"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_memory_that_runs_out_is_known_by_its_words(error):
    assert run.status(error) == "oom"


def test_a_student_without_room_is_told_what_its_batch_is(home, tmp_path, monkeypatch):
    def without_room(*_, **__):
        return torch.empty(1 << 60)

    plan = plan_for(home)
    monkeypatch.setattr("ddbench.runner.evaluation.train_student", without_room)
    run.run(plan, setting(home, tmp_path))
    (path,) = plan.specs[0].folder(tmp_path).glob("results/*/*.failed.json")
    said = json.loads(path.read_text())
    assert said["status"] == "oom"
    assert (
        f"batches of {plan.evaluation.protocol.recipe('convnet').batch} at 8 px: a smaller --size, or a protocol"
        in said["error"]
    )


def test_a_failure_is_taken_up_again_only_when_asked(home, tmp_path, monkeypatch, caplog):
    plan = plan_for(home, "do=fail", students=())
    run.run(plan, setting(home, tmp_path))
    monkeypatch.setenv("PICK_WORKS", "1")
    assert run.run(plan, setting(home, tmp_path)).failed == 1
    assert "--retry repeats it" in caplog.text
    assert run.run(plan, setting(home, tmp_path), retry=True) == run.TaskCounts(1, 0, 0)
    assert failures.read_failure(plan.specs[0].folder(tmp_path)) is None


def test_a_method_that_writes_to_the_training_images_fails(home, tmp_path):
    plan = plan_for(home, "do=write")
    run.run(plan, setting(home, tmp_path))
    assert "changed its training images" in failures.read_failure(plan.specs[0].folder(tmp_path)).error


def test_what_the_user_must_provide_leaves_nothing_behind(home, tmp_path):
    with pytest.raises(UserError, match="get it from a shop"):
        run.run(plan_for(home, "do=ask"), setting(home, tmp_path / "a" / "runs"))
    assert list(tmp_path.iterdir()) == []


def test_a_method_that_ends_the_process_costs_its_run(home, tmp_path):
    plan = plan_for(home, "do=exit")
    assert run.run(plan, setting(home, tmp_path)).failed == 1
    assert failures.read_failure(plan.specs[0].folder(tmp_path)).error == "SystemExit: 3"


@pytest.mark.slow
def test_a_full_disk_is_no_failure_of_a_run(home, tmp_path, monkeypatch):
    """It ends with the system's error, which names a file; nothing is recorded, so the same command goes on."""
    plan = plan_for(home, "do=full")
    folder = plan.specs[0].folder(tmp_path)
    with pytest.raises(OSError, match=rf"No space left on device: '{folder}/distilled'"):
        run.run(plan, setting(home, tmp_path))
    assert failures.read_failure(folder) is None
    monkeypatch.setenv("PICK_WORKS", "1")
    assert run.run(plan, setting(home, tmp_path)) == run.TaskCounts(2, 0, 0)


def test_one_failing_student_costs_one_cell(home, tmp_path):
    plan = plan_for(home)
    run.run(plan_for(home, students=()), setting(home, tmp_path))
    folder = plan.specs[0].folder(tmp_path)
    image = folder / "distilled" / "barn" / "000.png"
    image.write_bytes(image.read_bytes()[:50])
    assert run.run(plan, setting(home, tmp_path)) == run.TaskCounts(0, 1, 1)
    result = paths.result_path(folder, plan.evaluation.protocol, "convnet", 0)
    assert "not a readable image" in failures.read_failure(result).error
    assert failures.read_failure(folder) is None


def test_more_images_than_there_are_is_a_failure_that_names_the_budget(home, tmp_path):
    plan = plan_for(home, ipcs=(500,))
    assert run.run(plan, setting(home, tmp_path)).failed == 1
    assert "every class needs 500 images" in failures.read_failure(plan.specs[0].folder(tmp_path)).error


def command(home, place, *words):
    head = [sys.executable, "-m", "ddbench", "--runs", place, "--shared", home / "shared", "--device", "cpu"]
    what = ["run", "--method", f"{home}/pick.py:Pick", "--dataset", f"folder:{home}/images", "--ipc", "2"]
    return [str(word) for word in [*head, *what, *words]]


def kill_when(process, seen):
    """SIGKILL as soon as `seen()`; the process must not have ended by itself."""
    deadline = time.monotonic() + 60
    while not seen():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_killed_while_distilling(home, tmp_path):
    """What is half made is never taken for complete; repeated, it ends as if nothing had happened."""
    plan = plan_for(home, "do=hang", students=())
    folder = plan.specs[0].folder(tmp_path / "killed")
    words = command(home, tmp_path / "killed", "--set", "do=hang")
    process = subprocess.Popen(words, env=os.environ | {"PICK_HANGS": "1"}, stderr=subprocess.DEVNULL)
    kill_when(process, (folder / ".work" / "begun").exists)
    assert sorted(snapshot(folder)) == [".work/begun", "spec.json"]
    (folder / f".spec.json.{process.pid}.tmp").touch()  # as if it had been killed a moment earlier
    for place in ("killed", "calm"):
        assert run.run(plan, setting(home, tmp_path / place)) == run.TaskCounts(1, 0, 0)
    assert same_files(tmp_path / "killed", tmp_path / "calm")
    assert not (folder / ".work").exists()


@pytest.mark.slow
def test_killed_while_judging(done, home, tmp_path):
    plan, place, _ = done
    folder = plan.specs[0].folder(tmp_path)
    process = subprocess.Popen(command(home, tmp_path), stderr=subprocess.DEVNULL)
    kill_when(process, (folder / "contact.png").exists)
    assert list(folder.rglob("results/*/*.json")) == []
    assert run.run(plan, setting(home, tmp_path)) == run.TaskCounts(1, 0, 1)
    assert same_files(tmp_path, place)
    (one,), (two,) = reader.read_runs(tmp_path).results, reader.read_runs(place).results
    assert (one.result.run, one.result.content) == (two.result.run, two.result.content)
    assert (one.result.overall, one.result.confusion) == (two.result.overall, two.result.confusion)


def same_files(one, other):
    """The same names; the same content, but for the two files that hold seconds and bytes."""
    first, second = snapshot(one), snapshot(other)
    timed = {name for name in first if name.endswith("distill.json") or "/results/" in name}
    return set(first) == set(second) and all(first[name] == second[name] for name in set(first) - timed)


def test_what_a_process_killed_after_its_work_left_is_removed(done, home, tmp_path):
    plan, place, _ = done
    shutil.copytree(place, tmp_path, dirs_exist_ok=True)
    folder = plan.specs[0].folder(tmp_path)
    gone = subprocess.Popen(["true"])
    gone.wait()
    for name in (".work/partial", "failed.json", f".distill.json.{gone.pid}.tmp", f"results/.x.json.{gone.pid}.tmp"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    alive = [folder / f".distill.json.{owner}.tmp" for owner in (os.getpid(), f"other-{gone.pid}")]  # another machine's
    for path in alive:
        path.touch()
    assert run.run(plan, setting(home, tmp_path)) == run.TaskCounts(0, 0, 2)
    for path in alive:
        path.unlink()
    assert same_files(tmp_path, place)


def test_folders_of_one_name_are_other_datasets(home, tmp_path):
    """And so is a folder whose images were replaced by others of the same size in bytes."""
    other = write_images(tmp_path / "images", {"barn": 10, "pond": 12}, seed=1)
    request = Request(f"{home}/pick.py:Pick", f"folder:{other}", (2,))
    data_paths = DataPaths(None, tmp_path / "shared", True)
    spec = planning.plan(request, planning.evaluation_setup((), "quick", 1), data_paths).specs[0]
    ours = plan_for(home).specs[0]
    assert (spec.dataset, spec.params, spec.split) == (ours.dataset, ours.params, ours.split)
    assert spec.digest != ours.digest


def test_what_a_method_says_of_its_weights_is_part_of_the_run(home, tmp_path):
    file = home / "weighty.py"
    more = "    def identity(self):\n        return Path(__file__ + '.weights').read_text()\n\n    def _misbehave"
    file.write_text((home / "pick.py").read_text().replace("    def _misbehave", more))
    digests = set()
    for weights in ("a", "b", "a"):
        (home / "weighty.py.weights").write_text(weights)
        request = Request(f"{file}:Pick", f"folder:{home}/images", (2,))
        plan = planning.plan(request, planning.evaluation_setup((), "quick", 1), place_of(home))
        digests |= {plan.specs[0].digest}
    assert len(digests) == 2


def test_a_field_that_is_no_json_value_is_a_user_error(home):
    file = home / "pathy.py"
    text = (home / "pick.py").read_text().replace("shift: int", "root: Path = Path('x')\n    shift: int", 1)
    file.write_text(text)
    request = Request(f"{file}:Pick", f"folder:{home}/images", (2,))
    with pytest.raises(UserError, match="a field of pick cannot be written"):
        planning.plan(request, planning.evaluation_setup((), "quick", 1), place_of(home))


def test_somebodys_folder_is_judged_by_the_same_code(done, home, tmp_path):
    """A run's own distilled folder, judged as anybody's, gets the run's number."""
    plan, place, _ = done
    folder = plan.specs[0].folder(place) / "distilled"
    source = find_dataset(f"folder:{home}/images")
    given = plan_external(folder, source, None, plan.evaluation, place_of(home))
    assert (given.specs[0].method, given.specs[0].ipc) == ("folder:distilled", 2)
    run.run(given, setting(home, tmp_path))
    (mine,), (theirs,) = reader.read_runs(place).results, reader.read_runs(tmp_path).results
    assert mine.result.content == theirs.result.content == theirs.spec.params["content"]
    assert mine.result.confusion == theirs.result.confusion


def given_plan(home, folder):
    source = find_dataset(f"folder:{home}/images")
    return plan_external(folder, source, None, planning.evaluation_setup((), "quick", 1), place_of(home))


def test_a_folder_without_a_learned_rate_is_refused_at_once(home, tmp_path):
    folder = write_images(tmp_path / "mine", {"barn": 1, "pond": 1})
    setup = planning.evaluation_setup(("convnet",), "mtt@1", 1)
    with pytest.raises(UserError, match=r"mtt@1 trains at the learning rate .* this set has none"):
        plan_external(folder, find_dataset(f"folder:{home}/images"), None, setup, place_of(home))


def test_a_folder_of_unequal_classes_has_the_larger_ones_ipc(home, tmp_path, caplog):
    plan = given_plan(home, write_images(tmp_path / "mine", {"barn": 1, "pond": 3}))
    assert "1 to 3 images per class" in caplog.text
    assert plan.specs[0].ipc == 3
    assert plan.method.pictures.images.shape == (4, 8, 8, 3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda image: image.resize((12, 12)), "is 12x12 px, not 8x8: --size 12 evaluates them as they are, or"),
        (lambda image: image.resize((12, 8)), "is 12x8 px, not 8x8: images are square"),
        (lambda image: image.convert("L"), "has mode L, not RGB"),
        (lambda image: image.convert("RGBA"), "has mode RGBA, not RGB"),
    ],
)
def test_given_images_of_another_kind_are_refused(home, tmp_path, change, said):
    folder = write_images(tmp_path / "mine", {"barn": 2, "pond": 2})
    path = sorted(folder.glob("*/*"))[1]
    change(Image.open(path)).save(path)
    with pytest.raises(UserError, match=re.escape(f"{path} {said}")):
        given_plan(home, folder)


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"barn": 1}, "missing: pond"),
        ({"barn": 1, "pond": 1, "lake": 1}, "not a class of the dataset: lake"),
        ({"barn": 1, "pond": 0}, "without an image: pond"),
        ({"Barn": 1, "pond": 1}, "missing: barn; not a class of the dataset: Barn"),
    ],
)
def test_a_folder_with_other_classes_is_refused(home, tmp_path, counts, said):
    with pytest.raises(UserError, match=said):
        given_plan(home, write_images(tmp_path / "mine", counts))


def test_cudnn_is_asked_for_the_same_images_again(home, tmp_path):
    """On a GPU it has faster algorithms, which add in any order."""
    text = (home / "pick.py").read_text()
    asks = "        assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark\n"
    head = next(line for line in text.splitlines(keepends=True) if "def distill(" in line)
    (tmp_path / "asks.py").write_text(text.replace(head, head + asks))
    request = Request(f"{tmp_path}/asks.py:Pick", f"folder:{home}/images", (2,))
    plan = planning.plan(request, planning.evaluation_setup((), "quick", 1), place_of(home))
    assert not torch.backends.cudnn.deterministic
    assert run.run(plan, setting(home, tmp_path / "runs")) == run.TaskCounts(1, 0, 0)
    assert not torch.backends.cudnn.deterministic
