"""Names of files and folders below `--runs`: results, failures, locks. No torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from evaluators import VERSION

LOCKS = ".locks"  # folder below --runs, with a lock for each run in progress
FAILED = ".failed.json"
CONTINUAL = "continual"  # folder below --runs, with runs on some classes of a dataset
CANARIES = "canaries"  # folder below --runs, with runs on halves of a dataset's audited images
APART = (CONTINUAL, CANARIES)  # folders below --runs that no table of whole datasets reads
MEASURES = ("redundancy", "budget", CANARIES)  # folders in a run's, with the records of students; in no table


def safe(name: str) -> str:
    """Return a folder name for a name that may hold a path; the digest beside it tells equal ones apart."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "unnamed"


def is_inside_run(path: Path) -> bool:
    """Return True for a path below the folder of a run, which holds its own files only."""
    return any((parent / "spec.json").exists() for parent in path.absolute().parents)


def result_path(folder: Path, protocol: Any, student: str, seed: int) -> Path:
    """Return the path of a student's result in a run folder, by this version of the evaluator."""
    return folder / "results" / protocol_folder(protocol) / result_name(student, protocol.init, seed)


def protocol_folder(protocol: Any) -> str:
    """Return the name of the folder of a protocol's results, by this version of the evaluator."""
    version = "" if VERSION == 1 else f"-judge{VERSION}"
    return f"{safe(protocol.name)}-v{protocol.version}{version}"


def result_name(student: str, init: str, seed: int, precision: str = "") -> str:
    """Return the file name of a result.

    precision: "fp32" or "bf16" where the same student has a result in another precision too
    """
    start = f"{init}-{precision}" if precision else init
    return f"{student}-{start}-seed{seed}.json"


def corrupted_path(path: Path) -> Path:
    """Return the path of the result on corrupted test images of the student whose result is at `path`."""
    return path.parent / "corrupted-v1" / path.name  # of evaluators.corruptions.VERSION


def failure_path(path: Path) -> Path:
    """Return the path of the recorded failure of a result file or of a run folder."""
    return path.with_name(path.name.removesuffix(".json") + FAILED) if path.suffix == ".json" else path / "failed.json"
