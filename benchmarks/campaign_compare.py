"""The folders of a run of benchmarks/campaign.py, and their comparison with those of an undisturbed run."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Fields that two undisturbed runs differ in as well: times, memory, and which of two processes made a shared stage.
MEASURED = frozenset({"seconds", "memory_bytes", "memory", "rss_bytes"})
OF_STAGES = frozenset({"reused", "waited", "earlier_seconds"})
RECORDS = ("distill.json", "stage.json", "teacher.json")  # and every file of results/


@dataclass(frozen=True)
class Place:
    """The runs folder and the shared folder of one run, beside its log."""

    folder: Path
    runs: Path
    shared: Path

    @classmethod
    def below(cls, folder: Path) -> Place:
        folder.mkdir(parents=True)
        return cls(folder, folder / "runs", folder / "shared")

    def files(self) -> list[Path]:
        return [path for part in (self.runs, self.shared) if part.exists() for path in part.rglob("*")]

    def begun(self) -> bool:
        """Return True when a file was written."""
        return any(path.is_file() for path in self.files())


@dataclass
class Difference:
    """Paths of files that the undisturbed run has and this one lacks, that differ, and that only this one has."""

    lost: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    litter: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.lost or self.different or self.litter)


def snapshot(place: Place) -> dict[str, bytes | None]:
    """Return the comparable content of every file by its path, hidden ones too; None for a folder."""
    content: dict[str, bytes | None] = {}
    for path in place.files():
        name = f"{'runs' if path.is_relative_to(place.runs) else 'shared'}/"
        name += str(path.relative_to(place.runs if path.is_relative_to(place.runs) else place.shared))
        content[name] = comparable(path) if path.is_file() else None
    return content


def comparable(path: Path) -> bytes:
    """Return the bytes of a file; of a record, those of its JSON without what may differ."""
    data = path.read_bytes()
    if path.name in RECORDS or (path.suffix == ".json" and "results" in path.parts):
        try:
            return json.dumps(_without_measures(json.loads(data)), sort_keys=True).encode()
        except ValueError:
            return data
    return data


def _without_measures(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_measures(v) for k, v in value.items() if k not in MEASURED | OF_STAGES}
    return [_without_measures(one) for one in value] if isinstance(value, list) else value


def compare(reference: dict[str, bytes | None], place: Place) -> Difference:
    here = snapshot(place)
    both = reference.keys() & here.keys()
    return Difference(
        sorted(reference.keys() - here.keys()),
        sorted(name for name in both if here[name] != reference[name]),
        sorted(here.keys() - reference.keys()),
    )
