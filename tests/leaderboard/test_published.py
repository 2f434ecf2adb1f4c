"""Test that published accuracies are complete rows of presets and students that exist."""

from __future__ import annotations

import pytest

from ddbench import config
from ddbench.leaderboard.published import FILE, published
from ddbench.registry import load_method, names
from evaluators.catalog import STUDENTS

ROWS = [row for method in names("methods") for row in published(method)]


def test_every_row_belongs_to_a_method():
    assert len(ROWS) == len(config.read_toml(FILE)["published"])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.method}-{row.preset}-{row.dataset}-{row.student}")
def test_a_row_is_complete_and_its_settings_exist(row):
    assert len(row.ipc) == len(row.percent)
    assert len(row.std) in (0, len(row.ipc))
    assert list(row.ipc) == sorted(set(row.ipc))
    assert all(0 < percent < 100 for percent in row.percent)
    assert row.student in STUDENTS
    assert "@" in row.protocol
    config.build(load_method(row.method), row.preset or None)


def test_the_methods_of_another_package_have_none():
    assert published("mine") == ()
