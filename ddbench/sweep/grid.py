"""A sweep: from a plan (a TOML file) to jobs in the order in which to do them, and an estimate of their time. No torch.

A *job* is one run (method, dataset, size, IPC, seed) with its students under every protocol.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from ddbench.config import read_toml, validate
from ddbench.datasets.info import DataPaths
from ddbench.datasets.lookup import ImageSource
from ddbench.datasets.name import DatasetName
from ddbench.errors import UserError, unknown
from ddbench.registry import load_method
from ddbench.runner import plan as planning
from ddbench.runner.options import SMALLEST
from ddbench.runner.plan import ExecutionSettings, Request, Task
from ddbench.runner.run import TaskCounts
from ddbench.runner.run import run as run_plan
from ddbench.store.failures import Failure, read_failure, write_failure
from ddbench.store.reader import read_runs
from ddbench.store.records import write_spec
from ddbench.utils.limits import LARGEST_SIZE, MOST_IMAGES, MOST_SEEDS
from ddbench.utils.units import format_seconds

METHODS = "methods"
Ipc = Annotated[int, Meta(le=MOST_IMAGES)]
Seeds = Annotated[int, Meta(le=MOST_SEEDS)]


@dataclass(frozen=True)
class MethodEntry:
    """One method of a plan: its name, and what `ddbench run` calls --preset, --config and --set.

    ipcs, seeds, student_seeds: in place of the plan's. A method that uses no seed needs one distillation, but as many
    students as the others together.
    """

    method: str
    preset: str | None = None
    config: str | None = None
    set: tuple[str, ...] = ()
    ipcs: tuple[Ipc, ...] | None = None
    seeds: Seeds | tuple[int, ...] | None = None
    student_seeds: Annotated[int, Meta(ge=1, le=MOST_SEEDS)] | None = None


@dataclass(frozen=True)
class Sweep:
    """The grid of a plan: datasets, sizes, IPCs, distillation seeds, students and protocols.

    sizes: pixels; empty for the size of each dataset.
    seeds: K for 0 to K-1, or a list.
    student_seeds: number of students of each kind.
    """

    datasets: tuple[str, ...]
    ipcs: tuple[Ipc, ...] = ()
    sizes: tuple[Annotated[int, Meta(ge=SMALLEST, le=LARGEST_SIZE)], ...] = ()
    seeds: Seeds | tuple[int, ...] = 1
    students: tuple[str, ...] = ("convnet",)
    student_seeds: Annotated[int, Meta(ge=1, le=MOST_SEEDS)] = 1
    protocols: tuple[str, ...] = ("quick",)


@dataclass(frozen=True)
class SweepJob:
    """One run and its students, as plain values that can be sent to another process.

    request: with one IPC (none for all images) and one seed.
    tasks: the distillation, then each student of each protocol.
    source: the dataset, where its name alone does not find it.
    """

    request: Request
    students: tuple[str, ...]
    protocols: tuple[str, ...]
    student_seeds: int
    tasks: tuple[Task, ...]
    source: ImageSource | None = None

    @property
    def folder(self) -> Path:
        return self.tasks[0].folder

    @property
    def title(self) -> str:
        """The path below the runs folder: "ucm64/dm/ipc10/seed0-0123abcd"."""
        return "/".join(self.folder.parts[-4:])

    @property
    def missing(self) -> list[Task]:
        """Return the tasks that are not done yet; none where every result was merged from elsewhere without the set."""
        missing = [task for task in self.tasks if not task.done]
        return [] if self.tasks[1:] and missing == [self.tasks[0]] else missing

    @property
    def done(self) -> bool:
        """True if no task is missing."""
        return not self.missing

    @property
    def earlier_failure(self) -> Failure | None:
        """Return the first failure where every missing task failed earlier, or needs a distillation that failed."""
        if not self.tasks[0].done and (failure := read_failure(self.folder)):
            return failure
        failures = [read_failure(task.path) for task in self.missing]
        return failures[0] if failures and all(failures) else None

    def run(self, settings: ExecutionSettings, retry: bool) -> TaskCounts:
        """Do the missing tasks, protocol after protocol. Raises UserError where this process plans another run."""
        evaluations = [planning.evaluation_setup(self.students, name, self.student_seeds) for name in self.protocols]
        listed = planning.list_dataset(self.source, settings.data_paths) if self.source else None
        plans = planning.plans_for_protocols(self.request, evaluations, settings.data_paths, listed)
        if plans[0].specs[0].digest != self.tasks[0].spec.digest:
            reason = "its code or data differ from where the sweep started"
            raise UserError(f"{self.title}: this worker would compute another run: {reason}")
        counts = TaskCounts()
        for plan in plans:
            counts += run_plan(plan, settings, retry) or TaskCounts()
            if read_failure(self.folder):  # of the distillation: there is no set to train students on
                break
        return counts

    def record(self, failure: Failure) -> None:
        """Record a failure at the first missing task that has none yet."""
        missing = self.missing or [self.tasks[0]]
        task = next((task for task in missing if not read_failure(task.path)), missing[0])
        write_spec(task.folder, task.spec)
        write_failure(task.path, failure)


def read_plan(path: Path) -> tuple[Sweep, tuple[MethodEntry, ...]]:
    """Read a plan from a TOML file. Raises UserError that names the wrong key or value, and the valid ones."""
    content, methods = read_methods(path, Sweep.__dataclass_fields__)
    if "datasets" not in content:
        raise UserError(f'{path}: datasets must be a list, such as datasets = ["ucm", "scenes"]')
    sweep = Sweep(**validate(Sweep, content, str(path)))
    for name in ("datasets", "students", "protocols"):
        if not getattr(sweep, name):
            raise UserError(f"{path}: {name} is empty: name at least one")
    return sweep, methods


def read_methods(path: Path, keys: Iterable[str]) -> tuple[dict[str, Any], tuple[MethodEntry, ...]]:
    """Read a TOML file with `methods` and `keys`; return the values of these, unchecked, and the methods.

    Raises UserError for another key, and for a method that is neither a name nor a table.
    """
    content = read_toml(path)
    known = [METHODS, *keys]
    for key in content:
        if key not in known:
            raise unknown(f"key of a plan ({path})", key, known)
    methods = content.pop(METHODS, None)
    if not isinstance(methods, list) or not methods:
        raise UserError(
            f'{path}: methods must be a list: methods = ["random", {{method = "dm", preset = "tiny"}}], for example'
        )
    return content, tuple(_method_entry(method, path) for method in methods)


def _method_entry(method: Any, path: Path) -> MethodEntry:
    if isinstance(method, str):
        return MethodEntry(method)
    if not isinstance(method, dict) or "method" not in method:
        raise UserError(f"{path}: {method!r} in methods is neither a name nor a table with a key `method`")
    return MethodEntry(**validate(MethodEntry, method, f"{path}, methods"))


def sweep_jobs(sweep: Sweep, methods: Sequence[MethodEntry], data_paths: DataPaths, runs: Path) -> list[SweepJob]:
    """Return every job of the grid once; the first of each method on each dataset and size comes before all others.

    So shared stages (a teacher, a fine-tuned model) are computed once, by several processes at once. A job that two
    methods of the plan ask for gets the larger number of students. Raises UserError for any invalid name, before
    anything is written.
    """

    @cache
    def evaluations(student_seeds: int) -> list[planning.EvaluationSetup]:
        return [planning.evaluation_setup(sweep.students, name, student_seeds) for name in sweep.protocols]

    listed = cache(partial(planning.list_dataset, data_paths=data_paths))
    protocols = tuple(map(absolute_file, sweep.protocols))
    jobs: dict[str, SweepJob] = {}  # by digest of the run
    order: dict[str, tuple[int, ...]] = {}
    grid = product(enumerate(methods), enumerate(sweep.datasets), sweep.sizes or (None,))
    for (m, entry), (d, dataset), size in grid:
        request = _request(sweep, entry, dataset, size)
        student_seeds = entry.student_seeds or sweep.student_seeds
        plans = planning.plans_for_protocols(request, evaluations(student_seeds), data_paths, listed(request.dataset))
        for rank, spec in enumerate(plans[0].specs):
            if spec.digest in jobs and jobs[spec.digest].student_seeds >= student_seeds:
                continue
            one = replace(request, ipcs=(spec.ipc,) if spec.ipc else (), seeds=(spec.seed,))
            parts = [planning.tasks(replace(plan, specs=(spec,)), runs) for plan in plans]
            tasks = tuple({task.path: task for part in parts for task in part}.values())
            jobs[spec.digest] = SweepJob(one, sweep.students, protocols, student_seeds, tasks)
            order.setdefault(spec.digest, (0, m, d, spec.size, rank) if rank == 0 else (1, d, spec.size, m, rank))
    return [jobs[digest] for digest in sorted(jobs, key=order.__getitem__)]


def _request(sweep: Sweep, entry: MethodEntry, dataset: str, size: int | None) -> Request:
    whole = load_method(entry.method).whole
    if whole and entry.ipcs:
        raise UserError(f"{entry.method} takes every training image: leave out its ipcs = {list(entry.ipcs)}")
    ipcs = () if whole else sweep.ipcs if entry.ipcs is None else entry.ipcs
    if not whole and not ipcs:
        raise UserError(f"{entry.method} needs numbers of images per class: add ipcs = [1, 10], for example")
    seeds = sweep.seeds if entry.seeds is None else entry.seeds
    seeds = tuple(range(seeds)) if isinstance(seeds, int) else seeds
    if not seeds or min(seeds) < 0:
        raise UserError(f"{entry.method}: seeds = {list(seeds)} must name at least one seed, 0 or more")
    if ipcs and min(ipcs) < 1:
        raise UserError(f"{entry.method}: ipcs = {list(ipcs)} must be 1 or more")
    config = Path(entry.config).absolute() if entry.config else None
    dataset = DatasetName.parse(dataset).absolute
    return Request(absolute_file(entry.method), dataset, ipcs, size, entry.preset, config, entry.set, seeds)


def absolute_file(name: str) -> str:
    """Return FILE.py:CLASS or a protocol's FILE.toml with an absolute path, any other name unchanged."""
    return str(Path(name).absolute()) if ".py:" in name or name.endswith(".toml") else name


@dataclass(frozen=True)
class Estimate:
    """Time of the missing tasks.

    seconds: sum over the tasks with a precedent.
    known: number of tasks with a precedent.
    total: number of all tasks.
    """

    seconds: float
    known: int
    total: int

    def describe(self, at_once: int) -> str:
        """Format the time for `at_once` at a time: "about 1 h 20 min with 2 at a time; unknown for 3 of 10 tasks"."""
        if not self.total:
            return "nothing to do"
        if not self.known:
            return "time unknown: no finished run is similar"
        unknown = self.total - self.known
        rest = f"; unknown for {unknown} of {self.total} tasks" if unknown else ""
        return f"about {format_seconds(self.seconds / at_once)} with {at_once} at a time{rest}"


def estimate(missing: Sequence[Task], runs: Path) -> Estimate:
    """Estimate the time of the tasks, one after the other, from results and distillations below `runs`.

    The precedents of a task are those of its kind on the same dataset, else on all datasets. Their median counts.
    """
    scan = read_runs(runs, details=False, costs=True)
    finished = []
    for stored in scan.results:
        task = Task(stored.spec, stored.folder, stored.result.student, stored.result.seed, stored.path)
        finished.append((task, stored.result.seconds))
    for folder, spec in {stored.folder: stored.spec for stored in scan.results}.items():
        if (seconds := scan.costs[folder].seconds) is not None:
            finished.append((Task(spec, folder), seconds))
    on_dataset: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    anywhere: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for task, seconds in finished:
        on_dataset[_kind(task), task.spec.dataset].append(seconds)
        anywhere[_kind(task)].append(seconds)
    precedents = [on_dataset.get((_kind(task), task.spec.dataset)) or anywhere.get(_kind(task)) for task in missing]
    estimates = [statistics.median(times) for times in precedents if times]
    return Estimate(sum(estimates), len(estimates), len(missing))


def _kind(task: Task) -> tuple[Any, ...]:
    """Return what decides the time of a task besides its dataset."""
    spec = task.spec
    if task.student:
        return task.student, task.path.parent.name, spec.size, spec.ipc
    return spec.method, spec.method_version, repr(sorted(spec.params.items())), spec.size, spec.ipc
