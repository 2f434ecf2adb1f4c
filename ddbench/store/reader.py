"""Read every result and cost below `--runs`, and name every file that cannot be used. No torch."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ddbench.errors import UserError
from ddbench.store import distilled_set
from ddbench.store.audits import Audit, read_audits
from ddbench.store.costs import DistillationCost, read_cost
from ddbench.store.failures import Failure, load_failure
from ddbench.store.paths import APART, FAILED, result_name
from ddbench.store.records import Result, RunSpec, StoredResult, distilled_digest, read_result, read_spec
from ddbench.utils.memory import gc_paused

log = logging.getLogger("ddbench")

Record = TypeVar("Record")


@dataclass(frozen=True)
class Problem:
    """A file that is not used.

    path: the file
    reason: one sentence
    """

    path: Path
    reason: str


@dataclass(frozen=True)
class RunsScan:
    """Content of a runs folder.

    results: every usable result, in path order
    problems: files that cannot be used
    failed: recorded failures, which have no result
    costs: folder of a run -> cost of its distillation; empty unless asked for
    audits: folder of a run -> audits of its set; empty unless costs are asked for
    """

    results: list[StoredResult] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    failed: list[Problem] = field(default_factory=list)
    costs: Mapping[Path, DistillationCost] = field(default_factory=dict)
    audits: Mapping[Path, tuple[Audit, ...]] = field(default_factory=dict)


def read_runs(runs: Path, details: bool = True, costs: bool = False) -> RunsScan:
    """Read all results below `runs`, in path order.

    details: keep accuracies of classes and confusions, which are most of a result and which no table needs
    costs: also read the cost and the audits of every run that has results
    """
    scan = RunsScan()
    with gc_paused():
        for folder in run_folders(runs):
            read_run(folder, details, scan)
    results = drop_copies(scan.results, scan.problems)
    folders = dict.fromkeys(stored.folder for stored in results) if costs else ()
    audited = [folder for folder in folders if (folder / "audit").is_dir()]
    audits = {folder: _read_or_report(_present_audits, folder, scan.problems) or () for folder in audited}
    run_costs = {folder: read_cost(folder) for folder in folders}
    return RunsScan(results, scan.problems, scan.failed, run_costs, audits)


def drop_copies(results: list[StoredResult], problems: list[Problem]) -> list[StoredResult]:
    """Return the results without those that a copied folder repeats, which are added to `problems`."""
    unique: dict[tuple[Any, ...], StoredResult] = {}
    for stored in results:
        spec, result = stored.spec, stored.result
        protocol = (result.title, result.protocol_hash, result.versions.get("evaluators", "1"), result.precision)
        student = (result.student, result.init, result.seed)
        first = unique.setdefault((spec.digest, *protocol, *student), stored)
        if first is not stored:
            problems.append(Problem(stored.path, f"the same result is in {first.path}"))
    return list(unique.values())


def run_folders(runs: Path) -> Iterator[Path]:
    """Yield every folder with a spec or with results, sorted: a spec that got lost must be noticed."""
    for folder in sorted(runs.glob("*/*/ipc*/seed*-*")):
        if (folder / "spec.json").exists() or (folder / "results").is_dir():
            yield folder


def find_run_folders(folders: Iterable[Path]) -> list[Path]:
    """Return the runs that `folders` are or are above, those below one sorted by path, without those of APART.

    Raises UserError for a folder without a run.
    """
    paths: list[Path] = []
    for folder in folders:
        specs = [path for path in folder.rglob("spec.json") if not set(APART) & set(path.relative_to(folder).parts)]
        below = [folder] if (folder / "spec.json").is_file() else sorted(path.parent for path in specs)
        if not below:
            raise UserError(
                f"there is no run at {folder}: name a folder such as runs/ucm64/dpd/ipc10/seed0-..., or above it"
            )
        paths += below
    return paths


def read_run(folder: Path, details: bool, scan: RunsScan) -> None:
    """Add to `scan` the results, problems and failures of one run."""
    spec = _read_or_report(read_spec, folder / "spec.json", scan.problems)
    failures = [folder / "failed.json"] if (folder / "failed.json").exists() else []
    results = []
    for protocol in sorted(_names(folder / "results")):  # Path.glob takes longer than reading the files
        parent = folder / "results" / protocol
        for name in sorted(_names(parent)):
            path = parent / name
            if name.endswith(FAILED):
                failures.append(path)
            elif name.endswith(".json") and spec:
                result = _read_or_report(lambda file: read_result(file, details), path, scan.problems)
                if result and (reason := misplaced(name, result, spec)):
                    scan.problems.append(Problem(path, reason))
                elif result:
                    results.append(StoredResult(spec, result, path))

    # where the images are gone, results of one set are kept, results of several sets are not
    gone = not (folder / "distilled").exists()
    if results and not (gone and len({stored.result.content for stored in results}) == 1):
        content = _read_or_report(distilled_digest, folder, scan.problems)
        outdated = "it belongs to other images than the run has now: run its command again"
        scan.problems.extend(Problem(s.path, outdated) for s in results if s.result.content != content)
        results = [stored for stored in results if stored.result.content == content]
    scan.results.extend(results)

    scan.failed.extend(failure_problem(path, load_failure(path)) for path in failures)


def read_distilled_run(folder: Path) -> tuple[RunSpec, distilled_set.Pictures]:
    """Return the spec and the distilled set of a run. Raises UserError where they are missing or were changed."""
    if not (folder / "spec.json").is_file():
        raise UserError(
            f"{folder} is not a run: name a folder with a spec.json, as runs/ucm64/dpd/ipc10/seed0-1a2b3c4d"
        )
    if not (folder / "distilled").is_dir():
        raise UserError(f"{folder} has no distilled set yet: repeat its `ddbench run` command")
    try:
        return read_spec(folder / "spec.json"), distilled_set.read(folder / "distilled")
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: {error}") from None


def failure_problem(path: Path, failure: Failure) -> Problem:
    """Describe a recorded failure."""
    return Problem(path, f"{failure.status}, in no mean: {failure.error}")


def misplaced(name: str, result: Result, spec: RunSpec) -> str:
    """Return why a result cannot be that of a file `name` in the run `spec`; empty when it can."""
    if result.run != spec.digest:
        return "it belongs to another run than the spec beside it"
    student = result.student, result.init, result.seed
    if name not in (result_name(*student), result_name(*student, result.precision)):
        return "its name is not that of its student and seed: a copy?"
    return ""


def report_problems(problems: Iterable[Problem]) -> None:
    """Log an error for each file that was not used."""
    for problem in problems:
        log.error("skipped %s: %s", problem.path, problem.reason)


def _present_audits(folder: Path) -> tuple[Audit, ...]:
    """Return the audits of the distilled set that a run has now."""
    return read_audits(folder, distilled_digest(folder))


def _names(folder: Path) -> list[str]:
    """Return the names in a folder that are not hidden; none without the folder."""
    try:
        return [name for name in os.listdir(folder) if name[0] != "."]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _read_or_report(read: Callable[[Path], Record], path: Path, problems: list[Problem]) -> Record | None:
    """Return `read(path)`; add to `problems` and return None when it fails."""
    try:
        return read(path)
    except (ValueError, OSError) as error:
        problems.append(Problem(path, str(error).replace(f"{path} ", "")))
        return None
