"""Test that published accuracies are complete rows of presets and students that exist."""

from __future__ import annotations

import re

import pytest

from ddbench import config
from ddbench.leaderboard.published import FILE, published
from ddbench.protocols import load_protocol
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
    load_protocol(row.protocol).recipe(row.student)
    assert load_protocol(row.protocol).title == row.protocol
    config.build(load_method(row.method), row.preset or None)


def test_the_methods_of_another_package_have_none():
    assert published("mine") == ()


OURS = {"kmeans", "dpd"}  # one follows no paper, the tables of the other's could not be obtained


@pytest.mark.parametrize("method", sorted(set(names("methods")) - OURS))
def test_every_method_names_an_accuracy_and_a_protocol_that_exists(method):
    """In a row, or in the first sentence of a preset."""
    purposes = [config.preset_purpose(file) for file in config.presets(load_method(method)).values()]
    stated = [text for text in purposes if "%" in text]
    assert published(method) or stated
    for text in stated:
        (title,) = re.findall(r"[a-z0-9-]+@\d+", text)
        assert load_protocol(title).title == title
