"""Reading back all that is below `--runs`: every result, and every file that could not be used. No torch."""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ddbench.store.paths import FAILED, result_name
from ddbench.store.records import Entry, Result, RunSpec, content_of, read_result, read_spec
from ddbench.utils.files import read_json


@dataclass(frozen=True)
class Problem:
    """A file below the runs folder that is not used, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Found:
    """entries: every result. problems: files that could not be used. failed: what has no result because it failed."""

    entries: list[Entry] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    failed: list[Problem] = field(default_factory=list)


def read_all(runs: Path, whole: bool = True) -> Found:
    """All that is below `runs`, in path order.

    whole: with the accuracies of each class and the confusions, which are most of a result; a table needs neither.
    """
    found, seen = Found(), {}
    with no_collecting():
        for folder in run_folders(runs):
            _read_run(folder, whole, found)
    for entry in found.entries:
        first = seen.setdefault(_key(entry), entry)
        if first is not entry:
            found.problems.append(Problem(entry.path, f"the same result is in {first.path}"))
    return replace(found, entries=list(seen.values()))


def _key(entry: Entry) -> tuple:
    """What one result is of; a copied folder has it twice."""
    spec, result = entry.spec, entry.result
    judged = (result.title, result.protocol_hash, result.versions.get("evaluators", "1"), result.precision)
    return (spec.digest, *judged, result.student, result.init, result.seed)


def scan(runs: Path, whole: bool = True) -> tuple[list[Entry], list[Problem]]:
    """Every result below `runs` and every file that could not be used."""
    found = read_all(runs, whole)
    return found.entries, found.problems


def _read_run(folder: Path, whole: bool, found: Found) -> None:
    spec, entries = _tried(read_spec, folder / "spec.json", found.problems), []
    own = folder / "failed.json"
    failed = [own] if own.exists() else []
    for under, name in _judged(folder):
        if name.endswith(FAILED):
            failed.append(under / name)
        elif name.endswith(".json") and spec:
            path = under / name
            result = _tried(lambda file: _belonging(file, spec, whole), path, found.problems)
            entries += [Entry(spec, result, path)] if result else []
    found.entries.extend(_of_one_set(folder, entries, found.problems))
    for path in failed:
        said = _tried(read_json, path, found.failed)
        if isinstance(said, dict):
            found.failed.append(Problem(path, f"{said.get('status')}, and so in no mean: {said.get('error')}"))


@contextmanager
def no_collecting() -> Iterator[None]:
    """No search for cycles meanwhile, where there are many results: it takes long, and finds none."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def _of_one_set(folder: Path, found: list[Entry], problems: list[Problem]) -> list[Entry]:
    """Those that judged the images which are there now; the others are problems.

    Where the images are gone, results of one set are kept, of several none.
    """
    gone = not (folder / "distilled").exists()
    if not found or (gone and len({entry.result.content for entry in found}) == 1):
        return found
    content = _tried(content_of, folder, problems)
    foreign = [entry for entry in found if entry.result.content != content]
    problems += [Problem(e.path, "it judged other images than the run has now: run its command again") for e in foreign]
    return [entry for entry in found if entry.result.content == content]


def run_folders(runs: Path) -> Iterator[Path]:
    """A run folder is one with a spec or with results: a spec that got lost must be noticed."""
    for folder in sorted(runs.glob("*/*/ipc*/seed*-*")):
        if (folder / "spec.json").exists() or (folder / "results").is_dir():
            yield folder


def _judged(folder: Path) -> Iterator[tuple[Path, str]]:
    """Each protocol's folder and the name of each file in it, sorted. Path.glob takes longer than reading the files."""
    for protocol in sorted(_names(folder / "results")):
        under = folder / "results" / protocol
        for name in sorted(_names(under)):
            yield under, name


def _names(folder: Path) -> list[str]:
    """What is in a folder and not hidden; nothing where there is no folder."""
    try:
        return [name for name in os.listdir(folder) if name[0] != "."]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _belonging(path: Path, spec: RunSpec, whole: bool) -> Result:
    result = read_result(path, whole)
    if result.run != spec.digest:
        raise ValueError("it belongs to another run than the spec beside it")
    mine = result.student, result.init, result.seed
    if path.name != result_name(*mine) and path.name != result_name(*mine, result.precision):
        raise ValueError("its name is not that of its student and seed: a copy?")
    return result


def _tried(read: Callable[[Path], Any], path: Path, problems: list[Problem]) -> Any | None:
    try:
        return read(path)
    except (ValueError, OSError) as error:
        problems.append(Problem(path, str(error).replace(f"{path} ", "")))
        return None


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
