"""What a student is trained on: hard labels, a set's own soft ones, a teacher's; and what is recorded of it."""

import hashlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from third_party import few, results_and_problems, write_anew, write_images, write_method

from ddbench.datasets.info import DataPaths
from ddbench.errors import UserError
from ddbench.leaderboard import FORMATS, render
from ddbench.runner import plan as planning
from ddbench.runner import run as runner
from ddbench.runner.external import plan_external
from ddbench.runner.plan import ExecutionSettings, Request
from ddbench.runner.teacher import get_teacher, network
from ddbench.store import failures, records
from ddbench.store.paths import corrupted_path
from ddbench.store.records import train_id
from ddbench.types import ImageSet
from ddbench.utils.checkpoint import Checkpoint
from evaluators import corruptions
from evaluators.accuracy import evaluate
from evaluators.normalisation import Whitening, normalisation_of
from evaluators.protocols import QUICK_1, protocol
from evaluators.train import train_student

FEW = few(20)
TAUGHT = f'teacher = ["convnet", "quick@1"]\n{FEW}temperature = 2.0\n'


@pytest.fixture
def home(tmp_path):
    write_images(tmp_path / "images", {"barn": 10, "pond": 12})
    write_method(tmp_path)
    (tmp_path / "few.toml").write_text(FEW)
    (tmp_path / "taught.toml").write_text(TAUGHT)
    return tmp_path


def planned(home, protocol, students=("convnet",), images="images", **words):
    request = Request(f"{home}/pick.py:Pick", f"folder:{home}/{images}", **{"ipcs": (2,), **words})
    data_paths = DataPaths(None, home / "shared", True)
    return planning.plan(request, planning.evaluation_setup(students, f"{home}/{protocol}", 1), data_paths)


def run(home, plan):
    return runner.run(plan, ExecutionSettings(home / "runs", DataPaths(None, home / "shared", True), "cpu", True))


def results(home):
    entries, problems = results_and_problems(home / "runs")
    assert problems == []
    return [entry.result for entry in entries]


def test_hard_labels_are_free_and_everything_is_recorded(home):
    assert run(home, planned(home, "few.toml")).failed == 0
    (found,) = results(home)
    assert (found.image_bytes, found.label_bytes) == (4 * 3 * 8 * 8, 0)
    assert (found.weights, found.teacher, found.init) == ("", "", "scratch")
    assert found.protocol.startswith("custom:few-")
    right = np.trace(found.confusion) / found.n_test
    assert found.overall == pytest.approx(right)
    for share in (found.macro_f1, found.calibration):
        assert 0 <= share <= 1
    assert -1 <= found.kappa <= 1
    assert found.memory_bytes > 1e7


def test_the_best_accuracy_on_test_images_is_stored_and_in_no_table(home, monkeypatch):
    """The student is at its best in the first of three tests; the result is that of the last step."""
    accuracies = iter((0.9, 0.3, 0.2))
    monkeypatch.setattr("ddbench.runner.evaluation.evaluate", lambda *args, **kwargs: replace(
        evaluate(*args, **kwargs), overall=next(accuracies, 0.5)))  # fmt: skip
    (home / "tested.toml").write_text(f"{FEW}tests = 3\n")
    run(home, planned(home, "tested.toml"))
    (path,) = (home / "runs").rglob("results/*/*.json")
    found = json.loads(path.read_text())
    assert (found["overall"], found["best_on_test"]) == (0.5, 0.9)
    entries, _ = results_and_problems(home / "runs")
    assert entries[0].result.best_on_test == 0.9
    for form in FORMATS:
        table = render.render(entries, form)
        assert "best_on_test" not in table
        assert "90.0" not in table
        assert "0.9," not in table
        assert "50.0" in table or "0.5" in table


def test_a_result_without_tests_during_training_has_no_best_accuracy(home):
    run(home, planned(home, "few.toml"))
    (path,) = (home / "runs").rglob("results/*/*.json")
    assert "best_on_test" not in json.loads(path.read_text())
    assert results(home)[0].best_on_test is None


def test_corruptions_are_measured_beside_the_result_and_only_when_asked_for(home):
    run(home, planned(home, "few.toml"))
    (path,) = (home / "runs").rglob("results/*/*.json")
    before = path.read_bytes()
    asked = replace(
        planned(home, "few.toml"),
        evaluation=planning.evaluation_setup(("convnet",), f"{home}/few.toml", 1, corruptions=True),
    )
    assert run(home, asked) == runner.TaskCounts(1, 0, 1)
    assert path.read_bytes() == before
    found = json.loads(corrupted_path(path).read_text())
    assert path.parent / f"corrupted-v{corruptions.VERSION}" == corrupted_path(path).parent
    assert found["clean"] == results(home)[0].overall  # the same student again
    assert found["overall"]["rotation"] == [found["clean"]] * 3  # its images are noise around a colour
    assert len(found["overall"]) == 7
    assert found["mean"] == pytest.approx(np.mean(list(found["overall"].values())))
    assert run(home, asked) == runner.TaskCounts(0, 0, 2)
    assert len(results(home)) == 1


def test_custom_protocols_of_one_name_do_not_meet(home):
    run(home, planned(home, "few.toml"))
    (home / "few.toml").write_text(FEW.replace("20", "21"))
    assert run(home, planned(home, "few.toml")).done == 1
    assert len({found.protocol for found in results(home)}) == 2


def test_a_teacher_is_trained_once_and_its_labels_are_kept(home):
    plan = planned(home, "taught.toml", seeds=(0, 1))
    assert run(home, plan).done == 4
    (stage,) = (home / "shared").glob("teacher-*")
    cost = json.loads((stage / "teacher.json").read_text())
    assert cost["seconds"] > 0
    assert cost["rss_bytes"] > 1e7
    assert (cost["device"], cost["versions"]) == (results(home)[0].device, results(home)[0].versions)
    for found in results(home):
        sha = hashlib.sha256((stage / "model.safetensors").read_bytes()).hexdigest()
        assert found.teacher == f"{stage.name}-{sha[:8]}"
        assert found.label_bytes == 4 * 2 * 4
    kept = [load_file(path)["soft_labels"] for path in (home / "runs").rglob("soft_labels/*.safetensors")]
    assert len(kept) == 2
    for soft in kept:  # the classes differ by their colour, and the teacher saw the real images
        assert soft.dtype == np.float32
        np.testing.assert_allclose(soft.sum(1), 1, atol=1e-5)
        assert soft.argmax(1).tolist() == [0, 0, 1, 1]
        assert soft.max() < 1


def test_statistics_of_the_training_split_reach_students_and_teachers(home, monkeypatch):
    built = []
    monkeypatch.setattr("ddbench.runner.evaluation.train_student", lambda *args, **kwargs: built.append(kwargs) or
                        train_student(*args, **kwargs))  # fmt: skip
    monkeypatch.setattr("ddbench.runner.teacher.train_student", lambda *args, **kwargs: built.append(kwargs) or
                        train_student(*args, **kwargs))  # fmt: skip
    row = protocol("dc-plain")
    short = replace(row, recipes={"convnet": replace(row.recipe("convnet"), epochs=2)})
    monkeypatch.setattr("ddbench.runner.teacher.protocol", lambda title: short)
    words = 'normalise = "data"\nprecision = "fp32"\n'
    (home / "data.toml").write_text(f'teacher = ["convnet", "dc-plain@1"]\n{FEW}{words}')
    plan = planned(home, "data.toml")
    assert run(home, plan).failed == 0
    (found,) = results(home)
    assert found.precision == "fp32"
    train = plan.source.load(DataPaths(None, home / "shared", True), 8).train
    expected = normalisation_of(train.images, "data").record()
    assert [kwargs["normalisation"].record() for kwargs in built] == [expected, expected]
    kept = [load_file(path)["soft_labels"] for path in (home / "runs").rglob("soft_labels/*.safetensors")]
    assert len(kept) == 1
    teacher = get_teacher(("convnet", "dc-plain@1"), train, train_id(plan.specs[0], plan.source.load(
        DataPaths(None, home / "shared", True), 8)), home / "shared", torch.device("cpu"), None)  # fmt: skip
    assert network(teacher, 8).std.flatten().tolist() == expected["std"]


def test_a_stopped_teacher_continues_to_the_same_weights(tmp_path, monkeypatch):
    images = torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    train = ImageSet(images, torch.arange(8) % 2, ("barn", "pond"), ("barn", "pond"))
    recipe = replace(QUICK_1.recipe("convnet"), min_steps=40, max_steps=40)
    teachers_protocol, save = replace(QUICK_1, recipes={"convnet": recipe}), Checkpoint.save
    monkeypatch.setattr("ddbench.runner.teacher.protocol", lambda title: teachers_protocol)
    monkeypatch.setattr(Checkpoint, "beside", lambda stage: Checkpoint(stage.with_name(f"{stage.name}.x"), every=0.0))

    def save_and_stop(self, tensors, progress):
        save(self, tensors, progress)
        raise KeyboardInterrupt

    def weights(name):
        steps.clear()
        shared, device = tmp_path / name, torch.device("cpu")
        teacher = get_teacher(
            ("convnet", "quick@1"), train, "id", shared, device, lambda work, *_: steps.append(len(work)) or work
        )
        return load_file(teacher.folder / "model.safetensors")

    steps = []
    whole = weights("whole")
    monkeypatch.setattr(Checkpoint, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        weights("stopped")
    monkeypatch.setattr(Checkpoint, "save", save)
    continued = weights("stopped")
    assert steps == [20]  # of 40
    assert all(np.array_equal(tensor, continued[name]) for name, tensor in whole.items())
    assert not list((tmp_path / "stopped").glob(".*.x"))


def test_a_teachers_labels_are_what_is_trained_on(home):
    """Turned around on disk, they turn the student around."""
    plan = planned(home, "taught.toml")
    run(home, plan)
    (before,) = results(home)
    assert before.overall > 0.9
    (path,) = (home / "runs").rglob("soft_labels/*.safetensors")
    save_file({"soft_labels": np.ascontiguousarray(load_file(path)["soft_labels"][:, ::-1])}, path)
    shutil.rmtree(plan.specs[0].folder(home / "runs") / "results")
    run(home, plan)
    (after,) = results(home)
    assert after.overall < 0.1


@pytest.mark.slow
def test_a_set_made_anew_gets_labels_of_its_own_and_shares_no_cell(home):
    run(home, planned(home, "taught.toml"))
    folder = planned(home, "taught.toml").specs[0].folder(home / "runs")
    write_anew(folder, lambda images: images[::-1].copy())
    entries, problems = results_and_problems(home / "runs")
    assert entries == []
    assert ["it belongs to other images than the run has now" in problem.reason for problem in problems] == [True]
    jury = planning.evaluation_setup(("convnet",), f"{home}/taught.toml", 2, corruptions=True)
    assert run(home, replace(planned(home, "taught.toml"), evaluation=jury)).done == 2
    one, other = (load_file(path)["soft_labels"] for path in folder.glob("soft_labels/*"))
    np.testing.assert_allclose(one, other[::-1], atol=1e-6)
    entries, problems = results_and_problems(home / "runs")
    assert [(entry.result.seed, entry.result.content) for entry in entries] == [
        (s, records.distilled_digest(folder)) for s in (0, 1)
    ]
    assert problems == []
    corrupted = [json.loads(path.read_text()) for path in folder.glob("results/*/corrupted-v1/*")]
    assert {one["content"] for one in corrupted} == {records.distilled_digest(folder)}
    assert run(home, replace(planned(home, "taught.toml"), evaluation=jury)) == runner.TaskCounts(0, 0, 3)


@pytest.mark.parametrize("own", [False, True])
def test_labels_of_views_are_the_teachers_whatever_the_set_has(home, own):
    """A set's own labels, upside down, are not used; bytes are those of every view in half precision."""
    (home / "views.toml").write_text(f'labels = "views"\n{TAUGHT}')
    (home / "soft.py").write_text(SOFT)
    name = "soft.py:Soft" if own else "pick.py:Pick"
    request = Request(f"{home}/{name}", f"folder:{home}/images", (2,))
    setup = planning.evaluation_setup(("convnet",), f"{home}/views.toml", 1)
    assert run(home, planning.plan(request, setup, DataPaths(None, home / "shared", True))).failed == 0
    (found,) = results(home)
    assert found.overall > 0.9
    assert found.teacher.startswith("teacher-")
    assert found.label_bytes == 20 * 8 * 2 * 2  # steps, batch, classes, half precision
    assert not list((home / "runs").rglob("soft_labels/*"))


@pytest.mark.slow
def test_each_dataset_has_a_teacher_of_its_own(home):
    write_images(home / "others", {"barn": 10, "pond": 9})
    for name in ("images", "others"):
        run(home, planned(home, "taught.toml", images=name))
    assert len(list((home / "shared").glob("teacher-*"))) == 2


SOFT = """
from dataclasses import dataclass
from typing import ClassVar
import torch
from ddbench.types import DistilledSet

@dataclass(frozen=True)
class Soft:
    name: ClassVar[str] = "soft"
    version: ClassVar[int] = 1
    sure: float = 0.9
    def distill(self, train, ipc, ctx):
        index = torch.cat([train.of_class(label)[:ipc] for label in range(2)])
        soft = torch.full((2 * ipc, 2), 1 - self.sure)
        soft[torch.arange(2 * ipc), 1 - train.labels[index]] = self.sure
        return DistilledSet(train.images[index], train.labels[index], train.classes, train.readable, soft_labels=soft)
"""


@pytest.mark.parametrize("protocol", ["few.toml", "taught.toml"])
def test_a_sets_own_soft_labels_are_kept_whatever_the_protocol(home, protocol):
    """This method's labels are upside down, so that it shows which ones were learnt."""
    (home / "soft.py").write_text(SOFT)
    request = Request(f"{home}/soft.py:Soft", f"folder:{home}/images", (2,))
    jury = planning.evaluation_setup(("convnet",), f"{home}/{protocol}", 1)
    assert run(home, planning.plan(request, jury, DataPaths(None, home / "shared", True))).failed == 0
    (found,) = results(home)
    assert found.overall < 0.1
    assert (found.teacher, found.label_bytes) == ("", 4 * 2 * 4)
    assert not list((home / "shared").glob("teacher-*"))


LEARNED = """
from dataclasses import dataclass
from typing import ClassVar
import torch
from ddbench.types import DistilledSet
from evaluators.normalisation import Whitening

@dataclass(frozen=True)
class Learned:
    name: ClassVar[str] = "learned"
    version: ClassVar[int] = 1
    rate: float = 0.01
    def distill(self, train, ipc, ctx):
        index = torch.cat([train.of_class(label)[:ipc] for label in range(2)])
        images, labels = train.images[index], train.labels[index]
        floats = images.float() / 255 + 0.001  # another content than that of the view
        zca = Whitening.fit(train.images)
        return DistilledSet(images, labels, train.classes, train.readable, float_images=floats,
                            learning_rate=self.rate or None, whitening=zca, weights=torch.arange(1.0, 5.0))
"""


def learned(home, protocol, text, *sets):
    (home / "learned.py").write_text(LEARNED)
    (home / protocol).write_text(text)
    request = Request(f"{home}/learned.py:Learned", f"folder:{home}/images", (2,), sets=sets)
    jury = planning.evaluation_setup(("convnet",), f"{home}/{protocol}", 1)
    return planning.plan(request, jury, DataPaths(None, home / "shared", True))


def test_what_else_a_set_has_reaches_the_student(home, monkeypatch):
    seen = {}
    monkeypatch.setattr("ddbench.runner.evaluation.train_student", lambda images, *args, **kwargs: seen.update(
        kwargs, images=images) or train_student(images, *args, **kwargs))  # fmt: skip
    text = FEW + 'learned_rate = true\nnormalise = "zca"\n'
    plan = learned(home, "mine.toml", "float_images = true\nimage_weights = true\n" + text)
    assert run(home, plan).failed == 0
    (found,) = results(home)
    assert seen["images"].dtype == torch.float32
    assert seen["protocol"].recipe("convnet").lr == 0.01
    train = plan.source.load(DataPaths(None, home / "shared", True), 8).train
    assert torch.equal(seen["normalisation"].matrix, Whitening.fit(train.images).matrix)
    assert seen["weights"].tolist() == [1, 2, 3, 4]
    assert found.image_bytes == 4 * (4 * 192 + 192 + 192 * 192)
    assert found.label_bytes == 4 * 4
    assert found.protocol_hash == plan.evaluation.protocol.identity("convnet")


def test_a_given_folder_keeps_them(home):
    text = "float_images = true\nimage_weights = true\n" + FEW + 'learned_rate = true\nnormalise = "zca"\n'
    plan = learned(home, "mine.toml", text)
    run(home, plan)
    folder = plan.specs[0].folder(home / "runs") / "distilled"
    data_paths = DataPaths(None, home / "shared", True)
    given = plan_external(folder, plan.source, None, plan.evaluation, data_paths)
    assert run(home, given).failed == 0
    one, other = results(home)
    assert (one.content, one.confusion, one.image_bytes) == (other.content, other.confusion, other.image_bytes)
    for name, array, said in (
        ("float_images", {"float_images": np.zeros((3, 3, 8, 8), np.float32)}, r"float images are \(3, 3, 8, 8\), not"),
        ("weights", {"weights": np.zeros(3, np.float32)}, r"weights are \(3,\), not \(4,\)"),
        ("weights", {"weights": np.zeros(4, np.float32)}, "weights must be finite, at least 0, and not all 0"),
        ("whitening", {"mean": np.zeros((3, 8, 8), np.float32)}, "has mean and matrix, not mean"),
        ("soft_labels", {"other": np.zeros(3, np.float32)}, r"soft_labels\.safetensors has no soft labels, but other"),
    ):
        copy = shutil.copytree(folder, home / f"copy of {name}", dirs_exist_ok=True)
        save_file(array, copy / f"{name}.safetensors")
        with pytest.raises(UserError, match=said):
            plan_external(copy, plan.source, None, plan.evaluation, data_paths)


def test_other_protocols_do_not_take_them(home):
    assert run(home, learned(home, "few.toml", FEW)).failed == 0
    (found,) = results(home)
    assert (found.image_bytes, found.label_bytes) == (4 * 192, 0)


def test_a_set_without_a_learned_rate_is_named(home):
    assert run(home, learned(home, "mine.toml", FEW + "learned_rate = true\n", "rate=0")).failed == 1
    (path,) = (home / "runs").rglob("results/*/*failed.json")
    assert "trains at the learning rate that a distilled set carries, and this set has none" in path.read_text()


def test_a_protocol_that_whitens_fits_sets_without_a_matrix(home, monkeypatch):
    (home / "white.toml").write_text(FEW + 'normalise = "zca"\n')
    fits = []
    monkeypatch.setattr("ddbench.runner.evaluation.normalisation_of",
                        lambda *args: fits.append(args) or normalisation_of(*args))  # fmt: skip
    plan = planned(home, "white.toml", seeds=(0, 1))
    assert run(home, plan).failed == 0
    assert [kind for _, kind in fits] == ["zca"]  # once for both runs
    assert {found.image_bytes for found in results(home)} == {4 * 192}


def test_hard_labels_are_hard(home):
    (home / "soft.py").write_text(SOFT)
    (home / "hard.toml").write_text(f'labels = "hard"\n{FEW}')
    request = Request(f"{home}/soft.py:Soft", f"folder:{home}/images", (2,))
    jury = planning.evaluation_setup(("convnet",), f"{home}/hard.toml", 1)
    run(home, planning.plan(request, jury, DataPaths(None, home / "shared", True)))
    (found,) = results(home)
    assert found.overall > 0.9
    assert found.label_bytes == 0


def test_a_teacher_that_diverges_is_not_the_students_divergence(home, monkeypatch):
    (home / "taught.toml").write_text(f'teacher = ["convnet", "quick@1"]\n{FEW}')
    wild = replace(QUICK_1, recipes={"convnet": replace(QUICK_1.recipe("convnet"), lr=1e30, max_steps=400)})
    monkeypatch.setattr("ddbench.runner.teacher.protocol", lambda _: wild)
    assert run(home, planned(home, "taught.toml")).failed == 1
    (path,) = (home / "runs").rglob("results/*/*failed.json")
    said = json.loads(path.read_text())
    assert said["status"] == "failed"
    assert "the teacher (convnet by quick@1) cannot be trained: training diverged" in said["error"]


def test_soft_labels_that_are_no_probabilities_are_refused(home):
    (home / "soft.py").write_text(SOFT)
    request = Request(f"{home}/soft.py:Soft", f"folder:{home}/images", (2,), sets=("sure=1.5",))
    plan = planning.plan(
        request, planning.evaluation_setup(("convnet",), f"{home}/few.toml", 1), DataPaths(None, home / "shared", True)
    )
    assert run(home, plan).failed == 1
    assert (
        "soft labels of image 0 (of barn) are not probabilities"
        in failures.read_failure(plan.specs[0].folder(home / "runs")).error
    )


def test_a_class_without_test_images_is_said_before_any_work(home, monkeypatch):
    plan = planned(home, "few.toml")
    data = plan.source.load(DataPaths(None, home / "shared", True), 8)
    lacking = replace(data.test, images=data.test.images[:1], labels=data.test.labels[:1])
    monkeypatch.setattr(type(plan.source), "load", lambda *_: replace(data, test=lacking))
    monkeypatch.setattr("ddbench.runner.distillation.distill", None)
    assert run(home, plan).failed == 1
    assert "too few in: pond 0" in failures.read_failure(plan.specs[0].folder(home / "runs")).error


def test_missing_imagenet_weights_are_said_before_the_distillation(home, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(home / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    (home / "pre.toml").write_text('like = "dpd@1"\n')
    plan = planned(home, "pre.toml", ("resnet18",), size=40)
    with pytest.raises(UserError, match=r"starts from ImageNet weights: cannot download https://.*resnet18-f37072fd"):
        run(home, plan)
    assert not (home / "runs").exists()


def no_network(url, *_, **__):
    raise OSError("no route to host")


def test_a_teacher_that_cannot_be_had_is_said_before_the_distillation(home, monkeypatch):
    (home / "small.toml").write_text(f'teacher = ["inception_v3", "dpd-scratch@1"]\n{FEW}')
    with pytest.raises(UserError, match="inception_v3 needs at least 107 px, not 8"):
        planned(home, "small.toml")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(home / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    (home / "pre.toml").write_text(f'teacher = ["resnet18", "dpd@1"]\n{FEW}')
    with pytest.raises(UserError, match=r"dpd@1 starts from ImageNet weights: cannot download"):
        run(home, planned(home, "pre.toml", size=40))
    assert not (home / "runs").exists()


def test_a_student_that_a_protocol_has_no_row_for_is_named():
    with pytest.raises(UserError, match=r"student of protocol dc@1 'resnet18'.*convnet"):
        planning.evaluation_setup(("resnet18",), "dc@1", 1)


def test_a_student_without_imagenet_weights_is_named(home):
    (home / "pre.toml").write_text(f'init = "imagenet"\n{FEW}')
    with pytest.raises(UserError, match="no ImageNet weights for convnet; it has them for resnet18"):
        run(home, planned(home, "pre.toml"))
