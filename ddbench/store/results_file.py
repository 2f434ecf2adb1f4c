"""Results of many runs in one file: JSON lines, gzipped or not. docs/results-format.md describes it. No torch.

A line holds one file of a runs folder: a spec, a result, a cost or a failure. Images are not in it.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

import msgspec

from ddbench.errors import UserError
from ddbench.store.costs import DistillationCost, parse_cost
from ddbench.store.failures import load_failure, parse_failure
from ddbench.store.paths import FAILED, failure_path
from ddbench.store.reader import (
    Problem,
    RunsScan,
    drop_copies,
    failure_problem,
    misplaced,
    read_runs,
    run_folders,
)
from ddbench.store.records import RunSpec, StoredResult, parse_result, parse_spec, read_spec
from ddbench.utils.files import canonical, read_json, write_bytes, write_json
from ddbench.utils.limits import LARGEST_JSON, MOST_PROBLEMS
from ddbench.utils.memory import gc_paused
from ddbench.version import __version__

FORMAT, VERSION = "ddbench results", 1
Kind = Literal["spec", "cost", "result", "failure"]
GZIP_MAGIC = b"\x1f\x8b"


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line after the first.

    path: file below the runs folder
    data: JSON object of that file
    """

    kind: Kind
    path: str
    data: dict[str, Any]


@dataclass
class _Run:
    """Lines of one run that were read so far."""

    spec: RunSpec | None = None
    results: list[StoredResult] = field(default_factory=list)


def export_results(runs: Path, target: Path) -> RunsScan:
    """Write the spec and cost of every run below `runs`, usable results and failures; return what was read.

    Equal results give equal bytes. The file is gzipped where the name of `target` ends in .gz.

    Raises UserError without a run below `runs`.
    """
    scan = read_runs(runs)
    by_run: dict[Path, list[tuple[str, Path, Any]]] = {folder: [] for folder in run_folders(runs)}
    if not by_run:
        raise UserError(f"{runs} has no run: name the folder that --runs had (runs/ucm64/random/...)")
    for stored in scan.results:
        by_run[stored.folder].append(("result", stored.path, read_json(stored.path)))
    for problem in scan.failed:
        path, failure = problem.path, load_failure(problem.path)
        data = {"status": failure.status, "error": failure.error}  # without its traceback, which names local paths
        folder = path.parent if path.name == failure_path(path.parent).name else path.parents[2]
        by_run[folder].append(("failure", path, data))

    lines = [canonical({"format": FORMAT, "version": VERSION, "ddbench": __version__})]
    for folder, results in by_run.items():
        records: list[tuple[str, Path, Any]] = []
        with suppress(OSError, ValueError):  # a spec that cannot be read is a problem; a cost may be missing
            read_spec(folder / "spec.json")
            records.append(("spec", folder / "spec.json", read_json(folder / "spec.json")))
            records.append(("cost", folder / "distill.json", _portable_cost(read_json(folder / "distill.json"))))
        for kind, path, data in [*records, *results]:
            lines.append(canonical({"kind": kind, "path": path.relative_to(runs).as_posix(), "data": data}))
    content = "".join(f"{line}\n" for line in lines).encode()
    write_bytes(target, gzip.compress(content, mtime=0) if target.suffix == ".gz" else content)
    return scan


def _portable_cost(value: Any) -> Any:
    """Return the object of a distill.json with names of stages instead of this machine's paths; ValueError for none."""
    parse_cost(value)
    for stage in value.get("stages", []):
        if "folder" in stage:
            stage["folder"] = Path(stage["folder"]).name
    return value


def read_results(source: Path, details: bool = True, costs: bool = False) -> RunsScan:
    """Read a runs folder (see `reader.read_runs`) or an exported file.

    In an exported file the path of a result is that of the file, then the path below the runs folder. A line that
    cannot be used is a problem, and costs no other line.

    Raises UserError where nothing is at `source`, and for a file that is no export, or of an unknown version.
    """
    if not source.exists():
        raise UserError(
            f"there is no folder or file {source}: `ddbench run` makes it; --runs names another, or an exported file"
        )
    return _read_file(source, details, costs) if source.is_file() else read_runs(source, details, costs)


def _read_file(source: Path, details: bool, costs: bool) -> RunsScan:
    scan = RunsScan()
    runs: dict[Path, _Run] = {}
    run_costs: dict[Path, DistillationCost] = {}
    with gc_paused():
        for place, line in read_lines(source, scan.problems):
            path = source / line.path
            folder = source.joinpath(*Path(line.path).parts[:4])
            run = runs.setdefault(folder, _Run())
            try:
                if line.kind == "spec":
                    run.spec = parse_spec(line.data, folder.name)
                elif line.kind == "cost":
                    run_costs[folder] = parse_cost(line.data)
                elif line.kind == "failure":
                    scan.failed.append(failure_problem(path, parse_failure(line.data)))
                elif run.spec is None:
                    raise ValueError("no earlier line has the spec of its run")
                else:
                    result = parse_result(line.data, details)
                    if reason := misplaced(path.name, result, run.spec):
                        raise ValueError(reason)
                    run.results.append(StoredResult(run.spec, result, path))
            except ValueError as error:
                scan.problems.append(Problem(place, f"{line.path}: {error}"))
    for folder, run in runs.items():
        if len({stored.result.content for stored in run.results}) > 1:
            scan.problems.append(Problem(folder, "its results belong to several distilled sets"))
        else:
            scan.results.extend(run.results)
    results = drop_copies(scan.results, scan.problems)
    return RunsScan(results, scan.problems, scan.failed, run_costs if costs else {})


def unpack_results(source: Path, runs: Path) -> list[Problem]:
    """Write the lines of an exported file as files below `runs`; return the lines that cannot be used.

    Raises UserError as `read_results` does.
    """
    problems: list[Problem] = []
    for _, line in read_lines(source, problems):
        data = {"trace": "", **line.data} if line.kind == "failure" else line.data
        write_json(runs / line.path, data)
    return problems


def read_lines(source: Path, problems: list[Problem]) -> Iterator[tuple[Path, Line]]:
    """Yield each line of an exported file after its first with its place, FILE:NUMBER; add unusable ones to `problems`.

    Raises UserError for a file that is no export, of an unknown version, or whose compression is damaged.
    """
    seen: dict[str, int] = {}
    number = 0
    try:
        with open(source, "rb") as file:
            zipped = file.read(2) == GZIP_MAGIC
        with gzip.open(source, "rb") if zipped else open(source, "rb") as file:
            _check_header(source, file.readline(LARGEST_JSON))
            for number, text in enumerate(iter(partial(file.readline, LARGEST_JSON + 1), b""), 2):
                place = Path(f"{source}:{number}")
                if len(text) > LARGEST_JSON or len(problems) >= MOST_PROBLEMS:
                    problem = "too long" if len(text) > LARGEST_JSON else f"after {MOST_PROBLEMS} that are not used"
                    problems.append(Problem(place, f"is {problem}: the file is read no further"))
                    return
                try:
                    line = _parse_line(text)
                    if line.path in seen:
                        raise ValueError(f"{line.path} is also on line {seen[line.path]}")
                except ValueError as error:
                    problems.append(Problem(place, str(error)))
                    continue
                seen[line.path] = number
                yield place, line
    except (gzip.BadGzipFile, zlib.error) as error:  # any line may be wrong
        raise UserError(f"{source} is damaged ({error}), and nothing of it is used: export or copy it again") from None
    except EOFError as error:  # the lines before the end are whole
        problems.append(Problem(source, f"is damaged after line {max(1, number)} ({error}): export or copy it again"))


def _check_header(source: Path, text: bytes) -> None:
    """Raise UserError unless the first line is that of a known version."""
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise UserError(
            f"{source} is neither a runs folder nor a file of results (its first line does not name the format "
            f'"{FORMAT}"); `ddbench export results FILE` writes one'
        )
    if header.get("version") != VERSION:
        raise UserError(
            f"{source} has version {header.get('version')!r} of the format; this ddbench ({__version__}) reads version "
            f"{VERSION}: use the ddbench that wrote it ({header.get('ddbench')})"
        )


def _parse_line(text: bytes) -> Line:
    """Return a line; ValueError unless it is an object whose path is that of a file of a run."""
    try:
        line = msgspec.json.decode(text, type=Line)
    except msgspec.ValidationError as error:
        raise ValueError(f"is not an object with kind ({', '.join(get_args(Kind))}), path and data: {error}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not readable JSON ({error})") from None
    parts = PurePosixPath(line.path).parts
    unfit = (part.startswith((".", "/")) or not part.isprintable() or "\\" in part or len(part) > 255 for part in parts)
    if any(unfit) or _kind_of(parts) != line.kind:
        raise ValueError(f"its path {line.path!r} is not that of a {line.kind} below a runs folder")
    if line.kind == "failure":
        parse_failure(line.data)
    return line


def _kind_of(parts: tuple[str, ...]) -> str:
    """Return the kind of a file below the runs folder; empty for a file that is not exported."""
    if len(parts) < 5 or not parts[2].startswith("ipc") or not parts[3].startswith("seed"):
        return ""
    if len(parts) == 5:
        return {"spec.json": "spec", "distill.json": "cost", "failed.json": "failure"}.get(parts[4], "")
    if len(parts) != 7 or parts[4] != "results" or not parts[6].endswith(".json"):
        return ""
    return "failure" if parts[6].endswith(FAILED) else "result"
