"""Records of failed tasks, in place of a run's distilled set or beside a student's missing result. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from ddbench.store.paths import failure_path
from ddbench.utils.files import read_json, write_json


@dataclass(frozen=True)
class Failure:
    """Reason of a missing result.

    status: "oom", "diverged", "died" or "failed"
    error: message
    trace: traceback, may be empty
    """

    status: str
    error: str
    trace: str = ""


def write_failure(path: Path, failure: Failure) -> None:
    """Record why `path` (a result file or a run folder) does not exist."""
    write_json(failure_path(path), asdict(failure))


def read_failure(path: Path) -> Failure | None:
    """Return the recorded failure of a result file or a run folder; None without one."""
    recorded = failure_path(path)
    return load_failure(recorded) if recorded.exists() else None


def load_failure(recorded: Path) -> Failure:
    """Return the failure that a file records; one that says why where the file cannot be read."""
    try:
        return parse_failure(read_json(recorded))
    except (OSError, ValueError) as error:
        return Failure("failed", f"its record cannot be read ({error})")


def parse_failure(value: Any) -> Failure:
    """Return the failure that a JSON object describes; ValueError for none."""
    return msgspec.convert(value, Failure)
