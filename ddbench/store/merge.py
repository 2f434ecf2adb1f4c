"""Merge runs folders of several machines into one. No torch.

Nothing is overwritten. Another set of the same run, or another result of the same student, is a conflict: the target's
stays, the source's is copied below `conflicts/`, and both are named.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ddbench.errors import UserError
from ddbench.store.paths import FAILED, LOCKS, MEASURES, failure_path, result_name
from ddbench.store.reader import misplaced, run_folders
from ddbench.store.records import RunSpec, distilled_digest, read_result, read_spec
from ddbench.store.results_file import unpack_results
from ddbench.utils.files import digest, locked, make_once, read_json, remove_stale_files, write_bytes

CONFLICTS = "conflicts"
MEASURED = frozenset({"seconds", "memory_bytes", "device", "versions", "commit", "dirty", "compiled"})  # may differ


@dataclass
class MergeReport:
    """Counts and conflicts of a merge.

    runs: runs copied whole
    results: results copied into existing runs
    same: results that both folders have, and equal
    conflicts: (the target's path, the path of the source's copy)
    skipped: "path: reason"
    """

    runs: int = 0
    results: int = 0
    same: int = 0
    conflicts: list[tuple[Path, Path]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Folders:
    """Folders of one merge.

    runs: to merge into
    source: to merge from
    conflicts: for copies of what conflicts
    """

    runs: Path
    source: Path
    conflicts: Path


def merge(runs: Path, sources: tuple[Path, ...]) -> MergeReport:
    """Copy into `runs` every run and result that it lacks.

    sources: runs folders, and files that `results_file.export_results` wrote
    Raises UserError for a source that is neither.
    """
    report = MergeReport()
    for source in sources:
        if not source.exists():
            raise UserError(f"{source} is neither a runs folder nor a file of results")
        if source.resolve() == runs.resolve():
            raise UserError(f"{source} is the folder to merge into: name other folders")
        name = f"{source.resolve().name}-{digest(str(source.resolve()))[:8]}"  # several may have one name
        with TemporaryDirectory() as temporary:
            folder = source
            if source.is_file():
                folder = Path(temporary)
                report.skipped += [f"{problem.path}: {problem.reason}" for problem in unpack_results(source, folder)]
            run_paths = list(run_folders(folder))
            if not run_paths:
                raise UserError(f"{source} has no run: name the folder that --runs had (runs/ucm64/random/...)")
            for run in run_paths:
                _merge_run(_Folders(runs, folder, runs / CONFLICTS / name), run, report)
            report.skipped = [line.replace(temporary, str(source)) for line in report.skipped]
        if (source / CONFLICTS).exists():
            report.skipped.append(f"{source / CONFLICTS}: conflicts of an earlier merge are not copied")
    return report


def _merge_run(folders: _Folders, folder: Path, report: MergeReport) -> None:
    """Merge one run folder of the source."""
    try:
        spec = read_spec(folder / "spec.json")
    except (OSError, ValueError) as error:
        path = folder / "spec.json"
        report.skipped.append(f"{path}: {str(error).removeprefix(f'{path} ')}")
        return
    target = folders.runs / folder.relative_to(folders.source)
    locks = folders.runs / LOCKS
    locks.mkdir(parents=True, exist_ok=True)
    with locked(locks / spec.digest[:16]):
        unusable = _unusable_results(folder, spec, report)
        links = {path for path in folder.rglob("*") if path.is_symlink()}
        report.skipped += [f"{path}: is a link: copy what it leads to into its place" for path in sorted(links)]
        if make_once(target, lambda partial: _copy(folder, partial, unusable)):
            report.runs += 1
            return
        existing, new = _set_digests(target), _set_digests(folder)
        if existing and new and existing != new:
            report.conflicts.append((target, _copy_conflict(folders, folder)))
            return

        # the target was begun, the source has more: take the set and its records
        if _distilled_digest(target) is None and _distilled_digest(folder) is not None:
            make_once(target / "distilled", lambda partial: _copy(folder / "distilled", partial, set()))
            failure_path(target).unlink(missing_ok=True)
            shutil.rmtree(target / ".work", ignore_errors=True)  # of the process that had begun it
        remove_stale_files(target)
        for name in ("spec.json", "distill.json", "contact.png"):
            if folder / name not in links and (folder / name).exists() and not (target / name).exists():
                write_bytes(target / name, (folder / name).read_bytes())
        for path in _results(folder):
            if path not in unusable and not links & {path, *path.parents}:
                _merge_result(folders, path, report)


def _merge_result(folders: _Folders, path: Path, report: MergeReport) -> None:
    """Merge one file of results, of quality measures or of audits."""
    target = folders.runs / path.relative_to(folders.source)
    if target.exists() and _comparable(target) != _comparable(path):
        # tables keep fp32 and bf16 apart, so both may be there
        target = _name_with_precision(target, path) or target
    is_result = path.suffix == ".json"  # an audit has a picture too, which counts with it
    if not target.exists():
        write_bytes(target, path.read_bytes())
        if is_result:
            failure_path(target).unlink(missing_ok=True)
            report.results += 1
    elif _comparable(target) == _comparable(path):
        report.same += is_result
    else:
        report.conflicts.append((target, _copy_conflict(folders, path)))


def _name_with_precision(target: Path, path: Path) -> Path | None:
    """Return the target of a result whose student was trained in another precision; None in the same one."""
    if path.parent.parent.name != "results":
        return None
    try:
        existing, new = read_result(target, details=False), read_result(path, details=False)
    except (OSError, ValueError):
        return None
    differ = existing.precision and new.precision and existing.precision != new.precision
    return target.with_name(result_name(new.student, new.init, new.seed, new.precision)) if differ else None


def _copy_conflict(folders: _Folders, path: Path) -> Path:
    """Copy a file or folder of the source to where no table looks; return the copy."""
    copy = folders.conflicts / path.relative_to(folders.source)
    if path.is_dir():
        shutil.rmtree(copy, ignore_errors=True)
        _copy(path, copy, set())
    else:
        write_bytes(copy, path.read_bytes())
    return copy


def _copy(folder: Path, target: Path, unusable: set[Path]) -> None:
    """Copy all but `unusable`, links, and hidden files: locks, temporary files, checkpoints."""

    def omitted(parent: str, names: list[str]) -> list[str]:
        paths = {name: Path(parent, name) for name in names}
        return [n for n, path in paths.items() if n.startswith(".") or path in unusable or path.is_symlink()]

    shutil.copytree(folder, target, dirs_exist_ok=True, ignore=omitted)


def _unusable_results(folder: Path, spec: RunSpec, report: MergeReport) -> set[Path]:
    """Return the results of a run that no reader would use, and name them in the report."""
    unusable = set()
    for path in folder.glob("results/*/*.json"):
        try:
            if not path.name.endswith(FAILED) and (reason := misplaced(path.name, read_result(path), spec)):
                raise ValueError(reason)
        except (OSError, ValueError) as error:
            report.skipped.append(f"{path}: {error}")
            unusable.add(path)
    return unusable


def _results(folder: Path) -> Iterator[Path]:
    """Yield the files of results, of corrupted results, of quality metrics, audits and measures, without failures."""
    patterns = ("results/**/*.json", "quality/*.json", "audit/*", *(f"{name}/**/*.json" for name in MEASURES))
    for path in sorted(path for pattern in patterns for path in folder.glob(pattern)):
        if not path.name.endswith(FAILED) and not path.name.startswith("."):
            yield path


def _set_digests(folder: Path) -> set[str]:
    """Return the digest of a run's distilled set; where its images are gone, those that its results name."""
    recorded = _distilled_digest(folder)
    if recorded is not None:
        return {recorded}
    values = [_comparable(path) for path in _results(folder) if path.parent.parent.name == "results"]
    return {str(value.get("content")) for value in values if isinstance(value, dict)}


def _distilled_digest(folder: Path) -> str | None:
    """Return the digest of a run's distilled set; None without one."""
    try:
        return distilled_digest(folder)
    except ValueError:
        return None


def _comparable(path: Path) -> dict[str, Any] | bytes:
    """Return the fields of a result that must agree; its bytes where it cannot be read."""
    try:
        return {name: value for name, value in read_json(path).items() if name not in MEASURED}
    except (ValueError, AttributeError):
        return path.read_bytes()
