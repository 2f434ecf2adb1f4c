"""docs/datasets.md says what the facts say."""

from __future__ import annotations

from pathlib import Path

from ddbench.datasets.page import ALL, page
from ddbench.registry import names

PAGE = Path(__file__).parents[2] / "docs" / "datasets.md"


def test_the_page_is_what_the_facts_say():
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m ddbench.datasets.page > docs/datasets.md"


def test_every_dataset_is_on_it():
    assert {facts.name for facts in ALL} == set(names("datasets")) - {"scenes"}
