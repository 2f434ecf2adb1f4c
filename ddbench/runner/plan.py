"""From words to a plan: every word is checked, nothing is written. No torch.

`plan` says which runs are meant, `tasks` which pieces of work they consist of and which of those are done.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

from ddbench import config
from ddbench.datasets.info import DataPaths, Split
from ddbench.datasets.lookup import find_dataset
from ddbench.datasets.name import display_name
from ddbench.errors import UserError
from ddbench.protocols import check_student, load_protocol
from ddbench.registry import load_method, source_of
from ddbench.store.paths import corrupted_path, result_path
from ddbench.store.records import RunSpec, missing_or_outdated
from ddbench.utils.files import canonical
from evaluators.catalog import check_size

log = logging.getLogger("ddbench")


@dataclass(frozen=True)
class ExecutionSettings:
    """Where things lie and what computes. None of it changes which run is meant.

    compiled: whether students are trained through torch.compile (evaluators.train). patience: how many seconds to wait
    for another process that is at the same run; None for as long as it takes.
    """

    runs: Path
    data_paths: DataPaths
    device: str = "auto"
    quiet: bool = False
    compiled: bool = False
    patience: float | None = None


@dataclass(frozen=True)
class EvaluationSetup:
    """The students that judge: names, a protocol (evaluators.protocols.Protocol), and how many of each.

    corruptions: whether they are tested on corrupted images too (evaluators.corruptions).
    """

    students: tuple[str, ...]
    protocol: Any
    seeds: int = 1
    corruptions: bool = False

    def networks(self) -> list[tuple[str, Any]]:
        """(student, the protocol that trains it) of every student, and of the teacher where there is one."""
        found = [(student, self.protocol) for student in self.students]
        if self.protocol.teacher:
            student, title = self.protocol.teacher
            found.append((student, load_protocol(title)))
        return found

    def check_size(self, size: int) -> None:
        """UserError when a student cannot take images of `size` pixels; a warning for another size than published."""
        if self.protocol.size not in (0, size):
            log.warning("%s is published at %d px, this is %d px", self.protocol.title, self.protocol.size, size)
        try:
            for student, row in self.networks():
                check_size(student, size, row.init)
        except ValueError as error:
            raise UserError(f"{error}; --student and --size decide that") from None


@dataclass(frozen=True)
class Request:
    """What was asked for, in the words of the command line.

    ipcs: none for a method that takes every training image. size: None for the dataset's own.
    """

    method: str
    dataset: str
    ipcs: tuple[int, ...]
    size: int | None = None
    preset: str | None = None
    config: Path | None = None
    sets: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Plan:
    """Runs of one method on one dataset, one per IPC and seed, who judges them. exact: every class has `ipc` images."""

    method: Any
    source: Any
    split: Split
    specs: tuple[RunSpec, ...]
    evaluation: EvaluationSetup
    exact: bool = True


@dataclass(frozen=True)
class Task:
    """One piece of work whose existence on disk means that it is done. student: None for the distillation itself.

    result, corrupted: the files of a student; the second when it is asked for.
    """

    spec: RunSpec
    folder: Path
    student: str | None = None
    seed: int = 0
    result: Path | None = None
    corrupted: Path | None = None

    @property
    def path(self) -> Path:
        """What its failure is recorded under: the result file, or the run's folder."""
        return self.result or self.folder

    @property
    def done(self) -> bool:
        if self.result is None:
            return (self.folder / "distilled").exists()
        return not any(missing_or_outdated(path, self.folder) for path in (self.result, self.corrupted) if path)

    @property
    def words(self) -> str:
        return f"train {self.student} seed {self.seed}" if self.student else "distil"


def evaluation_setup(
    students: tuple[str, ...], protocol: str, seeds: int, corruptions: bool = False
) -> EvaluationSetup:
    """Students by name; UserError for an unknown student or protocol, and for one that is not for judging."""
    row = load_protocol(protocol)
    if not row.judges:
        raise UserError(f"{row.title} is not for judging (`ddbench show {row.title}`); --protocol quick is, for one")
    names = tuple(dict.fromkeys(check_student(student) for student in students))
    for name in names:
        try:
            row.recipe(name)
        except ValueError as error:
            raise UserError(str(error)) from None
    return EvaluationSetup(names, row, seeds, corruptions)


ListedDataset = tuple[Any, Split]  # a dataset's source, and its files by side


def list_dataset(dataset: str, data_paths: DataPaths) -> ListedDataset:
    """The dataset called that, its files listed; raises UserError."""
    source = find_dataset(dataset)
    return source, source.describe(data_paths)


def plan(
    request: Request, evaluation: EvaluationSetup, data_paths: DataPaths, found: ListedDataset | None = None
) -> Plan:
    """Every word checked, the dataset's files listed unless they were `found`; raises UserError and writes nothing."""
    # the dataset before the method, whose module may import torch: missing data is said at once
    source, split = found or list_dataset(request.dataset, data_paths)
    size = request.size or source.pixels
    evaluation.check_size(size)
    cls = _method(request.method)
    method = config.build(cls, request.preset, request.config, request.sets)
    spec = RunSpec(
        method=config.method_name(cls),
        method_version=cls.version,
        preset=request.preset,
        params=_params(method),
        dataset=display_name(source.name),
        split=split.rule,
        fingerprint=split.fingerprint,
        size=size,
        ipc=0,
        seed=0,
        source=source_of(request.method),
        identity=method.identity() if callable(getattr(method, "identity", None)) else "",
    )
    return Plan(method, source, split, _each(spec, _ipcs(request, cls), request.seeds), evaluation)


def plans_for_protocols(
    request: Request, evaluations: Sequence[EvaluationSetup], data_paths: DataPaths, found: ListedDataset | None = None
) -> list[Plan]:
    """The same runs before each evaluation; the dataset's files are listed once."""
    first, *others = evaluations
    made = plan(request, first, data_paths, found)
    for evaluation in others:
        evaluation.check_size(made.specs[0].size)
    return [replace(made, evaluation=evaluation) for evaluation in evaluations]


def _ipcs(request: Request, cls: type) -> tuple[int, ...]:
    """Images per class, 0 for all of them; UserError unless that is what the method takes."""
    whole = getattr(cls, "whole", False)
    if whole and request.ipcs:
        raise UserError(f"{request.method} takes every training image: leave out --ipc")
    if not whole and not request.ipcs:
        raise UserError(f"how many images per class may {request.method} keep? Say --ipc 10, for one")
    return tuple(dict.fromkeys(request.ipcs)) or (0,)


def _method(name: str) -> Any:
    """The class of a method; UserError when it is none."""
    cls: Any = load_method(name)
    has_both = callable(getattr(cls, "distill", None)) and type(getattr(cls, "version", None)) is int
    title = getattr(cls, "name", None)
    if not (is_dataclass(cls) and has_both and isinstance(title, str) and title):
        raise UserError(f"{name} is not a method; `ddbench check {name}` says what it lacks")
    return cls


def _params(method: Any) -> dict[str, Any]:
    params = config.params(method)
    try:
        canonical(params)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"a field of {config.method_name(type(method))} cannot be written to spec.json: {error}"
        ) from None
    return params


def _each(spec: RunSpec, ipcs: tuple[int, ...], seeds: tuple[int, ...]) -> tuple[RunSpec, ...]:
    """The same run with each IPC and each of the seeds."""
    return tuple(replace(spec, ipc=ipc, seed=seed) for ipc in ipcs for seed in seeds)


def tasks(plan: Plan, runs: Path) -> Iterator[Task]:
    """Per run: the distillation, then each student with each of its seeds."""
    for spec in plan.specs:
        folder = spec.folder(runs)
        yield Task(spec, folder)
        for student in plan.evaluation.students:
            for seed in range(plan.evaluation.seeds):
                path = result_path(folder, plan.evaluation.protocol, student, seed)
                yield Task(
                    spec, folder, student, seed, path, corrupted_path(path) if plan.evaluation.corruptions else None
                )
