"""Cost of a distillation, from the distill.json of its run. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddbench.utils.files import read_json


@dataclass(frozen=True)
class DistillationCost:
    """Cost of one distillation.

    seconds: over all processes, excluding reused stages and waiting; None if unknown
    stages: seconds of each stage that was computed for it, by name
    folders: folders of its stages below --shared, by name
    """

    seconds: float | None = None
    stages: Mapping[str, float] = field(default_factory=dict)
    folders: Mapping[str, str] = field(default_factory=dict)


def read_cost(run: Path) -> DistillationCost:
    """Read the cost of a run folder; an empty one when its distill.json is missing or impossible."""
    try:
        return parse_cost(read_json(run / "distill.json"))
    except (OSError, ValueError):
        return DistillationCost()


def parse_cost(value: Any) -> DistillationCost:
    """Return the cost that the JSON object of a distill.json describes; ValueError for an impossible one.

    Seconds of processes that were killed are added; seconds of waiting for another's stage are subtracted.
    """
    try:
        seconds = value["seconds"]
        stages: dict[str, float] = {}
        folders: dict[str, str] = {}
        for stage in value.get("stages", []):
            name = stage["stage"]
            if stage.get("reused"):
                seconds -= stage.get("waited", 0.0)
            else:
                seconds += stage.get("earlier_seconds", 0.0)
                stages[name] = stages.get(name, 0.0) + stage["seconds"]
            if "folder" in stage:
                folders[name] = Path(stage["folder"]).name.lstrip(".")  # of "..", nothing
        if all(math.isfinite(number) and number >= 0 for number in (seconds, *stages.values())):
            return DistillationCost(float(seconds), stages, folders)
    except (KeyError, TypeError, AttributeError, OverflowError):
        pass
    raise ValueError("it has no seconds of a distillation")
