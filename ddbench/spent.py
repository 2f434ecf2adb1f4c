"""What a distillation took, as its distill.json says. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddbench.utils.files import read_json


@dataclass(frozen=True)
class Spent:
    """seconds: of all processes that were at it, without what it found made or waited for; None where nobody knows.

    stages: seconds of each part that was made for it, by name. folders: those of its stages below --shared, by name.
    """

    seconds: float | None = None
    stages: Mapping[str, float] = field(default_factory=dict)
    folders: Mapping[str, str] = field(default_factory=dict)


def spent(run: Path) -> Spent:
    """Of a run's folder; nothing where its distill.json is missing or says nothing that could be true."""
    try:
        value = read_json(run / "distill.json")
        return _spent(value["seconds"], value.get("stages", []))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Spent()


def _spent(seconds: Any, parts: Any) -> Spent:
    stages: dict[str, float] = {}
    folders: dict[str, str] = {}
    for part in parts:
        name = part["stage"]
        if part.get("reused"):
            seconds -= part.get("waited", 0.0)
        else:
            seconds += part.get("earlier_seconds", 0.0)
            stages[name] = stages.get(name, 0.0) + part["seconds"]
        if "folder" in part:
            folders[name] = Path(part["folder"]).name
    if not all(math.isfinite(found) and found >= 0 for found in (seconds, *stages.values())):
        raise ValueError("no seconds")
    return Spent(float(seconds), stages, folders)
