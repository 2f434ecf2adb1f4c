"""Sizes and durations as text."""

from __future__ import annotations


def format_bytes(count: float) -> str:
    """Return a number of bytes as text: "12 kB", "148 MB", "2.3 GB"."""
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    if count >= 1e6:
        return f"{count / 1e6:.{0 if count >= 1e7 else 1}f} MB"
    return f"{count / 1e3:.0f} kB"


def format_seconds(seconds: float) -> str:
    """Return a duration as text: "45 s", "9 min", "2 h 5 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
