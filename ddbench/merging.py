"""One runs folder out of several, from other machines. No torch.

Nothing is overwritten. What another folder has otherwise (another set of the same run, another result of the same
student) is a conflict: ours stays where it is, theirs is kept below `conflicts/`, and both are named.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ddbench.errors import UserError
from ddbench.files import locked, make_once, read_json
from ddbench.runner import LOCKS
from ddbench.runs import FAILED, content_of, failure_path, read_spec
from ddbench.scanning import run_folders

CONFLICTS = "conflicts"
PASSING = (
    "seconds",
    "memory_bytes",
    "device",
    "versions",
    "commit",
    "dirty",
    "compiled",
)  # of a result: not what it says


@dataclass
class Merged:
    """What was done. runs: copied whole. results: copied into runs that were there. same: were there, and equal.

    conflicts: (ours, theirs, as it is kept). skipped: "path: reason".
    """

    runs: int = 0
    results: int = 0
    same: int = 0
    conflicts: list[tuple[Path, Path]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def merge(runs: Path, others: tuple[Path, ...]) -> Merged:
    """Copy into `runs` what the other runs folders have and it has not."""
    merged = Merged()
    for other in others:
        if not other.is_dir():
            raise UserError(f"there is no runs folder {other}")
        if other.resolve() == runs.resolve():
            raise UserError(f"{other} is the folder to merge into")
        for folder in run_folders(other):
            _merge_run(runs, other, folder, merged)
    return merged


def _merge_run(runs: Path, other: Path, folder: Path, merged: Merged) -> None:
    try:
        spec = read_spec(folder / "spec.json")
    except (OSError, ValueError) as error:
        merged.skipped.append(f"{folder}: {error}")
        return
    ours = runs / folder.relative_to(other)
    (runs / LOCKS).mkdir(parents=True, exist_ok=True)
    with locked(runs / LOCKS / spec.digest[:16]):
        if make_once(ours, lambda partial: shutil.copytree(folder, partial, dirs_exist_ok=True, ignore=_passing)):
            merged.runs += 1
        elif _content(ours) is None and _content(folder) is not None:
            _complete(ours, folder, merged)
        elif _content(folder) is not None and _content(ours) != _content(folder):
            _keep(runs, other, ours, folder, merged)
        else:
            _merge_results(runs, other, ours, folder, merged)


def _complete(ours: Path, folder: Path, merged: Merged) -> None:
    """Ours was begun, theirs is done."""
    results = sum(1 for _ in _results(folder))
    shutil.copytree(folder, ours, dirs_exist_ok=True, ignore=_passing)
    failure_path(ours).unlink(missing_ok=True)
    merged.results += results


def _merge_results(runs: Path, other: Path, ours: Path, folder: Path, merged: Merged) -> None:
    for theirs in _results(folder):
        mine = ours / theirs.relative_to(folder)
        if not mine.exists():
            mine.parent.mkdir(parents=True, exist_ok=True)
            make_copy(theirs, mine)
            failure_path(mine).unlink(missing_ok=True)
            merged.results += 1
        elif _said(mine) == _said(theirs):
            merged.same += 1
        else:
            _keep(runs, other, mine, theirs, merged)


def make_copy(source: Path, target: Path) -> None:
    """Copy a file; it is whole or not there."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.copy2(source, partial)
    partial.replace(target)


def _keep(runs: Path, other: Path, ours: Path, theirs: Path, merged: Merged) -> None:
    """Copy theirs to where no table looks."""
    kept = runs / CONFLICTS / other.resolve().name / theirs.relative_to(other)
    kept.parent.mkdir(parents=True, exist_ok=True)
    if theirs.is_dir():
        shutil.copytree(theirs, kept, dirs_exist_ok=True, ignore=_passing)
    else:
        make_copy(theirs, kept)
    merged.conflicts.append((ours, kept))


def _results(folder: Path) -> Iterator[Path]:
    """Results and what lies beside them, but for failures."""
    for path in sorted(folder.glob("results/**/*.json")):
        if not path.name.endswith(FAILED) and not path.name.startswith("."):
            yield path


def _content(folder: Path) -> str | None:
    """Digest of a run's distilled set; None without one."""
    try:
        return content_of(folder)
    except ValueError:
        return None


def _said(path: Path) -> object:
    """What a result says, without what passes."""
    try:
        return {name: value for name, value in read_json(path).items() if name not in PASSING}
    except (ValueError, AttributeError):
        return path.read_bytes()


def _passing(folder: str, names: list[str]) -> list[str]:
    """What a process at work leaves: locks, temporary files, checkpoints."""
    return [name for name in names if name.startswith(".")]
