"""A sweep's plan: from a TOML file to cells, in the order in which to do them, and how long they may take. No torch.

A *cell* is one run (method, dataset, size, IPC, seed) with every student and protocol that judges it.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from ddbench.config import read_toml, validate
from ddbench.datasets.info import DataPaths
from ddbench.datasets.name import DatasetName
from ddbench.errors import UserError, unknown
from ddbench.registry import load_method
from ddbench.runner import plan as planning
from ddbench.runner.plan import Request, Task
from ddbench.store.reader import read_runs
from ddbench.store.records import read_failure

METHODS = "methods"


@dataclass(frozen=True)
class MethodEntry:
    """One method of a plan: its name, and what `ddbench run` calls --preset, --config and --set.

    ipcs, seeds: in place of the plan's.
    """

    method: str
    preset: str | None = None
    config: str | None = None
    set: tuple[str, ...] = ()
    ipcs: tuple[int, ...] | None = None
    seeds: int | tuple[int, ...] | None = None


@dataclass(frozen=True)
class Sweep:
    """The grid of a plan: datasets, sizes, IPCs, distillation seeds, students and protocols.

    sizes: pixels; empty for the size of each dataset.
    seeds: K for 0 to K-1, or a list.
    student_seeds: number of students of each kind.
    """

    datasets: tuple[str, ...]
    ipcs: tuple[int, ...] = ()
    sizes: tuple[Annotated[int, Meta(ge=8)], ...] = ()
    seeds: int | tuple[int, ...] = 1
    students: tuple[str, ...] = ("convnet",)
    student_seeds: Annotated[int, Meta(ge=1)] = 1
    protocols: tuple[str, ...] = ("quick",)


@dataclass(frozen=True)
class SweepJob:
    """One run and its students, as plain values that travel to another process.

    request: with one IPC (none for all images) and one seed.
    tasks: the distillation, then each student of each protocol.
    """

    request: Request
    students: tuple[str, ...]
    protocols: tuple[str, ...]
    student_seeds: int
    tasks: tuple[Task, ...]

    @property
    def folder(self) -> Path:
        return self.tasks[0].folder

    @property
    def title(self) -> str:
        """Its place below the runs folder: "ucm64/dm/ipc10/seed0-0123abcd"."""
        return "/".join(self.folder.parts[-4:])

    @property
    def missing(self) -> list[Task]:
        """Return the tasks that are not done yet."""
        return [task for task in self.tasks if not task.done]

    @property
    def failed_before(self) -> bool:
        """Return True if every missing task failed earlier, or needs a distillation that failed."""
        if not self.tasks[0].done and read_failure(self.folder):
            return True
        return all(read_failure(task.path) for task in self.missing)


def read_plan(path: Path) -> tuple[Sweep, tuple[MethodEntry, ...]]:
    """Read a plan from a TOML file. Raises UserError that names what is wrong, and what may be there."""
    content = read_toml(path)
    known = [METHODS, *Sweep.__dataclass_fields__]
    for key in content:
        if key not in known:
            raise unknown(f"key of a plan ({path})", key, known)
    methods = content.pop(METHODS, None)
    if not isinstance(methods, list) or not methods:
        raise UserError(
            f'{path}: methods must be a list: methods = ["random", {{method = "dm", preset = "tiny"}}], for example'
        )
    if "datasets" not in content:
        raise UserError(f'{path}: datasets must be a list, such as datasets = ["ucm", "scenes"]')
    sweep = Sweep(**validate(Sweep, content, str(path)))
    for name in ("datasets", "students", "protocols"):
        if not getattr(sweep, name):
            raise UserError(f"{path}: {name} is empty: name at least one")
    return sweep, tuple(_method_entry(method, path) for method in methods)


def _method_entry(method: Any, path: Path) -> MethodEntry:
    if isinstance(method, str):
        return MethodEntry(method)
    if not isinstance(method, dict) or "method" not in method:
        raise UserError(f"{path}: {method!r} in methods is neither a name nor a table with a key `method`")
    return MethodEntry(**validate(MethodEntry, method, f"{path}, methods"))


def sweep_jobs(sweep: Sweep, asks: Sequence[MethodEntry], data_paths: DataPaths, runs: Path) -> list[SweepJob]:
    """Return every job of the grid once; the first of each method on each dataset and size precedes all others.

    So shared stages (a teacher, a fine-tuned model) are computed once, by several processes at once. Raises UserError
    for any invalid name, before anything is written.
    """
    evaluations = [
        planning.evaluation_setup(sweep.students, protocol, sweep.student_seeds) for protocol in sweep.protocols
    ]
    listed = cache(partial(planning.list_dataset, data_paths=data_paths))
    cells: dict[str, tuple[tuple, SweepJob]] = {}
    for (a, ask), (d, dataset), size in product(enumerate(asks), enumerate(sweep.datasets), sweep.sizes or (None,)):
        request = _request(sweep, ask, dataset, size)
        plans = planning.plans_for_protocols(request, evaluations, data_paths, listed(request.dataset))
        for rank, spec in enumerate(plans[0].specs):
            one = replace(request, ipcs=(spec.ipc,) if spec.ipc else (), seeds=(spec.seed,))
            parts = [planning.tasks(replace(plan, specs=(spec,)), runs) for plan in plans]
            tasks = tuple({task.path: task for part in parts for task in part}.values())
            cell = SweepJob(
                one, sweep.students, tuple(map(_absolute_file, sweep.protocols)), sweep.student_seeds, tasks
            )
            key = (0, a, d, spec.size, rank) if rank == 0 else (1, d, spec.size, a, rank)
            cells.setdefault(spec.digest, (key, cell))
    return [cell for _, cell in sorted(cells.values(), key=lambda pair: pair[0])]


def _request(sweep: Sweep, ask: MethodEntry, dataset: str, size: int | None) -> Request:
    whole = load_method(ask.method).whole
    if whole and ask.ipcs:
        raise UserError(f"{ask.method} takes every training image: leave out its ipcs = {list(ask.ipcs)}")
    ipcs = () if whole else sweep.ipcs if ask.ipcs is None else ask.ipcs
    if not whole and not ipcs:
        raise UserError(f"{ask.method} needs numbers of images per class: add ipcs = [1, 10], for example")
    seeds = sweep.seeds if ask.seeds is None else ask.seeds
    seeds = tuple(range(seeds)) if isinstance(seeds, int) else seeds
    if not seeds or min(seeds) < 0 or (ipcs and min(ipcs) < 1):
        raise UserError(
            f"{ask.method}: seeds = {list(seeds)} must name one seed, 0 or more; ipcs = {list(ipcs)} must be 1 or more"
        )
    config = Path(ask.config).absolute() if ask.config else None
    dataset = DatasetName.parse(dataset).absolute
    return Request(_absolute_file(ask.method), dataset, ipcs, size, ask.preset, config, ask.set, seeds)


def _absolute_file(word: str) -> str:
    """Return FILE.py:CLASS or a protocol's FILE.toml with an absolute path, any other name unchanged."""
    return str(Path(word).absolute()) if ".py:" in word or word.endswith(".toml") else word


@dataclass(frozen=True)
class Estimate:
    """Time of the missing tasks.

    seconds: sum over the tasks with a precedent.
    known: number of tasks with a precedent.
    of: number of all tasks.
    """

    seconds: float
    known: int
    of: int

    def words(self, jobs: int) -> str:
        """Format the time for `jobs` at a time: "about 1 h 20 min with 2 at a time; unknown for 3 of 10 tasks"."""
        if not self.of:
            return "nothing to do"
        if not self.known:
            return "time unknown: no finished run is similar"
        minutes, unknown = round(self.seconds / 60 / jobs), self.of - self.known
        time = f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
        but = f"; unknown for {unknown} of {self.of} tasks" if unknown else ""
        return f"about {time} with {jobs} at a time{but}"


def estimate(missing: Iterable[Task], runs: Path) -> Estimate:
    """Estimate the time of the tasks, one after the other, from results and distillations below `runs`."""
    near, far = _costs(runs)
    estimates = []
    for exact, like in (keys := [_keys(task) for task in missing]):
        seconds = near.get(exact) or far.get(like)
        estimates += [statistics.median(seconds)] if seconds else []
    return Estimate(sum(estimates), len(estimates), len(keys))


def _costs(runs: Path) -> tuple[Mapping[tuple, list[float]], Mapping[tuple, list[float]]]:
    """Return the seconds of finished tasks by their exact keys, and by their keys without the dataset."""
    near: dict[tuple, list[float]] = defaultdict(list)
    far: dict[tuple, list[float]] = defaultdict(list)
    for task, seconds in _done(runs):
        exact, like = _keys(task)
        near[exact].append(seconds)
        far[like].append(seconds)
    return near, far


def _done(runs: Path) -> Iterator[tuple[Task, float]]:
    seen = set()
    scan = read_runs(runs, details=False, costs=True)
    for entry in scan.results:
        folder = entry.folder
        yield Task(entry.spec, folder, entry.result.student, entry.result.seed, entry.path), entry.result.seconds
        if folder not in seen and (took := scan.costs[folder].seconds) is not None:
            yield Task(entry.spec, folder), took
        seen.add(folder)


def _keys(task: Task) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    spec = task.spec
    like: tuple[Any, ...]
    if task.student:
        like = (task.student, task.path.parent.name, spec.size, spec.ipc)
    else:
        like = (spec.method, spec.method_version, repr(sorted(spec.params.items())), spec.size, spec.ipc)
    return (*like, spec.dataset), like
