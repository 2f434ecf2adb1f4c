"""Names of files and folders below `--runs`: results, failures, locks. No torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from evaluators import VERSION

LOCKS = ".locks"  # in the runs folder: one for each run that somebody is at


FAILED = ".failed.json"


def safe(name: str) -> str:
    """A folder name for a name that may hold a path: the digest beside it tells equal ones apart."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "unnamed"


def result_path(folder: Path, protocol: Any, student: str, seed: int) -> Path:
    """Where the result of one student (and its seed) lies in a run folder, by this version of the judge."""
    judge = "" if VERSION == 1 else f"-judge{VERSION}"
    under = folder / "results" / f"{safe(protocol.name)}-v{protocol.version}{judge}"
    return under / result_name(student, protocol.init, seed)


def result_name(student: str, init: str, seed: int, precision: str = "") -> str:
    """The name of a result's file. precision: of one that stands beside that of the same student in another."""
    trained = f"{init}-{precision}" if precision else init
    return f"{student}-{trained}-seed{seed}.json"


def corrupted_path(path: Path) -> Path:
    """Where the accuracies on corrupted test images lie, of the student whose result is at `path`."""
    return path.parent / "corrupted-v1" / path.name  # of evaluators.corruptions.VERSION


def failure_path(path: Path) -> Path:
    """Where the failure of a result file, or of a run folder's distillation, is recorded."""
    return path.with_name(path.name.removesuffix(".json") + FAILED) if path.suffix == ".json" else path / "failed.json"
