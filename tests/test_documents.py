"""Links of the documents lead somewhere; the architecture page names files and functions that exist."""

import configparser
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(p for name in ("*.md", "docs/**/*.md", "experiments/**/*.md") for p in ROOT.glob(name))
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
