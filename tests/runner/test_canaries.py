"""`ddbench audit --canaries`: a method that keeps all images, one that keeps none; resume, refusals, printed words."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from third_party import few, run_command, snapshot, write_method

import ddbench
from ddbench.datasets.info import DataPaths
from ddbench.protocols import load_protocol
from ddbench.report.canaries import canary_findings, canary_lines, canary_notes
from ddbench.runner.canaries import known_answer
from ddbench.store.canaries import ATTACKS, CANARY_IMAGES, NOTHING, OTHER_IMAGES, read_canary_audit
from ddbench.store.distilled_set import read
from ddbench.store.measured import read_measured
from ddbench.sweep.canaries import canary_work, read_canaries
from ddbench.utils.bases import known_bases
from evaluators.lira import log_odds
from evaluators.train import logits, train_student

LEARNT = """
[recipes.convnet]
optimizer = "adamw"
lr = 0.02
weight_decay = 0.0
batch = 40
epochs = 1
min_steps = 20
"""
NOTHING_METHOD = '''
from dataclasses import dataclass
from typing import ClassVar

import torch


@dataclass(frozen=True)
class Nothing:
    """Noise, of no training image."""

    name: ClassVar[str] = "nothing"
    version: ClassVar[int] = 1

    def distill(self, train, ipc, ctx):
        size = ipc * len(train.classes), *train.images.shape[1:]
        return train.distilled(torch.randint(256, size, dtype=torch.uint8, generator=ctx.generator("noise")))
'''


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Noise without a class, and a plan of a method that keeps all images and one that keeps none, carried out."""
    home = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(0)
    for path in (home / "images" / name / f"{index}.png" for name in ("barn", "pond") for index in range(50)):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(256, size=(8, 8, 3), dtype=np.uint8)).save(path)
    (home / "learnt.toml").write_text(LEARNT)
    (home / "few.toml").write_text(few(1))
    (home / "nothing.py").write_text(NOTHING_METHOD)
    write_plan(home, "plan.toml", f'"full", "{home}/nothing.py:Nothing"', protocol="learnt")
    command(home, "plan.toml")
    return home


def write_plan(home, name, methods='"random"', protocol="few", **values):
    chosen = {"dataset": f'"folder:{home}/images"', "ipc": 2, "audited": 40, "distillations": 6} | values
    chosen |= {"protocol": f'"{home}/{protocol}.toml"', "methods": f"[{methods}]"}
    (home / name).write_text("\n".join(f"{key} = {value}" for key, value in chosen.items() if value is not None))


def command(home, plan, *words, status=0):
    places = ["--runs", home / "runs", "--shared", home / "shared", "--device", "cpu", "-q"]
    return run_command(*places, "audit", "--canaries", home / plan, *words, status=status)


@pytest.fixture
def audits(home):
    """The two audits of the plan."""
    paths = (home / "runs" / "canaries" / "audits").rglob("convnet-scratch.json")
    by_method = {audit.method: audit for audit in map(read_canary_audit, paths)}
    return by_method["full"], by_method["nothing"]


def work_of(home, plan="plan.toml"):
    return canary_work(*read_canaries(home / plan), DataPaths(None, home / "shared", True), home / "runs")


@pytest.mark.slow
def test_all_images_are_found_and_none_are_not(audits):
    full, nothing = audits
    canaries = full.attacks[CANARY_IMAGES]
    assert canaries.auc_low > 0.6
    for lira in nothing.attacks.values():
        assert lira.auc_low < 0.5 < lira.auc_high
        assert not lira.succeeds
    for audit in audits:
        assert not audit.false_alarms()
        assert not audit.misses()
        assert (audit.audited, audit.runs) == (40, 6)
        assert [lira.images for lira in audit.attacks.values()] == [20, 20]
        assert audit.attacks[OTHER_IMAGES].used == 0  # neither method names an image


def test_a_confidence_is_that_of_a_student_of_the_set_on_disk(home):
    subject = work_of(home).subjects[1]
    job = subject.jobs[3]
    record, pictures = read_measured(job.task.path), read(job.task.folder / "distilled")
    assert record.result.seed == job.task.spec.seed == 3
    model = train_student(
        pictures.to_tensor(), torch.from_numpy(pictures.labels), student="convnet", num_classes=2, seed=3,
        protocol=load_protocol(str(home / "learnt.toml")), device="cpu",
    )  # fmt: skip
    images, audited = job.half.load_audited(DataPaths(None, home / "shared", True), 8)
    both = [torch.cat(list(logits(model, view, "cpu"))).numpy() for view in (audited.images, audited.images.flip(-1))]
    odds = np.mean([log_odds(part, audited.labels.numpy()) for part in both], axis=0)
    assert record.variation.confidences == pytest.approx(odds, abs=1e-6)
    assert record.variation.members == job.half.members(images)


def test_a_repeated_command_does_only_what_is_missing(home):
    gone = work_of(home).subjects[1].jobs[2].task.path
    before = snapshot(home / "runs")
    gone.unlink()
    rows = json.loads(command(home, "plan.toml", "--dry-run", "--format", "json").stdout)
    assert [row["state"] for row in rows].count("to do") == 1
    assert len(rows) == 24
    command(home, "plan.toml")
    changed = {name for name, data in snapshot(home / "runs").items() if before.get(name) != data}
    assert changed == {str(gone.relative_to(home / "runs"))}  # the time; the attack is as before


def test_more_distillations_go_on_from_the_first_ones(home):
    write_plan(home, "more.toml", '"full"', protocol="learnt", distillations=8)
    assert [job.done for job in work_of(home, "more.toml").distillations] == [True] * 6 + [False] * 2


def test_text_says_which_attack_failed_and_at_what_power(home, audits):
    text = " ".join(command(home, "plan.toml").stdout.split())
    assert "the attack succeeds" in text
    assert "the attack failed; it finds an AUC of 0." in text
    assert "control: full has all images, so the attack must succeed" in text
    assert "private" not in text.lower()
    records = json.loads(command(home, "plan.toml", "--format", "json").stdout)
    assert [record["method"] for record in records] == ["full", "nothing"]
    assert records[0]["attacks"][CANARY_IMAGES]["auc"] == audits[0].attacks[CANARY_IMAGES].auc
    assert len(command(home, "plan.toml", "--format", "csv").stdout.splitlines()) == 5


def test_a_blind_attack_cannot_fail(audits):
    """Where images that all train the student are missed, a failed attack is no finding; one that succeeds is."""
    full, nothing = audits
    blind = replace(full, attacks=dict.fromkeys(ATTACKS, nothing.attacks[OTHER_IMAGES]))
    assert nothing.finding(CANARY_IMAGES, (blind, nothing)) is None
    lines = canary_lines((blind, nothing))
    assert {(line[3], line[6]) for line in lines} == {("-", "no finding: a control failed")}
    assert canary_notes((blind, nothing))[-1].startswith("FAILED: full: AUC 0.")
    values = canary_findings(nothing, (blind, nothing))
    assert values["attacks"] == dict.fromkeys(ATTACKS)
    assert values["failed"][CANARY_IMAGES] == blind.misses()
    assert canary_findings(full, audits)["attacks"][CANARY_IMAGES]["auc"] == full.attacks[CANARY_IMAGES].auc
    leaky = replace(nothing, attacks=full.attacks)
    assert leaky.finding(CANARY_IMAGES, (blind, leaky)) == full.attacks[CANARY_IMAGES]


def test_a_false_alarm_takes_all_findings_away(audits):
    full, nothing = audits
    wrong = replace(nothing, known=NOTHING, attacks=full.attacks)
    assert full.finding(CANARY_IMAGES, (full, wrong)) is None
    assert "nothing, no training image (relabelled images): AUC 0." in " ".join(canary_notes((full, wrong)))
    rolled = replace(nothing, controls=full.attacks)
    assert rolled.finding(CANARY_IMAGES, (full, rolled)) is None
    assert full.finding(CANARY_IMAGES, (full, rolled)) == full.attacks[CANARY_IMAGES]  # the control of another method
    other = replace(full, student="resnet18")
    assert other.finding(CANARY_IMAGES, (other, wrong)) == full.attacks[CANARY_IMAGES]
    assert 'add "full" to methods' in canary_notes((nothing,))[-1]


def test_plain_diffusion_of_an_unseen_dataset_has_a_known_answer(home):
    subject = work_of(home).subjects[1]
    spec = replace(subject.spec, method="diffusion", params={"weights": "none", "base": "tiny"})
    assert known_answer(replace(subject, spec=spec)) == ""
    unseen = replace(spec, dataset=known_bases()["tiny"].unseen[0])
    assert known_answer(replace(subject, spec=unseen)) == NOTHING
    tuned = replace(unseen, params=spec.params | {"weights": "lora"})
    assert known_answer(replace(subject, spec=tuned)) == ""


def test_used_images_are_told_from_others(home):
    write_plan(home, "random.toml", '"random"')
    (record,) = json.loads(command(home, "random.toml", "--format", "json").stdout)
    subject = work_of(home, "random.toml").subjects[0]
    named = 0
    for job in subject.jobs:
        variation = read_measured(job.task.path).variation
        images = job.half.images(job.half.whole.describe(DataPaths(None, home / "shared", True)))
        files = read(job.task.folder / "distilled").extras["files"]
        assert variation.used == images.rows(files)
        assert set(variation.used) <= set(variation.members)
        named += len(variation.used)
    assert sum(record["attacks"][name]["used"] for name in ATTACKS) == named > 0


def test_no_table_of_whole_datasets_reads_them(home):
    for runs in (home / "runs", home / "runs" / "canaries"):
        assert run_command("--runs", runs, "leaderboard").stdout == "no results yet\n"
    assert "there is no run at" in run_command("redundancy", home / "runs", status=2).stderr


def test_a_method_that_fails_costs_its_own_attack_only(home):
    method = write_method(home)
    write_plan(home, "fails.toml", f'{{method = "{method}", set = ["do=fail"]}}, "random"')
    failed = command(home, "fails.toml", "--format", "json", status=1)
    assert "pick do=fail is not attacked: a student of it is missing" in failed.stderr
    assert [record["method"] for record in json.loads(failed.stdout)] == ["random"]


def test_python_returns_what_the_command_prints(home, audits):
    found = ddbench.canaries(home / "plan.toml", runs=home / "runs", shared=home / "shared", device="cpu")
    assert found == audits


def test_jobs_can_be_sent_to_another_process(home):
    work = work_of(home)
    assert pickle.loads(pickle.dumps(work)) == work


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"audited": 42}, "audited = 42 does not come in four equal parts: 40, for example"),
        ({"audited": 44}, "44 of 80 training images are too many to audit: at most half, 40"),
        ({"distillations": 7}, "distillations = 7 is odd, and halves come in pairs"),
        ({"distillations": 4}, "distillations = 4 is invalid"),
        ({"halves": 4}, "unknown key of a plan"),
        ({"ipc": None}, "random needs images per class: add ipc = 20"),
        ({"methods": '{method = "random", seeds = 2}'}, "random has seeds of its own; a plan of this kind has one ipc"),
    ],
)
def test_an_impossible_plan_is_refused(home, values, message):
    write_plan(home, "wrong.toml", values.pop("methods", '"random"'), **values)
    assert message in " ".join(command(home, "wrong.toml", status=2).stderr.split())


def test_options_of_the_other_audit_are_refused(home):
    assert "its plan has them" in command(home, "plan.toml", "--dataset", "ucm", status=2).stderr
    assert "--canaries PLAN" in run_command("audit", status=2).stderr
    words = ["audit", Path(home / "images"), "--dataset", "scenes", "--jobs", 2]
    assert "need --canaries PLAN" in run_command(*words, status=2).stderr
