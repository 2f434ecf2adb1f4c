"""Mean, worst and drop over students, by hand; what is compared with what."""

import csv
import io
import json

import pytest
from test_table import entry

from ddbench.leaderboard.extra_values import CellCosts, extra_values
from ddbench.leaderboard.render import TableOptions, render
from ddbench.leaderboard.table import distilling_network, make_table, with_full_everywhere


def of_students(method, accuracies, **changes):
    spec = {"method": method} | changes.pop("spec", {})
    entries = []
    for student, accuracy in accuracies.items():
        own = {"student": student, "protocol_hash": student}  # training settings, and so their hash, are a student's
        entries.append(entry(accuracy, spec=spec, content=f"images of {method}", **own | changes))
    return entries


def cross_of(entries):
    """Method -> its cross-architecture values, the same in every column of a student."""
    board = make_table(entries)
    values = extra_values(board, ("cross",), CellCosts())
    by_method = {}
    for row in board.rows:
        all_columns = [values[row.identity, column] for column in row.cells]
        assert all(of == all_columns[0] for of in all_columns)
        by_method[row.method] = {name.removeprefix("cross_"): value for name, value in all_columns[0].items()}
    return by_method


DM = of_students("dm", {"convnet": 0.6, "resnet18": 0.5, "vit_tiny": 0.1}, spec={"params": {"student": "convnet"}})
RANDOM = of_students("random", {"convnet": 0.4, "resnet18": 0.4, "vit_tiny": 0.2}, spec={"params": {}})


def test_mean_worst_and_drop_by_hand():
    cross = cross_of([*DM, *RANDOM])
    assert cross["dm"] == {
        "mean": pytest.approx(0.4), "worst": 0.1, "worst_student": "vit_tiny", "students": 3,
        "drop": pytest.approx(0.6 - 0.3), "network": "convnet",
    }  # fmt: skip
    assert cross["random"]["drop"] is None
    assert cross["random"]["network"] is None


def test_several_distillations_count_by_their_means():
    second = entry(0.8, seed=1, spec={"method": "dm", "params": {"student": "convnet"}}, protocol_hash="convnet")
    assert cross_of([*DM, second])["dm"]["mean"] == pytest.approx((0.7 + 0.5 + 0.1) / 3)


def test_a_network_that_is_no_student_here_gives_no_drop():
    rded = of_students("rded", {"convnet": 0.3, "vit_tiny": 0.2}, spec={"params": {"teacher": "resnet18"}})
    assert cross_of(rded)["rded"]["drop"] is None
    assert cross_of(rded)["rded"]["network"] == "resnet18"


def test_a_row_without_a_student_of_its_columns_has_none():
    lacking = of_students("herding", {"convnet": 0.9, "resnet18": 0.9})
    cross = cross_of([*DM, *lacking])
    assert cross["herding"] == {}
    assert cross["dm"]["students"] == 3


@pytest.mark.parametrize(
    "changes",
    [{"protocol": "long"}, {"init": "imagenet"}, {"precision": "bf16"}, {"versions": {"evaluators": "9"}},
     {"spec": {"ipc": 9}}, {"spec": {"size": 64}}, {"spec": {"fingerprint": "e" * 64}}],
)  # fmt: skip
def test_students_of_different_columns_are_not_compared(changes):
    assert (
        cross_of([*of_students("dm", {"convnet": 0.6}), *of_students("dm", {"resnet18": 0.5}, **changes)])["dm"] == {}
    )


def test_one_student_and_two_recipes_of_one_give_none():
    assert cross_of(of_students("dm", {"convnet": 0.6}))["dm"] == {}
    two = [*DM, *of_students("dm", {"convnet": 0.1}, protocol_hash="other", spec={"params": {"student": "convnet"}})]
    assert cross_of(two)["dm"] == {}


@pytest.mark.parametrize(
    ("params", "network"),
    [
        ({"student": "convnet", "steps": 1}, "convnet"),  # dm, dc, dsa, mtt
        ({"teacher": "resnet18"}, "resnet18"),  # sre2l, rded
        ({"embedding": "vit_tiny"}, "vit_tiny"),  # herding, kcenter
        ({"embedding": "convnet", "features": "network"}, "convnet"),  # kmeans
        ({"embedding": "convnet", "features": "latents"}, ""),
        ({"surrogate": "convnet6", "influence": 5.0, "deviation": 120.0}, "convnet6"),  # igd
        ({"surrogate": "convnet", "influence": 0.0, "learnability": 15.0}, "convnet"),  # lgd
        ({"surrogate": "convnet", "influence": 0.0, "deviation": 120.0}, ""),
        ({"student": 3}, ""),
        ({}, ""),
    ],
)
def test_the_distilling_network_is_what_the_settings_record(params, network):
    assert distilling_network(entry(0.5, spec={"params": params}).spec) == network


def test_columns_behind_all_students():
    full = of_students("full", {"convnet": 0.9, "resnet18": 0.8, "vit_tiny": 0.7}, spec={"ipc": 0})
    entries = [*DM, *RANDOM, *full]
    lines = render(entries, "markdown", TableOptions(("gain", "cross"))).splitlines()
    heads = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert heads[-4:] == ["vit_tiny gain", "all students mean", "all students worst", "all students drop"]
    cells = {line.split("|")[1].strip(): [text.strip() for text in line.split("|")[-4:-1]] for line in lines[2:5]}
    assert cells == {"random": ["33.3", "20.0", "-"], "dm": ["40.0", "10.0", "+30.0"], "full": ["80.0", "70.0", "-"]}


def test_latex_has_a_head_for_all_students():
    two = [*DM, *of_students("dm", {"convnet": 0.3, "resnet18": 0.2, "vit_tiny": 0.25}, spec={"ipc": 1})]
    lines = render(two, "latex", TableOptions(("cross",))).splitlines()
    top = lines.index("\\toprule")
    assert lines[top + 1] == r" & \multicolumn{6}{c}{IPC 1} & \multicolumn{6}{c}{IPC 2} \\"
    assert lines[top + 3] == " & " + " & ".join(
        [r"convnet & resnet18 & vit\_tiny & \multicolumn{3}{c}{all students}"] * 2
    ) + r" \\"  # fmt: skip
    assert lines[top + 5].endswith(r"accuracy & accuracy & accuracy & mean & worst & drop \\")


def test_csv_and_json_have_full_precision():
    entries = [*DM, *RANDOM]
    lines = list(csv.DictReader(io.StringIO(render(entries, "csv", TableOptions(("cross", "gain"))))))
    rows = json.loads(render(entries, "json", TableOptions(("cross", "gain"))))["rows"]
    for records, unknown in ((lines, ""), (rows, None)):
        dm = next(record for record in records if (record["method"], record["student"]) == ("dm", "resnet18"))
        assert (float(dm["cross_drop"]), float(dm["gain"])) == (0.6 - 0.3, 0.5 - 0.4)
        assert float(dm["cross_mean"]) == pytest.approx(0.4, abs=1e-16)
        assert next(record for record in records if record["method"] == "random")["cross_drop"] == unknown
    assert list(rows[0])[-7:] == list(lines[0])[-7:]


def test_full_counts_once_in_every_column():
    full = of_students("full", {"convnet": 0.9, "resnet18": 0.8}, spec={"ipc": 0})
    board = with_full_everywhere(make_table([*of_students("dm", {"convnet": 0.6, "resnet18": 0.5}), *full]))
    values = extra_values(board, ("cross", "share", "gain"), CellCosts())
    (row,) = (row for row in board.rows if row.method == "full")
    of = values[row.identity, board.columns[0]]
    assert (of["cross_mean"], of["share"]) == (pytest.approx(0.85), 1.0)
    assert "gain" not in of
