"""docs/datasets.md says what the facts say."""

from __future__ import annotations

from pathlib import Path
from runpy import run_path

from ddbench.registry import names

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_what_the_facts_say():
    page = run_path(str(DOCS / "datasets_page.py"))["page"]()
    assert (DOCS / "datasets.md").read_text(encoding="utf-8") == page, "python docs/datasets_page.py > docs/datasets.md"
    assert all(f"| `{name}` " in page for name in names("datasets") if name != "scenes")
