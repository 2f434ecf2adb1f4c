"""Plots of accuracy against leakage: their points are the numbers of audits and tables."""

from dataclasses import replace

import numpy as np
import pytest
from third_party import few, run_command, write_images

import ddbench
from ddbench.report.leakage import (
    LeakageGroup,
    LeakagePoint,
    audited_cells,
    canary_groups,
    plot_leakage,
    run_groups,
    series_labels,
)
from ddbench.report.page import page
from ddbench.runner.canaries import attack_parts
from ddbench.store.audits import MEMBERSHIP, TEST_IMAGES, USE, Control
from ddbench.store.canaries import ATTACKS, CANARY_IMAGES, OTHER_IMAGES, CanaryAudit
from ddbench.store.reader import read_runs


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two seeds of `random`, each with a student, and an audit of both with a plot."""
    home = tmp_path_factory.mktemp("home")
    write_images(home / "images", {"barn": 60, "pond": 50})
    (home / "few.toml").write_text(few(2))
    for seed in (0, 1):
        ddbench.run(
            "random", dataset=f"folder:{home}/images", ipc=3, seed=seed, protocol=home / "few.toml", **places(home)
        )
    command(home, "--plot", home / "leakage.svg")
    return home


def places(home):
    return {"quiet": True, "device": "cpu", "runs": home / "runs", "shared": home / "shared"}


def command(home, *words, status=0):
    options = ["--runs", home / "runs", "--shared", home / "shared", "--device", "cpu", "-q", "audit", *runs(home)]
    return run_command(*options, "--dataset", f"folder:{home}/images", "--features", "pixels", *words, status=status)


def runs(home):
    return sorted(path.parent for path in (home / "runs").rglob("spec.json"))


def test_a_point_is_the_mean_over_audited_runs(home):
    cells, audits = audited_cells(runs(home))
    (group,) = run_groups(cells, audits)
    assert list(group.panels) == ["use of an image, by pixels", "membership, by pixels"]
    ((use,), (membership,)) = group.panels.values()
    assert (use.label, use.note, use.auc, use.accuracy) == ("random", "", 1, cells[0].cell.mean)
    found = [one.membership for (one,) in audits.values()]
    assert len(found) == cells[0].cell.n == 2
    assert membership.auc == pytest.approx(sum(one.auc for one in found) / 2)
    assert membership.low == pytest.approx(sum(one.auc_low for one in found) / 2)


def test_an_attack_without_a_finding_has_no_point(home):
    cells, audits = audited_cells(runs(home))
    wrong = Control(TEST_IMAGES, MEMBERSHIP, 0.7, 0.5, 0.1)
    first, *others = audits
    failed = {first: (replace(audits[first][0], controls=(wrong,)),)} | {run: audits[run] for run in others}
    (group,) = run_groups(cells, failed)
    assert list(group.panels) == ["use of an image, by pixels"]
    assert run_groups(cells, {first: audits[first]}) == []  # one of the cell's runs was not audited
    other = {run: (replace(one[0], by="convnet/quick@1"),) for run, one in audits.items() if run != first}
    assert run_groups(cells, {first: audits[first]} | other) == []  # no embedding in common


def test_rows_that_differ_by_one_number_are_joined(home):
    cell = audited_cells(runs(home))[0][0]

    def with_params(identity, **params):
        result = replace(cell.results[0], spec=replace(cell.results[0].spec, params=params))
        row = replace(cell.row, identity=identity, label=f"dpd #{identity}", method="dpd", preset="tiny")
        return replace(cell, row=row, results=(result,))

    several = [with_params("a", strength=0.1, rank=4), with_params("b", strength=1.0, rank=4)]
    assert series_labels([cell, *several]) == {
        cell.row.identity: ("random", ""),
        "a": ("dpd (tiny), by strength", "0.1"),
        "b": ("dpd (tiny), by strength", "1"),
    }
    assert series_labels(several[:1]) == {"a": ("dpd #a", "")}
    for other in (with_params("c", strength="low", rank=4), with_params("c", strength=0.1, rank=4),
                  with_params("c", strength=0.5, rank=8)):  # fmt: skip
        assert series_labels([*several, other])["a"] == ("dpd #a", "")


def test_command_and_page_draw_it(home):
    svg = (home / "leakage.svg").read_text()
    assert "AUC: use of an image, by pixels" in svg
    assert "AUC: membership, by pixels" in svg
    assert ">random<" in svg
    html = page(read_runs(home / "runs", costs=True))
    assert "accuracy over leakage" in html
    assert "AUC: use of an image, by pixels" in html


def test_a_set_without_students_cannot_be_plotted(home, tmp_path):
    run = ddbench.run(
        "random", dataset=f"folder:{home}/images", ipc=2, students=(), **places(home) | {"runs": tmp_path}
    )
    words = ["audit", run.folder, "--dataset", f"folder:{home}/images", "--features", "pixels"]
    words = ["--shared", home / "shared", "--device", "cpu", "-q", *words, "--plot", tmp_path / "leakage.svg"]
    assert "there is nothing to plot" in run_command(*words, status=2).stderr


def test_students_of_a_plan_have_a_point_for_each_attack():
    audit = canary_audit()
    (group,) = canary_groups([audit, replace(audit, label="dm (tiny)", accuracy=0.5)])
    assert list(group.panels) == list(ATTACKS)
    first, second = group.panels[CANARY_IMAGES]
    assert (first.label, first.accuracy, second.label, second.accuracy) == ("random", 0.25, "dm (tiny)", 0.5)
    assert first.auc == audit.attacks[CANARY_IMAGES].auc
    alarm = replace(audit, controls={OTHER_IMAGES: replace(audit.attacks[OTHER_IMAGES], auc=0.9)})
    assert canary_groups([alarm]) == []


def canary_audit():
    rng = np.random.default_rng(0)
    members = np.repeat(rng.random((4, 80)) < 0.5, 2, axis=0)
    members[1::2] ^= True
    attacks = attack_parts(rng.normal(size=(8, 80)), members)
    texts = {
        "dataset": "ucm",
        "fingerprint": "",
        "protocol": "quick@1",
        "student": "convnet",
        "content": "",
        "known": "",
        "device": "",
    }
    numbers = {"size": 64, "ipc": 10, "seed": 0, "audited": 80, "runs": 8, "accuracy": 0.25, "accuracy_std": 0.01}
    seconds = {"distillation_seconds": 1.0, "student_seconds": 1.0}
    return CanaryAudit(
        version=1, method="random", preset=None, params={}, label="random", attacks=attacks, controls={}, versions={},
        commit=None, dirty=None, **texts, **numbers, **seconds,
    )  # fmt: skip


def test_one_legend_has_each_method_once_in_many_panels():
    points = [LeakagePoint(f"method {i}", "10", 0.5 + i / 50, 0.5, 0.9, i / 20, 0.01) for i in range(15)]
    groups = [LeakageGroup("ucm", {USE: points[:9], MEMBERSHIP: points}), LeakageGroup("eurosat", {USE: points[5:]})]
    figure = plot_leakage(groups)
    (legend,) = figure.legends
    assert sorted(text.get_text() for text in legend.get_texts()) == sorted(point.label for point in points)
    assert [axes.axison for axes in figure.axes] == [True, True, True, False]
