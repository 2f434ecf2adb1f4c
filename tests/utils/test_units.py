"""Sizes and durations as text."""

from __future__ import annotations

import pytest

from ddbench.utils.units import format_bytes, format_seconds


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 kB"), (700, "1 kB"), (999_400, "999 kB"), (2_500_000, "2.5 MB"), (148e6, "148 MB"), (2.34e9, "2.3 GB")],
)
def test_bytes(count, text):
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (89, "89 s"), (540, "9 min"), (3599, "1 h 0 min"), (7500, "2 h 5 min")],
)
def test_seconds(seconds, text):
    assert format_seconds(seconds) == text
