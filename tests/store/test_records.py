"""Identity, files and reading them back."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from third_party import results_and_problems

from ddbench.store import distilled_set, failures, paths, reader, records
from ddbench.store.distilled_set import Pictures
from ddbench.store.failures import Failure
from ddbench.store.records import Result, RunSpec
from ddbench.utils import files
from evaluators.protocols import protocol

SPEC = RunSpec("mine", 1, None, {"a": 1, "b": [1, 2]}, "scenes", "by index", "f" * 64, 32, 2, 0)
CHANGES = {
    "method": "other",
    "method_version": 2,
    "params": {"a": 2, "b": [1, 2]},
    "dataset": "ucm",
    "split": "another",
    "fingerprint": "e" * 64,
    "size": 64,
    "ipc": 3,
    "seed": 1,
    "source": "d" * 64,
    "identity": "f" * 16,
}


def result(spec=SPEC, **changes):
    base = Result(
        run=spec.digest,
        content="c" * 64,
        student="convnet",
        init="scratch",
        seed=0,
        protocol="quick",
        protocol_version=1,
        protocol_hash="h" * 64,
        overall=0.625,
        average=0.5,
        per_class={"x": 0.5},
        confusion=[[1]],
        n_test=8,
        seconds=1.5,
        memory_bytes=10,
        device="cpu",
        versions={"python": "3.11"},
        commit=None,
        dirty=None,
    )
    return dataclasses.replace(base, **changes)


def write(root: Path, spec=SPEC, **changes) -> Path:
    """A run folder with one result; the path of the result."""
    folder = spec.folder(root)
    records.write_spec(folder, spec)
    path = folder / "results" / "quick-v1" / f"convnet-scratch-seed{changes.get('seed', 0)}.json"
    records.write_result(path, result(spec, **changes))
    return path


def test_results_of_an_older_evaluator_keep_their_place_and_are_still_read(tmp_path, monkeypatch):
    old, row = write(tmp_path, versions={"evaluators": "1"}), protocol("quick@1")
    folders = []
    for version in (1, 2, 3):
        monkeypatch.setattr(paths, "VERSION", version)
        path = paths.result_path(SPEC.folder(tmp_path), row, "convnet", 0)
        folders.append(path.parent.name)
        if version > 1:
            records.write_result(path, result(overall=0.75, versions={"evaluators": str(version)}))
    assert folders == ["quick-v1", "quick-v1-judge2", "quick-v1-judge3"]
    found, problems = results_and_problems(tmp_path)
    assert problems == []
    overall = {one.result.versions["evaluators"]: one.result.overall for one in found}
    assert overall == {"1": 0.625, "2": 0.75, "3": 0.75}
    assert old.exists()


def test_every_field_but_the_presets_name_is_identity():
    assert set(CHANGES) | {"preset"} == set(RunSpec.__dataclass_fields__)
    digests = {dataclasses.replace(SPEC, **{name: value}).digest for name, value in CHANGES.items()}
    assert len(digests | {SPEC.digest}) == len(CHANGES) + 1
    assert dataclasses.replace(SPEC, preset="tiny").digest == SPEC.digest


def test_the_digest_is_sha256_of_canonical_json():
    fields = {name: getattr(SPEC, name) for name in sorted(CHANGES)}
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    assert SPEC.digest == hashlib.sha256(text.encode()).hexdigest()


def test_where_a_run_lies():
    assert SPEC.folder(Path("runs")) == Path(f"runs/scenes32/mine/ipc2/seed0-{SPEC.digest[:8]}")
    odd = dataclasses.replace(SPEC, dataset="folder:my images", method="folder:../x/y z")
    assert odd.folder(Path("r")).parts[1:3] == ("folder-my-images32", "folder-x-y-z")


def test_what_is_written_is_read_back(tmp_path):
    path = write(tmp_path)
    entries, problems = results_and_problems(tmp_path)
    assert problems == []
    assert entries == [records.StoredResult(SPEC, result(), path)]
    assert json.loads(path.read_text())["schema"] == 1


def test_a_missing_runs_folder_holds_nothing(tmp_path):
    assert results_and_problems(tmp_path / "none") == ([], [])
    assert not (tmp_path / "none").exists()


GONE = "gone"


def edited(**changes):
    """An edit of a JSON file that sets keys, or removes them for GONE."""

    def edit(path):
        value = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({key: item for key, item in value.items() if item != GONE}))

    return edit


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda path: path.write_text(path.read_text()[:-20]), "not readable JSON"),
        (lambda path: path.write_text(""), "not readable JSON"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00"), "not readable JSON"),
        (lambda path: path.write_text(100_000 * "[" + 100_000 * "]"), "not readable JSON (maximum recursion depth"),
        (lambda path: path.write_text("[1, 2]"), "is not a file of ddbench"),
        (lambda path: path.write_text('{"accuracy": 0.9}'), "is not a file of ddbench"),
        (edited(schema=2, surprise=1), "written by a newer ddbench (schema 2"),
        (edited(schema=GONE), "is not a file of ddbench"),
        (edited(overall=GONE), "missing required field `overall`"),
        (edited(extra=1), "unknown: ['extra']"),
        (edited(overall="0.9"), "overall is '0.9': Expected `float`, got `str`"),
        (edited(overall=True), "overall is True: Expected `float`, got `bool`"),
        (edited(overall=62.5), "overall is 62.5: Expected `float` <= 1.0"),
        (edited(per_class={"x": 1.5}), "per_class[...]: Expected `float` <= 1.0"),
        (edited(confusion=[[0.5]]), "confusion[0][0]: Expected `int`, got `float`"),
        (edited(n_test=-1), "n_test is -1: Expected `int` >= 0"),
        (edited(memory_bytes=10**400), "memory_bytes is 1000"),
        (edited(confusion=[[1, 2]]), "confusion is not square"),
        (edited(versions={"python": 3}), "versions[...]: Expected `str`, got `int`"),
        (edited(average=float("nan")), "average is nan"),
        (edited(run="0" * 64), "belongs to another run"),
    ],
)
def test_a_result_that_cannot_be_used_is_named_and_costs_no_other(tmp_path, edit, reason):
    good, bad = write(tmp_path), write(tmp_path, seed=1)
    edit(bad)
    entries, problems = results_and_problems(tmp_path)
    assert [entry.path for entry in entries] == [good]
    assert [problem.path for problem in problems] == [bad]
    assert reason in problems[0].reason


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (edited(seed=5), "the spec was edited"),
        (edited(schema=9), "newer ddbench"),
        (lambda path: path.write_text("{"), "not readable JSON"),
        (Path.unlink, "No such file"),
    ],
)
def test_without_its_spec_a_run_is_not_used(tmp_path, edit, reason):
    write(tmp_path)
    other = write(tmp_path, dataclasses.replace(SPEC, seed=1))
    edit(SPEC.folder(tmp_path) / "spec.json")
    entries, problems = results_and_problems(tmp_path)
    assert [entry.path for entry in entries] == [other]
    assert [(problem.path.name, reason in problem.reason) for problem in problems] == [("spec.json", True)]


def test_half_written_files_and_failures_are_no_results(tmp_path):
    path = write(tmp_path)
    path.with_name(f".{path.name}.123.tmp").write_text("{")
    failures.write_failure(path.with_name("convnet-scratch-seed1.json"), Failure("oom", "e", "t"))
    failures.write_failure(path.parents[2], Failure("failed", "e", "t"))
    entries, problems = results_and_problems(tmp_path)
    assert (len(entries), problems) == (1, [])
    assert [(failed.path.name, failed.reason) for failed in reader.read_runs(tmp_path).failed] == [
        ("failed.json", "failed, in no mean: e"),
        ("convnet-scratch-seed1.failed.json", "oom, in no mean: e"),
    ]


def test_results_of_other_images_than_there_are_now_are_not_used(tmp_path):
    path = write(tmp_path)
    manifest = path.parents[2] / "distilled" / "manifest.json"
    for content, used in (("c" * 64, [path]), ("d" * 64, [])):
        files.write_json(manifest, {"content": content})
        entries, problems = results_and_problems(tmp_path)
        assert [entry.path for entry in entries] == used
        assert records.missing_or_outdated(path, path.parents[2]) == (not used)
        assert ["run its command again" in problem.reason for problem in problems] == [True] * (not used)


def test_a_result_ends_its_failure(tmp_path):
    path = tmp_path / "run" / "results" / "quick-v1" / "convnet-scratch-seed0.json"
    failure = Failure("diverged", "the loss is not finite", "trace")
    failures.write_failure(path, failure)
    assert failures.read_failure(path) == failure
    records.write_result(path, result())
    assert failures.read_failure(path) is None
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def pictures(soft=False, order=(0, 1, 2, 3, 4)):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)[list(order)]
    labels = np.array([0, 0, 1, 1, 1])[list(order)]
    scores = rng.random((5, 2), dtype=np.float32)[list(order)] if soft else None
    return Pictures(images, labels, ("barn", "pond"), scores, {"step": 0.5})


@pytest.mark.parametrize("soft", [False, True])
def test_a_distilled_set_comes_back_as_it_was(tmp_path, soft):
    distilled_set.write(tmp_path, pictures(soft))
    back = distilled_set.read(tmp_path)
    assert np.array_equal(back.images, pictures().images)
    assert np.array_equal(back.labels, pictures().labels)
    assert (back.soft is not None) == soft
    assert not soft or np.array_equal(back.soft, pictures(True).soft)
    assert (back.classes, dict(back.extras)) == (("barn", "pond"), {"step": 0.5})
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*"))
    plain = ["barn/000.png", "barn/001.png", "manifest.json", "pond/000.png", "pond/001.png", "pond/002.png"]
    assert files == plain + ["soft_labels.safetensors"] * soft


def with_more(order=(0, 1, 2, 3, 4)):
    """Pictures with float images, a learned rate and a whitening."""
    rng = np.random.default_rng(1)
    floats = (rng.random((5, 3, 8, 8), dtype=np.float32) * 1.5 - 0.2)[list(order)]
    whitening = {"mean": rng.random((3, 8, 8), dtype=np.float32), "matrix": rng.random((192, 192), dtype=np.float32)}
    more = {"learning_rate": 0.02, "whitening": whitening, "weights": rng.random(5, dtype=np.float32)[list(order)]}
    return dataclasses.replace(pictures(order=order), floats=floats, **more)


def test_float_images_a_rate_and_a_whitening_come_back(tmp_path):
    distilled_set.write(tmp_path, with_more(order=(2, 0, 3, 1, 4)))
    back, expected = distilled_set.read(tmp_path), with_more()
    assert np.array_equal(back.floats, expected.floats)
    assert np.array_equal(back.weights, expected.weights)
    assert back.learning_rate == 0.02
    assert all(np.array_equal(back.whitening[name], part) for name, part in expected.whitening.items())
    assert back.content() == expected.content()
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["bytes"] == 5 * 8 * 8 * 3 * (1 + 4) + 4 * (192 + 192 * 192 + 5)
    assert (manifest["float_images"], manifest["whitening"], manifest["learning_rate"]) == (True, True, 0.02)
    assert manifest["weights"]
    others = dataclasses.replace(expected, weights=expected.weights[::-1])
    assert others.content() != expected.content()
    (tmp_path / "float_images.safetensors").unlink()
    with pytest.raises(ValueError, match="was changed"):
        distilled_set.read(tmp_path)


def test_a_manifest_that_is_older_than_float_images_is_read(tmp_path):
    distilled_set.write(tmp_path, pictures())
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    for name in ("float_images", "weights", "whitening", "learning_rate"):
        del manifest[name]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    back = distilled_set.read(tmp_path)
    assert (back.floats, back.learning_rate, back.whitening, back.weights) == (None, None, {}, None)


def test_the_manifest_counts_what_is_stored(tmp_path):
    distilled_set.write(tmp_path, pictures(soft=True))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["bytes"] == 5 * 8 * 8 * 3 + 5 * 2 * 4
    assert manifest["png_bytes"] == sum(path.stat().st_size for path in tmp_path.rglob("*.png"))
    assert (manifest["range"], manifest["labels"], manifest["images"]) == ([0, 255], "soft", 5)
    assert manifest["content"] == pictures(soft=True).content()


def test_images_are_stored_class_by_class_with_their_own_soft_labels(tmp_path):
    distilled_set.write(tmp_path, pictures(True, order=(2, 0, 3, 1, 4)))
    assert distilled_set.read(tmp_path).content() == pictures(True).content()


def test_the_files_of_one_set_are_the_same_byte_by_byte(tmp_path):
    """Metadata of safetensors, too: the library alone orders them at random."""
    files = set()
    for number in range(12):
        (folder := tmp_path / str(number)).mkdir()
        distilled_set.write(folder, pictures(soft=True))
        files.add((folder / "soft_labels.safetensors").read_bytes())
    assert len(files) == 1


def test_content_changes_with_pixels_labels_and_soft_labels():
    brighter = pictures().images.copy()
    brighter[0, 0, 0, 0] ^= 1
    others = [
        dataclasses.replace(pictures(), images=brighter),
        dataclasses.replace(pictures(), labels=np.array([0, 0, 0, 1, 1])),
        dataclasses.replace(pictures(), classes=("barn", "lake")),
        pictures(soft=True),
        dataclasses.replace(pictures(), floats=with_more().floats),
        dataclasses.replace(pictures(), learning_rate=0.02),
        dataclasses.replace(pictures(), whitening=with_more().whitening),
    ]
    assert len({other.content() for other in [pictures(), *others]}) == 8


@pytest.mark.parametrize("name", ["pond/002.png", "barn/000.png"])
def test_a_changed_folder_is_not_taken_for_the_one_that_was_made(tmp_path, name):
    distilled_set.write(tmp_path, pictures())
    (tmp_path / name).write_bytes((tmp_path / "pond/000.png").read_bytes())
    with pytest.raises(ValueError, match="was changed: its images differ from"):
        distilled_set.read(tmp_path)


def test_a_damaged_image_is_named(tmp_path):
    distilled_set.write(tmp_path, pictures())
    (tmp_path / "pond/001.png").write_bytes((tmp_path / "pond/001.png").read_bytes()[:40])
    with pytest.raises(ValueError, match=r"pond/001\.png is not a readable image"):
        distilled_set.read(tmp_path)


def test_a_copy_of_a_result_is_named_and_counts_once(tmp_path):
    path = write(tmp_path)
    shutil.copy(path, path.with_name("convnet-scratch-seed0 (copy).json"))
    shutil.copytree(tmp_path / "scenes32", tmp_path / "scenes32.bak")
    entries, problems = results_and_problems(tmp_path)
    assert [entry.path for entry in entries] == [path]
    reasons = [problem.reason for problem in problems]
    assert reasons.count("its name is not that of its student and seed: a copy?") == 2
    assert [reason for reason in reasons if "the same result is in" in reason] == [f"the same result is in {path}"]


@pytest.mark.parametrize("details", [True, False])
def test_a_result_without_its_optional_fields_is_read(details):
    value = dataclasses.asdict(result())
    optional = [f.name for f in dataclasses.fields(records.Result) if f.default is not dataclasses.MISSING]
    old = {name: part for name, part in value.items() if name not in optional or name == "schema"}
    read = records.parse_result(old, details)
    assert (read.weights, read.teacher, read.kappa, read.precision) == ("", "", None, "")
    assert read.overall == value["overall"]
