"""The page: it holds everything, says where each number is from, and works in a browser."""

import base64
import dataclasses
import html
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from test_table import RESULT, SPEC

from ddbench import protocols
from ddbench.cli.main import cli
from ddbench.datasets.info import DataPaths
from ddbench.report.cells import command
from ddbench.report.page import page
from ddbench.runner.plan import Request, evaluation_setup, plan
from ddbench.store import distilled_set, paths, records
from ddbench.store.reader import RunsScan, read_runs
from ddbench.utils.files import write_json
from evaluators.protocols import QUICK_1

CLASSES = ("barn", "pond <& sea>", "wood")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def write_run(folder, method, ipc, seed, accuracy, size=16):
    """A run with its images, costs and two students."""
    spec = dataclasses.replace(SPEC, method=method, ipc=ipc, seed=seed, size=size, params={"a": 1, "names": ["x", "y"]})
    run = spec.folder(folder)
    numbers = np.random.default_rng(seed)
    images = numbers.integers(0, 256, (3 * ipc, size, size, 3), dtype=np.uint8)
    (run / "distilled").mkdir(parents=True)
    pictures = distilled_set.Pictures(images, np.repeat(np.arange(3), ipc), CLASSES)
    distilled_set.write(run / "distilled", pictures)
    records.write_spec(run, spec)
    write_json(run / "distill.json", {"seconds": 10.0 * ipc, "stages": [{"stage": "teacher", "seconds": 5.0}]})
    for student in range(2):
        per_class = dict(zip(CLASSES, (accuracy, accuracy / 2, 0.1), strict=True))
        changes = {
            "run": spec.digest,
            "content": pictures.content(),
            "seed": student,
            "overall": accuracy + 0.01 * student,
        }
        details = {"per_class": per_class, "confusion": [[5, 1, 0], [2, 4, 0], [0, 0, 6]]}
        result = dataclasses.replace(RESULT, **changes, **details)
        records.write_result(paths.result_path(run, QUICK_1, "convnet", student), result)
    return spec


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for method, accuracy in (("random", 0.3), ("dm", 0.5), ("<script>alert(1)</script>", 0.37)):
        for ipc in (1, 3):
            for seed in range(2):
                write_run(folder, method, ipc, seed, accuracy + 0.1 * (ipc == 3) + 0.02 * seed)
    return folder


@pytest.fixture(scope="module")
def text(folder):
    return page(read_runs(folder, costs=True))


class Checked(HTMLParser):
    """Every element that is opened is closed; what is loaded from elsewhere."""

    VOID = frozenset({"meta", "input", "img", "br", "link", "path", "use", "rect", "circle"})

    def __init__(self):
        super().__init__()
        self.open, self.loaded, self.ids = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        self.loaded += [
            value for name, value in attrs if name in ("src", "href") and not value.startswith(("#", "data:"))
        ]
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_it_is_whole_and_loads_nothing(text):
    checked = Checked()
    checked.feed(text)
    assert checked.open == []
    assert checked.loaded == []
    assert {"leaderboard", "plots", "classes", "sets", "data"} <= set(checked.ids)


def test_every_number_is_that_of_the_results(text, folder):
    cells = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL).group(1))
    assert len(cells) == 6
    (dm,) = (cell for cell in cells if (cell["method"], cell["ipc"]) == ("dm", 3))
    # by hand: distillations 0.605, 0.625; random 0.405, 0.425
    assert (dm["mean"], dm["n"], dm["students"]) == (pytest.approx(0.615), 2, 4)
    assert (dm["gain"], dm["share"], dm["seconds"]) == (pytest.approx(0.2), None, 30.0)
    assert dm["confusion"] == [[20, 4, 0], [8, 16, 0], [0, 0, 24]]
    assert dm["classes"] == {"barn": 0.61, "pond <& sea>": 0.305, "wood": 0.1}
    paths = {result["path"] for cell in cells for result in cell["results"]}
    assert paths == {str(entry.path) for entry in read_runs(folder).results}


def test_ratios_and_slopes_are_those_of_the_results(text):
    cells = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL).group(1))
    by_cell = {(cell["method"], cell["ipc"]): cell for cell in cells}
    # by hand: dm has 51.5 and 61.5 %, random 31.5 and 41.5 %; 0.5 at IPC 1 is beyond the curve of random
    assert [by_cell["dm", ipc]["ratio_text"] for ipc in (1, 3)] == ["> 3.00", "> 1.00"]
    assert by_cell["random", 3]["ratio_text"] == "1.00"
    odd = by_cell["<script>alert(1)</script>", 1]
    assert odd["ratio"] == pytest.approx(3**0.7)  # 38.5 of 31.5 to 41.5 %
    assert (by_cell["dm", 1]["slope"], by_cell["dm", 3]["slope"]) == (None, pytest.approx(0.05))
    assert text.count("images of random for the same accuracy, per image") == 1


def test_students_stand_beside_each_other(folder):
    scan = read_runs(folder, costs=True)
    assert "No method has results with two students" in page(scan)
    lower = [
        dataclasses.replace(s, result=dataclasses.replace(s.result, student="vit_tiny", overall=s.result.overall - 0.1))
        for s in scan.results
    ]
    both = []
    for s in [*scan.results, *lower]:
        params = {"student": "convnet"} if s.spec.method == "dm" else {}
        both.append(dataclasses.replace(s, spec=dataclasses.replace(s.spec, params=params)))
    text = page(dataclasses.replace(scan, results=both))
    Checked().feed(text)
    tables = re.findall(r'<table class="matrix">.*?</table>', text, re.DOTALL)
    assert len(tables) == 2  # of IPC 1 and 3
    heads = re.findall(r'<th scope="col"[^>]*>([^<]*)</th>', tables[1])
    assert heads == ["method", "convnet", "vit_tiny", "mean", "worst", "drop"]
    rows = [re.findall(r">([^<\n]+)</t[hd]>", row) for row in tables[1].split("<tr>")[2:]]
    assert rows[0] == ["random", "41.5 ± 1.4", "31.5 ± 1.4", "36.5", "31.5", "-"]
    assert ["dm", "61.5 ± 1.4", "51.5 ± 1.4", "56.5", "51.5", "+10.0"] in rows
    assert tables[1].count('class="own"') == 1


def test_cells_and_plots_of_two_evaluators_are_told_apart(folder):
    scan = read_runs(folder, costs=True)
    newer = [
        dataclasses.replace(s, result=dataclasses.replace(s.result, versions={"evaluators": "2"})) for s in scan.results
    ]
    text = page(dataclasses.replace(scan, results=[*scan.results, *newer]))
    cells = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL).group(1))
    assert len(cells) == 12
    assert len({(cell["method"], cell["ipc"], cell["evaluators"]) for cell in cells}) == 12
    assert {"evaluators 1", "evaluators 2"} <= set(re.findall(r"fp32, (evaluators \d)", text))


def test_names_are_never_markup(text):
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_the_command_makes_the_same_run(tmp_path):
    request = Request("dm", "scenes", (2,), 32, "tiny", None, ("rate=0.3",), (4,))
    spec = plan(request, evaluation_setup(("convnet",), "quick@1", 1), DataPaths(None, tmp_path, True)).specs[0]
    words = command(spec, dataclasses.replace(RESULT, student="convnet", protocol="quick")).split()[1:]
    done = CliRunner().invoke(cli, ["--runs", str(tmp_path), "--shared", str(tmp_path), "-q", *words, "--dry-run"])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0] == f"to do: {spec.folder(tmp_path)}: distil"


def test_the_command_of_a_protocol_of_ones_own_names_its_file(tmp_path):
    (tmp_path / "short-er.toml").write_text('like = "quick@1"\nrecipes.convnet.epochs = 2\n')
    protocol = protocols.read_protocol(tmp_path / "short-er.toml")
    result = dataclasses.replace(RESULT, protocol=protocol.name, compiled=True, seed=2)
    assert command(SPEC, result).endswith("--protocol short-er.toml --compiled --student-seeds 3")
    assert "--method FILE.py:CLASS " in command(dataclasses.replace(SPEC, source="e" * 64), result)


@pytest.mark.slow
def test_fifty_runs_stay_under_ten_megabytes(tmp_path):
    for seed in range(50):
        write_run(tmp_path, "noise", 10, seed, 0.5, size=64)  # nothing is larger than noise
    assert len(page(read_runs(tmp_path, costs=True))) < 10_000_000


@pytest.mark.slow
def test_all_pictures_of_a_run_share_its_part_of_the_budget(tmp_path, monkeypatch):
    monkeypatch.setattr("ddbench.report.page.MAX_PICTURE_BYTES", 500_000)
    numbers = np.random.default_rng(0)
    for seed in range(4):
        run = write_run(tmp_path, "noise", 10, seed, 0.5, size=64).folder(tmp_path)
        points = lambda: {name: numbers.normal(size=(200, 2)).tolist() for name in CLASSES}  # noqa: E731
        values = {"real": points(), "distilled": points(), "explained": 0.5}
        for network in "abc":
            write_json(
                run / f"quality/map-{network}.json", {"content": records.distilled_digest(run), "values": values}
            )
    stored = re.findall(r'src="data:image/webp;base64,([^"]*)"', page(read_runs(tmp_path, costs=True)))
    assert len(stored) == 4 * 4
    assert sum(map(len, stored)) < 500_000


def test_prototypes_stand_beside_what_was_made_of_them(tmp_path):
    run = write_run(tmp_path / "runs", "dpd", 2, 0, 0.5).folder(tmp_path / "runs")
    for name in CLASSES:
        (tmp_path / "shared/prototypes-12/images" / name).mkdir(parents=True)
        for number, red in enumerate((255, 128)):
            picture = Image.new("RGB", (16, 16), (red, 0, 0))
            picture.save(tmp_path / "shared/prototypes-12/images" / name / f"{number:03d}.png")
    write_json(
        run / "distill.json",
        {"seconds": 2.0, "stages": [{"stage": "prototypes", "seconds": 1.0, "folder": "prototypes-12"}]},
    )
    text = page(read_runs(tmp_path / "runs", costs=True), tmp_path / "shared")
    assert text.count("data:image/webp") == 2
    stored = re.search(r'webp;base64,([^"]*)" alt="[^"]*prototypes', text).group(1)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(stored))).convert("RGB"))
    assert pixels.shape == (16, 3 * 2 * 16, 3)  # three classes of two on one line
    reds = pixels[4:12, 8::16, 0].astype(int)
    assert np.abs(reds - [255, 128] * 3).max() < 20
    assert page(read_runs(tmp_path / "runs", costs=True), tmp_path / "elsewhere").count("data:image/webp") == 1


def test_odd_names_and_results_without_classes_are_drawn(tmp_path):
    write_run(tmp_path, "_cost$\\bad$", 1, 0, 0.5)
    for path in tmp_path.rglob("results/*/*seed1.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"per_class": {}, "confusion": []}))
    assert "1 cells" in page(read_runs(tmp_path, costs=True))


def test_no_results_yet_is_a_page_too(tmp_path):
    assert "0 cells" in page(RunsScan())


def test_the_command_line(folder, tmp_path):
    done = CliRunner().invoke(cli, ["--runs", str(folder), "report", "--output", str(tmp_path / "out.html")])
    assert done.exit_code == 0, done.output
    assert re.fullmatch(r".*out\.html: [\d.]+ [kM]B\n", done.stdout)
    shutil.copytree(folder, tmp_path / "runs")
    next((tmp_path / "runs").rglob("results/*/*.json")).write_text("{")
    failed = CliRunner().invoke(
        cli, ["--runs", str(tmp_path / "runs"), "report", "--output", str(tmp_path / "out.html")]
    )
    assert failed.exit_code == 1
    assert "is not readable JSON" in (tmp_path / "out.html").read_text()


TRIED = """
<script>
const said = {};
const lines = () => [...document.querySelectorAll("#board tbody tr")];
const rows = () => lines().map(r => r.cells[0].textContent + " " + r.cells[1].textContent);
said.first = rows();
document.querySelectorAll("#board th button")[1].click();
said.sorted = rows();
said.aria = document.querySelectorAll("#board th")[1].getAttribute("aria-sort");
const search = document.querySelector("#filters input");
search.value = "DM"; search.dispatchEvent(new Event("input"));
said.searched = rows();
const ipc = document.querySelectorAll("#filters select")[2];
ipc.value = "3"; ipc.dispatchEvent(new Event("change"));
said.filtered = rows();
document.querySelector("#board tbody tr").dispatchEvent(new KeyboardEvent("keydown", {key: "Enter"}));
said.opened = document.getElementById("details").open;
said.command = document.querySelector("#details pre").textContent;
document.querySelector("#details .close").click();
document.querySelector(".zoom").click();
said.large = document.getElementById("large").open;
said.confusion = document.querySelectorAll("#confusion tbody td").length;
said.wide = [...document.querySelectorAll("body *")].filter(
  e => e.getBoundingClientRect().right > window.innerWidth + 1 && !e.closest(".wide, dialog, svg")
).map(e => e.outerHTML.slice(0, 80));
document.body.append(Object.assign(document.createElement("output"), {id: "said", textContent: JSON.stringify(said)}));
</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [500, 1200])
def test_in_a_browser(text, tmp_path, width):
    (tmp_path / "page.html").write_text(text.replace("</body>", TRIED))
    words = ["--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},800", "--enable-logging=stderr",
             f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000", "--dump-dom"]  # fmt: skip
    done = subprocess.run([CHROMIUM, *words, tmp_path / "page.html"], capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr, done.stderr
    observed = json.loads(html.unescape(re.search(r'<output id="said">(.*?)</output>', done.stdout).group(1)))
    odd = "<script>alert(1)</script>"
    assert [line.partition(" ")[0] for line in observed["first"]] == ["dm", "dm", odd, "random", odd, "random"]
    assert observed["sorted"] == observed["first"][::-1]
    assert observed["aria"] == "ascending"
    assert observed["searched"] == ["dm 51.5 ± 1.4", "dm 61.5 ± 1.4"]
    assert observed["filtered"] == ["dm 61.5 ± 1.4"]
    assert (observed["opened"], observed["large"], observed["confusion"]) == (True, True, 9)
    start = "ddbench run --method dm --dataset scenes --size 16 --ipc 3 --set a=1 --set names=x,y --seed 0 --student"
    assert observed["command"].startswith(start)
    assert observed["wide"] == [], "wider than the screen"
