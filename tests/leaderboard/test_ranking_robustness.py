"""DD-Ranking's scores from stored results: by hand, on fractions, and with results missing."""

import json
import math
from dataclasses import replace

import pytest
from click.testing import CliRunner
from test_records import SPEC, result, write

from ddbench.cli.main import cli
from ddbench.leaderboard.ranking_robustness import ProtocolRoles, robustness_rows, score
from ddbench.store import records

ROLES = ProtocolRoles()
FRACTIONS = {  # method -> accuracies under quick@1, quick-hard@1, quick-plain@1
    "random": (0.50, None, 0.40),
    "full": (0.90, None, None),
    "mine": (0.60, None, 0.45),
    "soft": (0.70, 0.48, 0.30),  # it brings soft labels, which quick-hard@1 does not use
}


def entry(method, protocol, overall, seed=0, **changes):
    spec = replace(SPEC, method=method, ipc=0 if method == "full" else 2, seed=seed)
    stored = result(spec, protocol=protocol, overall=overall, **{"content": f"images of {method} {seed}"} | changes)
    return records.StoredResult(spec, stored, None)


def entries(fractions=FRACTIONS):
    names = ("quick", "quick-hard", "quick-plain")
    every = [(method, name, value) for method, row in fractions.items() for name, value in zip(names, row, strict=True)]
    return [
        entry(method, name, value, label_bytes=64 if method == "soft" and name != "quick-hard" else 0)
        for method, name, value in every
        if value is not None
    ]


def by_label(rows):
    return {line.label: line for line in rows}


def normal(x):
    return (math.exp(x) - math.exp(-1)) / (math.exp(1) - math.exp(-1))


def test_by_hand():
    rows = by_label(robustness_rows(entries(), ROLES))
    assert list(rows) == ["mine", "soft"]
    with_hard, soft = rows["mine"], rows["soft"]
    assert (with_hard.ior, with_hard.hlr) == (pytest.approx(0.10), pytest.approx(0.30))
    assert with_hard.lrs == pytest.approx(normal(0.05 - 0.15))
    assert with_hard.ars == pytest.approx(normal(0.05 + 0.025))
    assert soft.hlr == pytest.approx(0.42)


def test_a_gain_over_random_is_told_only_under_labels_of_one_kind():
    """Against random images with hard labels, what soft labels are worth would count as the images'."""
    soft = by_label(robustness_rows(entries(), ROLES))["soft"]
    assert (soft.own, soft.plain) == (0.70, 0.30)
    assert soft.ior is soft.lrs is soft.ars is None
    taught = [entry("random", name, value, label_bytes=64) for name, value in (("quick", 0.6), ("quick-plain", 0.2))]
    others = [one for one in entries() if one.spec.method != "random"]
    both = by_label(robustness_rows([*others, *taught], ROLES))
    assert both["soft"].ior == pytest.approx(0.10)
    assert both["soft"].ars == pytest.approx(normal(0.05 + 0.05))
    assert both["mine"].ior is None


def test_a_result_on_hard_labels_is_taken_before_one_that_had_them_anyway():
    more = [*entries(), entry("mine", "quick-hard", 0.2, label_bytes=0)]
    assert (
        by_label(robustness_rows(more, ROLES))["mine"].hard
        == by_label(robustness_rows(more[::-1], ROLES))["mine"].hard
        == 0.2
    )


def test_random_is_ours_and_the_newest():
    """Neither a file of the user's with that name nor an older version is the anchor."""
    other = entry("random", "quick", 0.1)
    theirs = records.StoredResult(replace(other.spec, source="f" * 64), other.result, None)
    older = records.StoredResult(replace(other.spec, method_version=0), other.result, None)
    assert by_label(robustness_rows([*entries(), theirs, older], ROLES))["mine"].ior == pytest.approx(0.10)


def test_an_older_random_stands_where_there_is_no_newer():
    elsewhere = [
        records.StoredResult(replace(one.spec, dataset="ucm", method_version=0), one.result, None)
        for one in (entry("random", "quick", 0.3), entry("mine", "quick", 0.5))
    ]
    rows = {(line.where.dataset, line.label): line.ior for line in robustness_rows([*entries(), *elsewhere], ROLES)}
    assert [ior for (dataset, _), ior in rows.items() if dataset == "ucm"] == [pytest.approx(0.2)]


def test_the_order_of_results_does_not_matter():
    assert robustness_rows(entries()[::-1], ROLES) == robustness_rows(entries(), ROLES)


def test_soft_labels_are_not_taken_for_hard_ones():
    """Without its run on hard labels a set with soft ones has no HLR; a set with hard labels needs no such run."""
    rows = by_label(robustness_rows(entries({**FRACTIONS, "soft": (0.70, None, 0.30)}), ROLES))
    assert rows["soft"].hard is rows["soft"].hlr is None
    assert rows["mine"].hard == pytest.approx(0.60)


@pytest.mark.parametrize(
    ("gone", "missing"),
    [("random", ("ior", "lrs", "ars")), ("full", ("hlr", "lrs"))],
)
def test_what_is_missing_is_none(gone, missing):
    line = by_label(robustness_rows(entries({k: v for k, v in FRACTIONS.items() if k != gone}), ROLES))["mine"]
    assert {name for name in ("ior", "hlr", "lrs", "ars") if getattr(line, name) is None} == set(missing)


def test_seeds_are_averaged_distillation_by_distillation():
    """Two students of seed 0, one of seed 1: the mean of means."""
    more = [entry("mine", "quick", 0.8, seed=0), entry("mine", "quick", 0.3, seed=1)]
    assert by_label(robustness_rows([*entries(), *more], ROLES))["mine"].own == pytest.approx((0.7 + 0.3) / 2)


def test_students_and_sizes_do_not_meet():
    other = [entry("mine", "quick", 0.9, student="resnet18")]
    rows = robustness_rows([*entries(), *other], ROLES)
    assert [(line.where.student, line.ior is None) for line in rows if line.label == "mine"] == [
        ("convnet", False),
        ("resnet18", True),
    ]


def test_the_weight_is_the_papers_w():
    row = by_label(robustness_rows(entries(), ROLES, weight=1.0))["mine"]
    assert row.lrs == row.ars == pytest.approx(normal(0.10))


def test_the_score_runs_from_0_to_1_and_is_on_fractions():
    assert (score(-1), score(1)) == (0, pytest.approx(1))
    assert score(0.5 * 0.20 - 0.5 * 0.10) == pytest.approx(0.2908, abs=1e-4)  # percentages would have given 63


def test_the_command_prints_dashes_for_what_is_missing(tmp_path):
    for spec, overall in ((replace(SPEC, method="random"), 0.5), (SPEC, 0.625)):
        write(tmp_path, spec, overall=overall)
    done = CliRunner().invoke(cli, ["--runs", str(tmp_path), "robustness"])
    assert done.exit_code == 0, done.output
    *_, row, _, message = done.output.splitlines()
    assert row.split() == [
        "scenes",
        "32",
        "2",
        "convnet",
        "scratch",
        "mine",
        *["62.5", "62.5", "-", "12.5", "-", "-", "-"],
    ]
    assert message == "own: quick@1, hard: quick-hard@1, plain: quick-plain@1; HLR against `full` under quick-hard@1"
    machine = CliRunner().invoke(cli, ["--runs", str(tmp_path), "robustness", "--format", "json"])
    (line,) = json.loads(machine.output)
    assert (line["ior"], line["lrs"]) == (pytest.approx(0.125), None)


def test_what_tells_lines_apart_is_shown(tmp_path):
    for size in (32, 64):
        write(tmp_path, replace(SPEC, size=size), overall=0.625)
    write(tmp_path, replace(SPEC, fingerprint="e" * 64), overall=0.625)
    write(tmp_path, replace(SPEC, seed=7), overall=0.5, precision="bf16")
    done = CliRunner().invoke(cli, ["--runs", str(tmp_path), "robustness"])
    lines = done.output.splitlines()
    assert lines[0].split()[:7] == ["dataset", "px", "ipc", "student", "init", "precision", "split"]
    assert len({tuple(row.split()[:7]) for row in lines[2:6]}) == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--own", "qiuck@1"), "did you mean 'quick@1'"),
        (("--own", "dc@1"), "dc@1 has no published variant dc-hard@1: name a protocol with --hard"),
        (("--own", "dpd@1"), "dpd@1 has no published variant dpd-plain@1: name a protocol with --plain"),
        (("--own", "dc@1", "--hard", "quick-hard@1", "--plain", "dc@1"), "--hard quick-hard@1 is not dc@1 on hard"),
        (("--plain", "quick@1"), "--plain quick@1 is not quick@1 without augmentation"),
        (("--hard", "quick@1"), "--hard quick@1 is not quick@1 on hard labels"),
        (
            ("--own", "quick-plain@1", "--hard", "quick-plain@1", "--plain", "quick-plain@1"),
            "--own quick-plain@1 has no augmentation",
        ),
    ],
)
def test_roles_must_be_twins(words, message, tmp_path):
    done = CliRunner().invoke(cli, ["--runs", str(tmp_path), "robustness", *words])
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())


def test_the_twins_of_soft_are_found(tmp_path):
    """Random images have the teacher's labels as well, so the gain over them is told."""
    for method, overall in (("random", 0.5), ("mine", 0.625)):
        write(tmp_path, replace(SPEC, method=method), protocol="soft", overall=overall, label_bytes=64)
    done = CliRunner().invoke(cli, ["--runs", str(tmp_path), "robustness", "--own", "soft", "--format", "json"])
    (line,) = json.loads(done.output)
    assert (line["own"], line["ior"]) == (0.625, pytest.approx(0.125))


def test_a_name_without_its_version_is_the_newest(tmp_path):
    write(tmp_path, SPEC, overall=0.625)
    done = CliRunner().invoke(cli, ["--runs", str(tmp_path), "robustness", "--own", "quick"])
    assert " 62.5 " in done.output
