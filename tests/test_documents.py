"""Links of the documents lead somewhere; the pages name what exists; the examples in Python run."""

import configparser
import re
from pathlib import Path
from typing import Any

import pytest
from third_party import few, write_images, write_method

import evaluators

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    p for name in ("*.md", "docs/**/*.md", "experiments/**/*.md", "examples/**/*.md") for p in ROOT.glob(name)
)
CODE = [ROOT / "ddbench", ROOT / "ddbench" / "methods", ROOT]  # folders that docs/architecture.md leaves out


def anchors(page: Path) -> set[str]:
    """GitHub's anchors of a page's headings: lower case, no punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if "://" not in link and not (target.exists() and (not anchor or anchor in anchors(target))):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    assert broken_links(page) == []


def test_the_readme_is_read_at_once():
    """At most 150 lines of 120 characters, 8 kB."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert [line for line in text.splitlines() if len(line) > 120] == []
    assert len(text.encode()) <= 8000


def test_a_broken_link_would_be_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One `two`\n[a](#one-two) [b](page.md#one-two) [c](#three) [d](gone.md) [e](https://example.org)")
    assert broken_links(page) == ["#three", "gone.md"]


def test_the_architecture_page_names_what_exists():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    names = re.findall(r"`([\w/]+\.py)(?:: (\w+))?`", text)
    assert len(names) > 20
    for path, function in names:
        (file,) = {folder / path for folder in CODE if (folder / path).is_file()} or {None}
        assert file is not None, path
        assert not function or f"def {function}(" in file.read_text(encoding="utf-8"), (path, function)


def test_the_layout_names_every_module():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    layout = text.partition("## Layout")[2].partition("| to add |")[0]
    folders = ["api", "sweep", "runner", "store", "leaderboard", "report", "datasets", "utils"]
    folders += [f"methods/{name}" for name in ("shared", "pixels", "latent_diffusion")]
    modules = [path.stem for folder in folders for path in (ROOT / "ddbench" / folder).glob("[!_]*.py")]
    assert len(modules) > 80
    assert sorted({name for name in modules if not re.search(rf"\b{name}\b", layout)}) == []


def test_the_text_of_the_evaluator_names_every_module():
    modules = {path.stem for path in (ROOT / "evaluators").glob("[!_]*.py")}
    assert {name for name in modules if not re.search(rf"\b{name}\b", evaluators.__doc__ or "")} == set()


def test_the_tests_that_the_reliability_page_names_exist():
    text = (ROOT / "docs/reliability.md").read_text()
    code = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    names = set(re.findall(r"`(test_\w+)`", text))
    assert len(names) > 50
    assert not {name for name in names if not re.search(rf"def {name}\b", code)}
    assert not {path for path in re.findall(r"`(tests/[\w/]+\.py)`", text) if not (ROOT / path).is_file()}


def test_the_page_of_libraries_names_each_dependency_with_its_floor():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lists = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    floors = dict(match for text in lists for match in re.findall(r"^([\w-]+)(?:>=([\d.]+))?", text, re.MULTILINE))
    assert len(floors) > 20
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8").partition("\n`make test-lowest`")[0]
    listed: dict[str, str] = {}
    for libraries, versions in re.findall(r"^\| (`.*?) \| .*? \| (any|\d[^|]*) \| ", page, re.MULTILINE):
        names = re.findall(r"`([\w-]+)`", libraries.partition(" (extra")[0])
        numbers = versions.replace("any", "").split(", ")
        listed |= zip(names, numbers if len(numbers) > 1 else numbers * len(names), strict=True)
    assert listed == floors


def run_examples(page: Path, *replacements: tuple[str, str]) -> dict[str, Any]:
    """Run the examples of a page in their order; return their variables."""
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) > 4
    variables: dict[str, Any] = {}
    for block in blocks:
        for old, new in replacements:
            block = block.replace(old, new)
        exec(compile(block, str(page), "exec"), variables)
    return variables


def test_the_examples_of_the_python_page_run_on_small_images(tmp_path, monkeypatch, capsys):
    """With two classes of 8 px, three steps of training and a method that trains nothing; below as they are."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images", {"barn": 10, "pond": 12})
    (tmp_path / "few.toml").write_text(few(3))
    write_method(tmp_path)
    variables = run_examples(
        ROOT / "docs" / "python.md",
        ('dataset="scenes", ipc=2)', 'dataset="folder:images", ipc=2)'),
        ('dataset="scenes"', 'dataset="folder:images", protocol="few.toml"'),
        ("dataset=(train, test)", 'dataset=(train, test), protocol="few.toml"'),
        ('"scenes"', '"folder:images"'),
        ('"kcenter"', '"pick.py:Pick"'),
        ("size=32", "size=8"),
        ("(3, 32, 32)", "(3, 8, 8)"),
    )
    shown = capsys.readouterr().out
    assert re.search(r"^pick +\d", shown, re.MULTILINE)
    assert "unknown method 'randm'; did you mean random?" in shown
    assert variables["run"].results[0].spec.method == "memory:class means"
    assert variables["batch"].target.shape[1] == 2


@pytest.mark.slow
def test_the_examples_of_the_python_page_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    variables = run_examples(ROOT / "docs" / "python.md")
    assert len(variables["results"]) == 3
