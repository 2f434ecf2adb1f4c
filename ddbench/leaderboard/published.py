"""Accuracies that the papers of the built-in methods print: data for `ddbench show`, in no table. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ddbench.config import read_toml, validate

FILE = Path(str(files("ddbench") / "leaderboard" / "published.toml"))


@dataclass(frozen=True)
class Published:
    """A row of a paper's table.

    method, preset: they follow the paper; the preset is empty for the method's defaults.
    protocol, student: NAME@VERSION and name of the evaluation that follows the paper.
    dataset: in words.
    ipc: images per class, 0 for the whole training split.
    percent: accuracies as printed, one for each IPC.
    source: paper, and what limits the comparison.
    std: deviations as printed, one for each IPC, or none.
    """

    method: str
    protocol: str
    dataset: str
    student: str
    ipc: tuple[int, ...]
    percent: tuple[float, ...]
    source: str
    preset: str = ""
    std: tuple[float, ...] = ()

    def accuracies(self) -> str:
        """Return the accuracies as text: "IPC 1: 26.0 ± 0.8, IPC 10: 48.9 ± 0.6"."""
        deviations = [f" ± {std}" for std in self.std] or [""] * len(self.ipc)
        heads = [f"IPC {ipc}" if ipc else "all images" for ipc in self.ipc]
        parts = zip(heads, self.percent, deviations, strict=True)
        return ", ".join(f"{head}: {percent}{std}" for head, percent, std in parts)


def published(method: str) -> tuple[Published, ...]:
    """Return the rows of a method, none for a method of another package."""
    rows = (Published(**validate(Published, row, str(FILE))) for row in read_toml(FILE)["published"])
    return tuple(row for row in rows if row.method == method)
