"""One runs folder out of several, from other machines. No torch.

Nothing is overwritten. What another folder has otherwise (another set of the same run, another result of the same
student) is a conflict: ours stays where it is, theirs is kept below `conflicts/`, and both are named.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddbench.errors import UserError
from ddbench.store.paths import FAILED, LOCKS, failure_path, result_name
from ddbench.store.reader import run_folders
from ddbench.store.records import content_of, read_result, read_spec
from ddbench.utils.files import digest, locked, make_once, read_json, write_bytes

CONFLICTS = "conflicts"
# of a result: what it took and where, not what it says
PASSING = frozenset({"seconds", "memory_bytes", "device", "versions", "commit", "dirty", "compiled"})


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
        folders = list(run_folders(other))
        if not folders:
            raise UserError(f"{other} holds no run: is it the folder that --runs named (runs/ucm64/random/...)?")
        for folder in folders:
            _merge_run(runs, other, folder, merged)
        if (other / CONFLICTS).exists():
            merged.skipped.append(f"{other / CONFLICTS}: what an earlier merge could not decide is not carried over")
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
        bad = _unusable(folder, merged)
        if make_once(ours, lambda partial: _copy(folder, partial, bad)):
            merged.runs += 1
            return
        if _apart(ours, folder):
            _keep(runs, other, ours, folder, merged)
            return
        _complete(ours, folder)
        for result in _results(folder):
            if result not in bad:
                _merge_result(runs, other, (ours / result.relative_to(folder), result), merged)


def _apart(ours: Path, theirs: Path) -> bool:
    """Whether the two are of other images: the sets that are there, else those that their results judged."""
    one, other = (_sets(folder) for folder in (ours, theirs))
    return bool(one and other and one != other)


def _sets(folder: Path) -> set[str]:
    """Digest of the distilled set of a run; where its images are gone, of those that its results are of."""
    own = _content(folder)
    if own is not None:
        return {own}
    found = (_said(path) for path in _results(folder) if path.parent.parent.name == "results")
    return {str(said.get("content")) for said in found if isinstance(said, dict)}


def _unusable(folder: Path, merged: Merged) -> set[Path]:
    """Results that nobody can use; they are named, and stay where they are."""
    bad = set()
    for path in folder.glob("results/*/*.json"):
        try:
            if not path.name.endswith(FAILED):
                read_result(path)
        except (OSError, ValueError) as error:
            merged.skipped.append(f"{path}: {error}")
            bad.add(path)
    return bad


def _copy(folder: Path, target: Path, bad: set[Path]) -> None:
    """All but `bad`, and what a process at work leaves: locks, temporary files, checkpoints."""
    ignored = lambda place, names: [n for n in names if n.startswith(".") or Path(place, n) in bad]  # noqa: E731
    shutil.copytree(folder, target, dirs_exist_ok=True, ignore=ignored)


def _complete(ours: Path, folder: Path) -> None:
    """Ours was begun, theirs has more: take the set, and what lies beside it."""
    if _content(ours) is None and _content(folder) is not None:
        make_once(ours / "distilled", lambda partial: _copy(folder / "distilled", partial, set()))
        failure_path(ours).unlink(missing_ok=True)
    for name in ("spec.json", "distill.json", "contact.png"):
        if (folder / name).exists() and not (ours / name).exists():
            write_bytes(ours / name, (folder / name).read_bytes())


def _merge_result(runs: Path, other: Path, pair: tuple[Path, Path], merged: Merged) -> None:
    mine, theirs = pair
    if not mine.exists():
        write_bytes(mine, theirs.read_bytes())
        failure_path(mine).unlink(missing_ok=True)
        merged.results += 1
    elif _said(mine) == _said(theirs):
        merged.same += 1
    elif beside := _in_another_precision(mine, theirs):
        _merge_result(runs, other, (beside, theirs), merged)
    else:
        _keep(runs, other, mine, theirs, merged)


def _in_another_precision(mine: Path, theirs: Path) -> Path | None:
    """Where theirs belongs if one student was trained in fp32 and the other in bf16: tables keep them apart."""
    if theirs.parent.parent.name != "results":
        return None
    try:
        one, other = read_result(mine, whole=False), read_result(theirs, whole=False)
    except (OSError, ValueError):
        return None
    apart = one.precision and other.precision and one.precision != other.precision
    name = result_name(other.student, other.init, other.seed, other.precision)
    return mine.with_name(name) if apart else None


def _keep(runs: Path, other: Path, ours: Path, theirs: Path, merged: Merged) -> None:
    """Copy theirs to where no table looks."""
    source = f"{other.resolve().name}-{digest(str(other.resolve()))[:8]}"  # several may be called alike
    kept = runs / CONFLICTS / source / theirs.relative_to(other)
    if theirs.is_dir():
        shutil.rmtree(kept, ignore_errors=True)
        _copy(theirs, kept, set())
    else:
        write_bytes(kept, theirs.read_bytes())
    merged.conflicts.append((ours, kept))


def _results(folder: Path) -> Iterator[Path]:
    """Results, what lies beside them, and what `ddbench quality` measured, but for failures."""
    for path in sorted([*folder.glob("results/**/*.json"), *folder.glob("quality/*.json")]):
        if not path.name.endswith(FAILED) and not path.name.startswith("."):
            yield path


def _content(folder: Path) -> str | None:
    """Digest of a run's distilled set; None without one."""
    try:
        return content_of(folder)
    except ValueError:
        return None


def _said(path: Path) -> dict[str, Any] | bytes:
    """What a result says, without what passes; its bytes where that cannot be read."""
    try:
        return {name: value for name, value in read_json(path).items() if name not in PASSING}
    except (ValueError, AttributeError):
        return path.read_bytes()
