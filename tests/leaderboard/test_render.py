"""Rows as text, Markdown, LaTeX, CSV, JSON: exact output of a small board."""

import csv
import dataclasses
import io
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from test_table import entry

from ddbench.errors import UserError
from ddbench.leaderboard import EXTRA_COLUMNS, FORMATS, extra_values, latex, render
from ddbench.leaderboard.filters import Filters
from ddbench.leaderboard.render import TableOptions
from ddbench.leaderboard.reported import Reported, read_reported
from ddbench.store.costs import DistillationCost
from ddbench.store.results_file import read_results

ENTRIES = [
    entry(0.50, seed=0),
    entry(0.60, seed=1),
    entry(0.612, spec={"method": "a_b&50%"}),
    entry(0.20, student="resnet18"),
]
HOW = "overall accuracy in %, mean ± sample std over n distillations"
CAPTION = f"scenes, 32 px, 2 images per class, quick@1, scratch, fp32, split by index (ffffffff); {HOW}"


def test_text():
    assert render.render(ENTRIES, "text").splitlines() == [
        "method             convnet    resnet18",
        "--------  ----------------  ----------",
        "a_b&50%         61.2 (n=1)           -",
        "mine      55.0 ± 7.1 (n=2)  20.0 (n=1)",
        "",
        CAPTION,
    ]


def test_what_tells_columns_apart_is_said():
    heads = render.render([entry(0.5), entry(0.9, spec={"ipc": 0})], "markdown").splitlines()[0]
    assert [cell.strip() for cell in heads.strip("|").split("|")][1:] == [
        "all images convnet",
        "IPC 2 convnet",
    ]
    versions = [entry(0.5), entry(0.6, versions={"evaluators": "2"})]
    heads = render.render(versions, "markdown").splitlines()[0]
    columns = [cell.strip() for cell in heads.strip("|").split("|")][1:]
    assert columns == ["convnet evaluators 1", "convnet evaluators 2"]


def test_the_caption_names_an_evaluator_after_the_first():
    stored = entry(0.5)
    newer = dataclasses.replace(stored, result=dataclasses.replace(stored.result, versions={"evaluators": "2"}))
    assert ", evaluators 2;" in render.render([newer])
    assert "evaluators" not in render.render([stored])


def test_every_extra_column_has_its_fields_and_a_text():
    assert tuple(extra_values.FIELDS) == tuple(EXTRA_COLUMNS)
    other = [dataclasses.replace(one, result=dataclasses.replace(one.result, student="vit_tiny")) for one in BOARD]
    board = [*BOARD, *other]
    options = TableOptions(tuple(EXTRA_COLUMNS), extra_values.cell_costs(board, {}))
    heads = render.render(board, "markdown", options).splitlines()[0]
    for name in EXTRA_COLUMNS:
        assert f" {name}" in heads or (name == "cross" and "all students worst" in heads)
    with pytest.raises(ValueError, match="unknown column 'speed'"):
        render.render(BOARD, "markdown", TableOptions(("speed",)))


def test_an_extra_column_that_is_named_twice_stands_once():
    once, twice = (render.render(ENTRIES, "text", TableOptions(names)) for names in (("interval",), ("interval",) * 2))
    assert once == twice


def test_markdown():
    lines = render.render(ENTRIES, "markdown").splitlines()
    assert [cell.strip() for cell in lines[3].strip("|").split("|")] == ["mine", "55.0 ± 7.1 (n=2)", "20.0 (n=1)"]
    assert set(lines[1]) <= set("|-:")
    assert lines[-1] == f"*{CAPTION}*"


def test_latex_is_escaped_bold_and_booktabs():
    lines = render.render(ENTRIES, "latex").splitlines()
    body = lines[lines.index("\\midrule") + 1 : lines.index("\\bottomrule")]
    assert body == [
        r"a\_b\&50\% & \textbf{61.2} & -- \\",
        r"mine & 55.0 $\pm$ 7.1 & \textbf{20.0} \\",
    ]
    assert r"accuracy in \%, mean $\pm$ sample" in "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b_c", r"a\_b\_c"),
        ("#1 {x}", r"\#1 \{x\}"),
        ("é − 漢字", "é $-$ U+6F22U+5B57"),
        ("\\~^$&%", r"\textbackslash{}\textasciitilde{}\textasciicircum{}\$\&\%"),
    ],
)
def test_every_special_character_is_escaped(text, expected):
    assert latex.escape(text) == expected


def test_what_cannot_be_told_apart_as_printed_is_bold_together():
    close = [entry(0.6120), entry(0.6124, spec={"method": "other"}), entry(0.6, spec={"method": "third"})]
    assert render.render(close, "latex").count("\\textbf{61.2}") == 2


def test_csv_has_one_line_per_cell_in_full_precision():
    lines = list(csv.DictReader(io.StringIO(render.render([entry(1 / 3), *ENTRIES[1:]], "csv"))))
    assert len(lines) == 3
    pooled = next(line for line in lines if line["method"] == "mine" and line["student"] == "convnet")
    assert float(pooled["mean"]) == pytest.approx((1 / 3 + 0.6) / 2, abs=1e-16)
    assert (pooled["n"], pooled["ipc"], pooled["protocol"], pooled["dataset"]) == ("2", "2", "quick@1", "scenes")
    single = next(line for line in lines if line["student"] == "resnet18")
    assert (single["std"], single["mean"]) == ("", "0.2")


def test_csv_has_the_numbers_beside_accuracies_in_full_precision():
    seconds = {one.folder: DistillationCost(1 / 3) for one in BOARD}
    names = tuple(name for name in EXTRA_COLUMNS if name not in ("interval", "components"))
    options = TableOptions(names, extra_values.cell_costs(BOARD, seconds))
    lines = list(csv.DictReader(io.StringIO(render.render(BOARD, "csv", options))))
    fields = [field for name in names for field in extra_values.FIELDS[name]]
    assert list(lines[0])[-len(fields) :] == fields
    cell = next(line for line in lines if (line["method"], line["ipc"]) == ("a_b&50%", "10"))
    own = {name: float(cell[name]) for name in ("gain", "share", "slope", "seconds")}
    assert own == {"gain": 0.52 - 0.32, "share": 0.52 / 0.8, "slope": 0.0, "seconds": 1 / 3}
    assert (cell["bytes"], cell["rank"]) == ("", "")  # unknown size; no row has a value in every column
    full = next(line for line in lines if line["method"] == "full")
    assert (full["ipc"], full["share"], full["gain"], full["ratio"]) == ("0", "1.0", "", "")
    rows = json.loads(render.render(BOARD, "json", options))["rows"]
    texts = [{name: "" if row[name] is None else str(row[name]) for name in fields} for row in rows]
    assert texts == [{name: line[name] for name in fields} for line in lines]


def test_json_carries_every_result_and_spec_in_full():
    """All but the best accuracy on test images, which is in no table."""
    board = json.loads(render.render(ENTRIES, "json"))
    whole = [dataclasses.asdict(e.result) for e in ENTRIES]
    assert all(result.pop("best_on_test") is None for result in whole)
    assert [r["result"] for r in board["results"]] == whole
    assert [r["spec"] for r in board["results"]] == [dataclasses.asdict(e.spec) for e in ENTRIES]
    assert {r["row"] for r in board["results"]} == {row["identity"] for row in board["rows"]}
    assert len(board["rows"]) == 3


def test_columns_say_what_tells_them_apart():
    entries = [entry(0.1), entry(0.2, spec={"ipc": 5}), entry(0.3, spec={"dataset": "ucm"})]
    heads = render.render(entries).splitlines()[0]
    assert heads.split("  ")[-1].strip() == "ucm IPC 2 convnet"
    split = render.render([entry(0.1), entry(0.2, spec={"fingerprint": "e" * 64})]).splitlines()[0]
    assert "convnet split by index (eeeeeeee)" in split
    assert "convnet split by index (ffffffff)" in split
    two = render.render([entry(0.1), entry(0.3, spec={"dataset": "ucm", "fingerprint": "e" * 64})])
    assert "splits: scenes by index (ffffffff), ucm by index (eeeeeeee); " in two


@pytest.mark.parametrize("form", FORMATS)
def test_an_empty_board_has_every_format(form):
    assert render.render([], form).endswith("\n")


BOARD = [
    *(entry(0.30 + 0.02 * i, seed=i, spec={"method": "random", "ipc": ipc}) for i in range(3) for ipc in (1, 10)),
    *(entry(0.50 + 0.02 * i, seed=i, spec={"method": "a_b&50%", "ipc": ipc}) for i in range(3) for ipc in (1, 10)),
    *(entry(0.40 + 0.01 * i, seed=i, spec={"method": "other", "dataset": "ucm", "ipc": 10}) for i in range(2)),
    entry(0.80, spec={"method": "full", "ipc": 0}),
]


def cells_of(text, line):
    return [cell.strip() for cell in text.splitlines()[line].split("&")]


def test_latex_heads_have_a_level_for_datasets_and_one_for_ipc():
    lines = render.render(BOARD, "latex").splitlines()
    top = lines.index("\\toprule")
    assert lines[top + 1 : top + 4] == [
        r" & \multicolumn{2}{c}{scenes} & ucm \\",
        r"\cmidrule(lr){2-3} \cmidrule(lr){4-4}",
        r"method & IPC 1 & IPC 10 & IPC 10 \\",
    ]
    assert r"a\_b\&50\% & \textbf{52.0} $\pm$ 2.0 & \textbf{52.0} $\pm$ 2.0 & -- \\" in lines
    assert r"full & 80.0 & 80.0 & -- \\" in lines
    assert "n from 1 to 3" in next(line for line in lines if line.startswith("\\caption"))


def test_what_is_shown_beside_an_accuracy():
    entries = [*BOARD[:12], BOARD[-1]]
    lines = render.render(entries, "markdown", TableOptions(("gain", "share", "interval", "rank"))).splitlines()
    heads, cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], lines[3]))
    assert heads[1:5] == [f"IPC 1 convnet{word}" for word in ("", " gain", " share", " interval")]
    # by hand: 52 - 32; 52 / 80; 2 * 4.302653 / sqrt(3)
    assert cells == ["a_b&50%", *["52.0 ± 2.0 (n=3)", "+20.0", "65.0 %", "± 5.0"] * 2, "1.0"]


def test_a_rank_is_withheld_from_a_row_that_lacks_a_column():
    lines = render.render(BOARD, "markdown", TableOptions(("rank",))).splitlines()
    ranks = {line.split("|")[1].strip(): line.split("|")[-2].strip() for line in lines[2:6]}
    assert ranks == {"random": "-", "a_b&50%": "-", "other": "-", "full": "-"}


def test_costs_and_components():
    entries = [entry(a, seed=s, student_seed=j, image_bytes=2_000_000, label_bytes=500_000)
               for s, accuracies in enumerate([(0.4, 0.6), (0.6, 0.8)]) for j, a in enumerate(accuracies)]  # fmt: skip
    seconds = {entries[0].folder: DistillationCost(10.0), entries[2].folder: DistillationCost()}
    costs = extra_values.cell_costs(entries, seconds)
    line = render.render(entries, "text", TableOptions(("components", "seconds", "bytes"), costs)).splitlines()[2]
    assert "10.0 / 14.1" in line
    assert "10 s" in line
    assert "2.50 MB" in line


def test_what_all_images_cost_stands_beside_them_in_every_column():
    seconds = {one.folder: DistillationCost(7.0 if one.spec.method == "full" else 1.0) for one in BOARD}
    costs = extra_values.cell_costs(BOARD, seconds)
    *_, full = render.render(BOARD[:12] + BOARD[-1:], "markdown", TableOptions(("seconds",), costs)).splitlines()[:-2]
    assert [cell.strip() for cell in full.strip("|").split("|")] == ["full", *["80.0 (n=1)", "7 s"] * 2]


def test_latex_heads_tell_two_splits_apart():
    two = [entry(0.1), entry(0.2, spec={"fingerprint": "e" * 64})]
    text = render.render(two, "latex")
    assert r"split by index (eeeeeeee) & split by index (ffffffff)" in text


def test_one_ipc_has_all_training_images_beside_it(tmp_path):
    assert [Filters(ipc=10).matches(one) for one in (BOARD[0], BOARD[1], BOARD[-1])] == [False, True, True]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no TeX here")
def test_latex_compiles_as_it_is(tmp_path):
    odd = entry(0.3, spec={"method": 'say "x" <|>^~\\{}$# 漢字 µα ≥ Łódź «Þ»', "ipc": 10})
    body = render.render([*BOARD, odd], "latex", TableOptions(("gain", "share", "rank")))
    text = f"\\documentclass{{article}}\\usepackage{{booktabs}}\\begin{{document}}{body}\\end{{document}}"
    (tmp_path / "table.tex").write_text(text)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("layout", ["onecolumn", "twocolumn", "11pt"])
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no TeX here")
def test_latex_of_a_wide_and_of_a_narrow_table_fits_a_paper(tmp_path, layout):
    """The table of the worked example was 209 pt too wide for two columns, 112 pt for one."""
    worked = Path(__file__).parents[2] / "experiments" / "worked" / "results.jsonl.gz"
    results = [stored for stored in read_results(worked).results if stored.result.student == "convnet"]
    narrow = [stored for stored in results if stored.spec.dataset == "ucm" and stored.spec.ipc == 10]
    wide, slim = (render.render(some, "latex", TableOptions(("rank",))) for some in (results, narrow))
    assert "\\begin{table*}" in wide
    assert "\\footnotesize" in wide
    assert "\\begin{table}" in slim
    assert "\\footnotesize" not in slim
    text = (
        f"\\documentclass[{layout}]{{article}}\\usepackage{{booktabs}}\\begin{{document}}{wide}{slim}\\end{{document}}"
    )
    (tmp_path / "table.tex").write_text(text)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "Overfull" not in done.stdout


PAPER = Reported("DPD", "arXiv:2601.15829, table 2", "scenes", 10, 99.5, std=0.4, n=5)


def test_a_reported_number_is_marked_and_never_bold():
    lines = render.render(
        BOARD, "latex", TableOptions(("gain",), reported=(PAPER, dataclasses.replace(PAPER, ipc=1)))
    ).splitlines()
    (line,) = (line for line in lines if line.startswith("DPD"))
    assert line == r"DPD [1] & 99.5 $\pm$ 0.4 &  & 99.5 $\pm$ 0.4 &  & -- &  \\"
    assert any(r"\textbf{52.0}" in line for line in lines)
    assert "[1] reported by arXiv:2601.15829, table 2, not computed here" in "\n".join(lines)
    text = render.render(BOARD, "text", TableOptions(("rank",), reported=(PAPER,)))
    assert "99.5 ± 0.4 (n=5)" in text
    assert text.count("[1]") == 2


def test_a_reported_number_changes_no_computed_one():
    bare = render.render(BOARD, "text").splitlines()
    marked = render.render(BOARD, "text", TableOptions(reported=(PAPER,))).splitlines()
    assert [line.split() for line in bare[2:6]] == [line.split() for line in marked[2:6]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ipc": 50}, "no column with dataset scenes, ipc 50"),
        ({"dataset": "aid"}, "no column with dataset aid"),
        ({"student": "vit_tiny"}, "student vit_tiny"),
    ],
)
def test_a_reported_number_without_a_column_is_an_error(changes, message):
    with pytest.raises(UserError, match=f"DPD of arXiv.*{message}"):
        render.render(BOARD, "text", TableOptions(reported=(dataclasses.replace(PAPER, **changes),)))


def test_a_file_of_numbers_serves_several_tables(tmp_path):
    other = dataclasses.replace(PAPER, dataset="ucm", ipc=1, protocol="long@1")
    cases = [({}, True, True), ({"dataset": "scenes"}, True, False), ({"ipc": 1}, False, True),
             ({"protocol": "quick"}, True, False), ({"protocol": "long"}, True, True),
             ({"students": ("convnet",)}, True, True)]  # fmt: skip
    for filters, *expected in cases:
        assert [Filters(**filters).matches_reported(one) for one in (PAPER, other)] == expected
    assert not Filters(students=("convnet",)).matches_reported(dataclasses.replace(PAPER, student="resnet18"))


def test_no_rule_stands_below_an_empty_head():
    lines = render.render(BOARD, "latex", TableOptions(("rank",))).splitlines()
    assert r"\cmidrule(lr){2-3} \cmidrule(lr){4-4}" in lines


def test_a_reported_number_with_several_columns_is_an_error():
    both = [*BOARD, entry(0.5, student="resnet18", spec={"ipc": 10})]
    with pytest.raises(UserError, match=r"2 columns .*size 32, convnet, quick@1, scratch; size 32, resnet18"):
        render.render(both, "text", TableOptions(reported=(PAPER,)))
    render.render(both, "text", TableOptions(reported=(dataclasses.replace(PAPER, student="resnet18"),)))


def test_a_file_of_reported_numbers(tmp_path):
    words = [f'{name} = "{getattr(PAPER, name)}"' for name in ("method", "source", "dataset")]
    path = tmp_path / "papers.toml"
    path.write_text("\n".join(["[[reported]]", *words, "ipc = 10", "percent = 99.5", "std = 0.4", "n = 5"]))
    assert read_reported(path) == (PAPER,)
    path.write_text(path.read_text().replace('2601.15829, table 2"', '2601.15829,\\n\\n table 2"'))
    assert read_reported(path) == (PAPER,)
    for old, new, message in (
        ("percent = 99.5", "percent = 995", "percent = 995 is invalid; expected a finite number from 0 to 100"),
        ("percent = 99.5", "", "a reported number lacks percent"),
        ("std", "sdt", "unknown key of Reported .*'sdt'; did you mean std"),
        ("[[reported]]", "[reported]", r"must have one table \[\[reported\]\]"),
    ):
        path.write_text(path.read_text().replace(old, new))
        with pytest.raises(UserError, match=message):
            read_reported(path)
        path.write_text(path.read_text().replace(new, old) if new else path.read_text() + "\npercent = 99.5")
