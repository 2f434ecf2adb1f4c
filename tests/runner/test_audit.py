"""`ddbench audit`: known answers on small runs; controls; what is kept, refused, printed and on the page."""

import json
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
from PIL import Image
from third_party import run_command, write_anew, write_images

import ddbench
from ddbench.leaderboard.extra_values import audit_values
from ddbench.report.audits import audit_findings, audit_lines
from ddbench.report.page import page
from ddbench.runner.audit import used_images
from ddbench.store import distilled_set
from ddbench.store.audits import MEMBERSHIP, RANDOM_IMAGES, TEST_IMAGES, USE, Control, read_audits
from ddbench.store.class_folders import read_image
from ddbench.store.merge import merge
from ddbench.store.reader import read_runs
from ddbench.store.records import distilled_digest, read_spec, write_spec
from ddbench.utils.bases import known_bases
from evaluators.audit import detectable_auc

FEW = 'like = "quick@1"\n[recipes.convnet]\nmin_steps = 2\nmax_steps = 2\n'


def places(home):
    return {"quiet": True, "device": "cpu", "runs": home / "runs", "shared": home / "shared"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A dataset of two classes of noise, and an audited run of `random` on it with a student."""
    home = tmp_path_factory.mktemp("home")
    write_images(home / "images", {"barn": 60, "pond": 50})
    (home / "few.toml").write_text(FEW)
    ddbench.run("random", dataset=f"folder:{home}/images", ipc=3, protocol=home / "few.toml", **places(home))
    audit(home, run_of(home))
    return home


@pytest.fixture
def copy(home, tmp_path):
    """The same, to change."""
    return shutil.copytree(home, tmp_path / "home")


@pytest.fixture
def result(home):
    return audit(home, run_of(home))


def audit(home, folder):
    (result,) = ddbench.audit(folder, dataset=f"folder:{home}/images", features="pixels", **places(home))
    return result


def run_of(home, method="random"):
    (spec,) = (home / "runs").glob(f"folder-images8/{method}/*/*/spec.json")
    return spec.parent


def command(home, *words, status=0):
    options = ["--runs", home / "runs", "--shared", home / "shared", "--device", "cpu", "-q"]
    return run_command(*options, *words, status=status)


def present(folder):
    """The audits of the set that a run has now."""
    return read_audits(folder, distilled_digest(folder))


def lines_of(home, result):
    return {line[0]: line[1:] for line in audit_lines(run_of(home), result)}


def test_a_set_of_training_images_gives_them_all_away(home, result):
    use, membership = result.use, result.membership
    assert (use.auc, use.tpr, use.members, use.others) == (1, 1, 6, 82)
    assert result.succeeds(USE)
    expected = 0.5 + 6 / (2 * membership.members)  # the six of the set, and no other
    assert membership.auc == pytest.approx(expected, abs=0.15)
    assert result.named == {"files": 6}
    assert result.distances.authentic == 0
    assert result.distances.similarity == pytest.approx(1, abs=1e-5)
    controls = {(control.name, control.attack): control for control in result.controls}
    assert controls[RANDOM_IMAGES, USE].auc == 1
    assert controls[RANDOM_IMAGES, MEMBERSHIP].expected == pytest.approx(expected)
    assert controls[TEST_IMAGES, MEMBERSHIP].expected == 0.5
    assert not any(control.failed for control in result.controls)


def test_the_closest_pairs_are_images_of_the_set_and_of_the_dataset(home, result):
    data = ddbench.load_dataset(f"folder:{home}/images", size=8, shared=home / "shared", quiet=True)
    assert sorted(pair.distilled.split("/")[0] for pair in result.pairs) == ["barn", "pond"]
    for pair in result.pairs:
        assert pair.to_train == pytest.approx(1, abs=1e-5)
        distilled = read_image(run_of(home) / "distilled" / pair.distilled)
        real = data.train.images[data.train.names.index(pair.train)].permute(1, 2, 0).numpy()
        assert np.array_equal(distilled, real)
        assert pair.test in data.test.names
    (sheet,) = run_of(home).glob("audit/*.png")
    assert read_image(sheet).shape[1] > 3 * 128


def test_an_independent_set_gives_nothing_away(copy):
    """Noise of the same kind, drawn anew."""
    write_images(copy / "new", {"barn": 3, "pond": 3}, seed=7)
    result = audit(copy, copy / "new")
    assert result.use is None  # a folder names no image
    assert result.membership.auc_low < 0.5 < result.membership.auc_high
    lines = lines_of(copy, result)
    assert lines["use of an image"] == ("-", "", "the set names no image that it used")
    assert lines["membership: AUC"][2].startswith("the attack failed; it finds an AUC of 0.")


def test_copies_across_the_split_are_left_out(tmp_path):
    """Twenty images of a class are on both sides, twelve others on each."""
    images = write_images(tmp_path / "images", {"barn": 20, "pond": 20})
    numbers = np.random.default_rng(3)
    for side, start in (("train", 100), ("test", 200)):
        shutil.copytree(images, tmp_path / "twice" / side)
        for name in ("barn", "pond"):
            for index in range(start, start + 12):
                pixels = numbers.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "twice" / side / name / f"{index}.png")
    dataset = f"folder:{tmp_path}/twice"
    run = ddbench.run("random", dataset=dataset, ipc=2, students=(), **places(tmp_path))
    (result,) = ddbench.audit(run, dataset=dataset, features="pixels", **places(tmp_path))
    assert (result.copies.exact, result.copies.train, result.copies.test) == (40, 40, 40)
    assert (result.membership.members, result.membership.others) == (24, 24)
    assert (result.use.auc, result.use.members + result.use.others) == (1, 64)  # copies do not matter there


def test_a_failed_control_takes_the_finding_away(home, result):
    wrong = Control(TEST_IMAGES, MEMBERSHIP, 0.7, 0.5, 0.1)
    failed = replace(result, controls=(*result.controls, wrong))
    assert (failed.finding(MEMBERSHIP), failed.finding(USE)) == (None, result.use)
    lines = lines_of(home, failed)
    assert lines["membership"] == ("-", "", "no finding: the control failed: test images (membership)")
    assert not [name for name in lines if name.startswith(("membership:", "ratio"))]
    assert audit_values([(failed,)]) == {"audit_by": "pixels", "use_auc": 1, "use_tpr": 1}

    broken = replace(result, controls=(Control(RANDOM_IMAGES, USE, 0.6, 1.0, 0.01),))
    lines = lines_of(home, broken)
    control = f"control: {RANDOM_IMAGES}, use of an image"
    plain = "control: diffusion"
    assert list(lines) == ["use of an image", "membership", "pairs of copies across the split", plain, control]
    assert lines[plain] == ("-", "", "not made: --runs has no other run of it at this IPC")
    assert lines[control] == ("0.600", "", "FAILED: must be 1.000 ± 0.010")
    assert audit_values([(broken,)]) == {"audit_by": "pixels"}


def test_typical_images_are_not_given_away(result):
    """An AUC above a half is no success if the same attack on test images, which were not used, reaches as much."""
    typical = replace(result.use, auc=0.7, auc_low=0.6, auc_high=0.8)
    baseline = Control(TEST_IMAGES, USE, 0.68)
    assert not replace(result, use=typical, controls=(baseline,)).succeeds(USE)
    assert replace(result, use=typical, controls=(replace(baseline, auc=0.5),)).succeeds(USE)


def test_some_images_given_away_are_no_failure(home, result):
    """An AUC near a half with a TPR far above the FPR, and above that of test images."""
    few = replace(
        result.membership, auc=0.51, auc_low=0.49, auc_high=0.53, tpr=0.05, tpr_low=0.04, fpr=0.01, others=5000
    )
    instead = Control(TEST_IMAGES, MEMBERSHIP, 0.5, 0.5, 0.1, tpr=0.01)
    some = replace(result, membership=few, controls=(instead,))
    assert (some.succeeds(MEMBERSHIP), some.finds_some(MEMBERSHIP)) == (False, True)
    lines = lines_of(home, some)
    assert lines["membership: AUC"][1:] == ("0.500", "the attack succeeds on some images: see the TPR")
    assert lines["membership: TPR at 1 % FPR"][1] == "1.0 %"
    typical = replace(some, controls=(replace(instead, tpr=0.045),))
    assert not typical.finds_some(MEMBERSHIP)
    assert lines_of(home, typical)["membership: AUC"][2].startswith("the attack failed; it finds an AUC of")
    older = replace(some, controls=(replace(instead, tpr=None),))
    assert older.finds_some(MEMBERSHIP)
    assert lines_of(home, older)["membership: TPR at 1 % FPR"][1] == ""


def test_the_power_is_that_of_an_auc_above_the_one_of_test_images(home, result):
    """The attack on test images reaches 0.5 or more, and a success is above that."""
    for attack, members, others in ((USE, result.use.members, 82), (MEMBERSHIP, 88, 22)):
        instead, measured = result.baseline(attack), getattr(result, attack)
        assert (measured.members, measured.others) == (members, others)
        counts = {USE: {(3, 45): 1, (3, 37): 1}, MEMBERSHIP: {(48, 12): 1, (40, 10): 1}}[attack]
        assert measured.detectable == detectable_auc(counts, max(0.5, instead.auc))
        assert instead.tpr is not None


def test_values_have_no_number_without_a_finding(home, result):
    every = audit_findings(result)
    assert every["failed"] == {USE: [], MEMBERSHIP: []}
    assert every["use"]["auc"] == 1
    wrong = Control(TEST_IMAGES, MEMBERSHIP, 0.7, 0.5, 0.1)
    values = audit_findings(replace(result, controls=(*result.controls, wrong)))
    assert (values["membership"], values["distances"]["ratio"], values["reference"]["ratio"]) == (None, None, None)
    assert values["use"] == every["use"]
    assert values["failed"] == {USE: [], MEMBERSHIP: ["test images (membership)"]}
    values = audit_findings(replace(result, controls=(Control(RANDOM_IMAGES, USE, 0.6, 1.0, 0.01),)))
    assert [values[name] for name in ("use", "membership", "distances", "reference")] == [None] * 4


@pytest.mark.parametrize(("count", "equal", "side"), [(4, False, "test images"), (20, True, "training images")])
def test_a_dataset_without_controls_is_refused(tmp_path, caplog, count, equal, side):
    """One test image of a class; images that are all equal."""
    folder = write_images(tmp_path / "images", {"barn": count, "pond": count})
    for name in ("barn", "pond") if equal else ():
        first, *others = sorted((folder / name).iterdir())
        for other in others:
            other.write_bytes(first.read_bytes())
    run = ddbench.run("random", dataset=f"folder:{folder}", ipc=1, students=(), **places(tmp_path))
    with pytest.raises(ddbench.UserError, match="the reason is logged"):
        ddbench.audit(run, dataset=f"folder:{folder}", features="pixels", **places(tmp_path))
    assert f"there are no controls: no class has two {side} without a copy" in caplog.text


def test_the_manifest_names_used_images():
    extras = {"files": ["a", "b", "a"], "prototypes": [{"name": "c"}], "pieces": [["d", "e"], ["d"]], "starts": []}
    assert used_images(extras) == {"files": ["a", "b"], "prototypes": ["c"], "pieces": ["d", "e"]}


@pytest.mark.parametrize("unseen", [False, True])
def test_plain_diffusion_beside_a_run_is_a_control(copy, monkeypatch, unseen):
    """A hand-made run in its place; its answer is known where its base's card says that it never saw the dataset."""
    folder = run_of(copy)
    spec = replace(read_spec(folder / "spec.json"), method="diffusion", params={"weights": "none", "base": "tiny"})
    if unseen:
        monkeypatch.setitem(known_bases(), "tiny", replace(known_bases()["tiny"], unseen=(spec.dataset,)))
    run = spec.folder(copy / "runs")
    shutil.copytree(folder / "distilled", run / "distilled")
    write_spec(run, spec)
    write_anew(run, lambda images: np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8))
    assert present(folder)[0].control_runs == ()
    result = audit(copy, folder)
    assert result.control_runs == (distilled_set.read(run / "distilled").content(),)
    (control,) = (c for c in result.controls if c.name == "diffusion, tiny untouched" and c.attack == MEMBERSHIP)
    assert control.auc is not None
    assert control.expected == (0.5 if unseen else None)
    assert not control.failed
    assert "control: diffusion" not in lines_of(copy, result)


def test_an_audit_is_made_once_and_anew_for_another_set(copy, result):
    folder = run_of(copy)
    (path,) = folder.glob("audit/*.json")
    written = path.stat().st_mtime_ns
    assert audit(copy, folder) == result
    assert path.stat().st_mtime_ns == written
    write_anew(folder, lambda images: 255 - images)
    assert present(folder) == ()
    second = audit(copy, folder)
    assert second.use.auc < 1
    assert present(folder) == (second,)


def test_a_file_that_is_no_audit_is_named(copy):
    (path,) = run_of(copy).glob("audit/*.json")
    path.write_text("[]")
    scan = read_runs(copy / "runs", costs=True)
    assert [(problem.path, "no JSON object" in problem.reason) for problem in scan.problems] == [(run_of(copy), True)]
    assert len(scan.results) == 1


def test_the_command_prints_what_is_on_disk(home, result):
    words = ["audit", run_of(home), "--dataset", f"folder:{home}/images", "--features", "pixels"]
    text = command(home, *words).stdout
    assert "use of an image: AUC" in text
    assert "1.000 [" in text
    assert "private" not in text.lower()
    (record,) = json.loads(command(home, *words, "--format", "json").stdout)
    assert record["use"] == json.loads(json.dumps(asdict(result.use)))
    rows = command(home, *words, "--format", "csv").stdout.splitlines()
    assert rows[0] == "run,by,number,distilled set,test images instead,reading"
    assert len(rows) == 1 + len(audit_lines(run_of(home), result))


def test_table_and_page_show_it(home):
    text = command(home, "leaderboard", "--with", "audit").stdout
    assert "1.00 / 0.5" in text
    assert "(pixels)" in text
    rows = command(home, "leaderboard", "--with", "audit", "--format", "csv").stdout
    assert "audit_by,use_auc,use_tpr,membership_auc,membership_tpr" in rows
    html = page(read_runs(home / "runs", costs=True))
    assert 'id="audits"' in html
    assert "seed 0, by pixels" in html
    assert "private" not in html.lower()
    assert 'class="pairs" src="data:image/webp' in html


def test_an_audit_is_merged(home, tmp_path):
    merge(tmp_path / "all", (home / "runs",))
    (path,) = run_of(home).glob("audit/*.json")
    there = tmp_path / "all" / path.relative_to(home / "runs")
    there.unlink()
    assert merge(tmp_path / "all", (home / "runs",)).results == 1
    assert there.read_bytes() == path.read_bytes()


def test_what_cannot_be_audited_is_refused(home, tmp_path):
    with pytest.raises(ddbench.UserError, match="neither STUDENT/PROTOCOL nor STUDENT/imagenet"):
        ddbench.audit(run_of(home), dataset=f"folder:{home}/images", features="pixel", **places(home))
    with pytest.raises(ddbench.UserError, match="is not a folder"):
        ddbench.audit(tmp_path / "none", dataset=f"folder:{home}/images", **places(home))
    write_images(tmp_path / "others" / "images", {"barn": 30, "pond": 30}, seed=1)
    command(home, "audit", run_of(home), "--dataset", f"folder:{tmp_path}/others/images", status=1)
