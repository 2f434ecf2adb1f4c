"""From a request to a plan of runs and tasks: every name is checked, nothing is written. No torch.

`plan` gives the runs, `tasks` the pieces of work that they consist of.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddbench.config import build
from ddbench.config import params as hyper_parameters
from ddbench.datasets.info import DataPaths, MissingDataError, Split
from ddbench.datasets.lookup import ImageSource, find_dataset
from ddbench.datasets.name import display_name
from ddbench.errors import UserError
from ddbench.protocols import check_student, load_protocol
from ddbench.registry import load_method, source_of
from ddbench.runner.needs import missing_data_error, model_needs
from ddbench.store.paths import corrupted_path, result_path
from ddbench.store.records import RunSpec, missing_or_outdated
from ddbench.utils.files import canonical
from evaluators.catalog import check_size
from evaluators.recipes import Protocol

if TYPE_CHECKING:
    from ddbench.types import Method

log = logging.getLogger("ddbench")


@dataclass(frozen=True)
class ExecutionSettings:
    """Folders and devices. None of them changes which runs are planned.

    runs: the folder of the runs.
    data_paths: the folders of the data.
    device: "auto", "cpu", "cuda" or "cuda:1".
    quiet: no progress bars.
    compiled: train students through torch.compile (evaluators.train).
    patience: seconds to wait for another process that does the same run; None waits for ever.
    gpu_memory: GiB of a GPU that a process may hold; None for all.
    """

    runs: Path
    data_paths: DataPaths
    device: str = "auto"
    quiet: bool = False
    compiled: bool = False
    patience: float | None = None
    gpu_memory: float | None = None


@dataclass(frozen=True)
class EvaluationSetup:
    """The students that are trained on a distilled set.

    students: names.
    protocol: how they are trained.
    seeds: students of each name, seeds 0 to seeds - 1.
    corruptions: test them on corrupted images too (evaluators.corruptions).
    """

    students: tuple[str, ...]
    protocol: Protocol
    seeds: int = 1
    corruptions: bool = False

    def networks(self) -> list[tuple[str, Protocol]]:
        """Return (student, its protocol) of every student, and of the teacher if there is one."""
        networks = [(student, self.protocol) for student in self.students]
        if self.protocol.teacher:
            student, title = self.protocol.teacher
            networks.append((student, load_protocol(title)))
        return networks

    def check_size(self, size: int) -> None:
        """Raise UserError if a student cannot take images of `size` pixels; warn if the protocol has another size."""
        if self.protocol.size not in (0, size):
            log.warning("%s is published for %d px, this run has %d px", self.protocol.title, self.protocol.size, size)
        try:
            for student, row in self.networks():
                check_size(student, size, row.init)
        except ValueError as error:
            raise UserError(f"{error}; choose another --student or --size") from None


@dataclass(frozen=True)
class Request:
    """The runs that a user asks for, on the command line or in Python.

    method: a name or FILE.py:CLASS.
    dataset: a name, folder:PATH or hf:OWNER/NAME.
    ipcs: images per class; none for a method that takes every training image.
    size: side of the images, pixels; None for the dataset's own.
    preset, config, sets, settings: hyper-parameters, see ddbench.config.build.
    seeds: seeds of the distillations.
    """

    method: str
    dataset: str
    ipcs: tuple[int, ...]
    size: int | None = None
    preset: str | None = None
    config: Path | None = None
    sets: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    settings: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Plan:
    """Runs of one method on one dataset, and the students to train on each.

    method: the method with its hyper-parameters.
    source: the dataset source, and `split` its files by side.
    specs: one for each IPC and seed.
    exact: every class must have exactly `ipc` images.
    """

    method: Method
    source: ImageSource
    split: Split
    specs: tuple[RunSpec, ...]
    evaluation: EvaluationSetup
    exact: bool = True


@dataclass(frozen=True)
class Task:
    """One piece of work. It is done when its files exist.

    student: None for the distillation.
    seed: seed of the student.
    result: file of the student's result.
    corrupted: file of its accuracies on corrupted images; None if they are not asked for.
    """

    spec: RunSpec
    folder: Path
    student: str | None = None
    seed: int = 0
    result: Path | None = None
    corrupted: Path | None = None

    @property
    def path(self) -> Path:
        """The path that a failure is recorded for: the result file, or the run's folder."""
        return self.result or self.folder

    @property
    def done(self) -> bool:
        """True if the files exist and are up to date."""
        if self.result is None:
            return (self.folder / "distilled").exists()
        return not any(missing_or_outdated(path, self.folder) for path in (self.result, self.corrupted) if path)

    @property
    def description(self) -> str:
        """The task in words, for logs."""
        return f"train {self.student} seed {self.seed}" if self.student else "distil"


def evaluation_setup(
    students: tuple[str, ...], protocol: str, seeds: int, corruptions: bool = False
) -> EvaluationSetup:
    """Return the setup for students by name.

    Raises UserError for an unknown student or protocol, and for a protocol that only teachers have.
    """
    row = load_protocol(protocol)
    if not row.evaluates:
        raise UserError(f"{row.title} is for teachers only (`ddbench show {row.title}`); try --protocol quick")
    names = tuple(dict.fromkeys(check_student(student) for student in students))
    for name in names:
        try:
            row.recipe(name)
        except ValueError as error:
            raise UserError(str(error)) from None
    return EvaluationSetup(names, row, seeds, corruptions)


@dataclass(frozen=True)
class ListedDataset:
    """A dataset's source, and its files by side."""

    source: ImageSource
    split: Split


def list_dataset(dataset: str | ImageSource, data_paths: DataPaths) -> ListedDataset:
    """List the files of a dataset, found by its name. Raises UserError."""
    source = find_dataset(dataset) if isinstance(dataset, str) else dataset
    return ListedDataset(source, source.describe(data_paths))


def plan(
    request: Request, evaluation: EvaluationSetup, data_paths: DataPaths, listed: ListedDataset | None = None
) -> Plan:
    """Check every name of a request and return its plan; nothing is written. Raises UserError.

    listed: the dataset's files, if they are listed already.
    """
    # the dataset before the method, whose module may import torch: missing data is reported at once
    try:
        dataset = listed or list_dataset(request.dataset, data_paths)
    except MissingDataError as error:
        models = model_needs(request.method, request.preset, request.config, request.sets)
        raise missing_data_error(error, request.dataset, models) from None
    size = request.size or dataset.source.pixels
    evaluation.check_size(size)
    cls = load_method(request.method)
    method = build(cls, request.preset, request.config, request.sets, request.settings)
    params = hyper_parameters(method)
    try:
        canonical(params)
    except (TypeError, ValueError) as error:
        raise UserError(f"a field of {cls.name} cannot be written to spec.json: {error}") from None
    if cls.whole and request.ipcs:
        raise UserError(f"{request.method} takes every training image: leave out --ipc")
    if not cls.whole and not request.ipcs:
        raise UserError(f"{request.method} needs a number of images per class: add --ipc 10, for example")
    if method.needs_ipc_images and request.ipcs:
        _check_class_sizes(request, dataset)
    spec = RunSpec(
        method=cls.name,
        method_version=cls.version,
        preset=request.preset,
        params=params,
        dataset=display_name(dataset.source.name),
        split=dataset.split.rule,
        fingerprint=dataset.split.fingerprint,
        size=size,
        ipc=0,
        seed=0,
        source=source_of(request.method),
        identity=method.identity(),
    )
    ipcs = tuple(dict.fromkeys(request.ipcs)) or (0,)
    specs = tuple(replace(spec, ipc=ipc, seed=seed) for ipc in ipcs for seed in request.seeds)
    return Plan(method, dataset.source, dataset.split, specs, evaluation)


def _check_class_sizes(request: Request, dataset: ListedDataset) -> None:
    """Raise UserError if a class has fewer training images than the largest IPC."""
    most = max(request.ipcs)
    size, name = min(zip(map(len, dataset.split.train), dataset.source.classes, strict=True))
    if size < most:
        few = f"needs {most} training images of every class, and {name} of {dataset.source.name} has {size}"
        raise UserError(f"{request.method} {few}: ask for {size} images per class or fewer")


def plans_for_protocols(
    request: Request,
    evaluations: Sequence[EvaluationSetup],
    data_paths: DataPaths,
    listed: ListedDataset | None = None,
) -> list[Plan]:
    """Return the same runs with each evaluation; the dataset's files are listed once."""
    first, *others = evaluations
    base = plan(request, first, data_paths, listed)
    for evaluation in others:
        evaluation.check_size(base.specs[0].size)
    return [replace(base, evaluation=evaluation) for evaluation in evaluations]


def tasks(plan: Plan, runs: Path) -> Iterator[Task]:
    """Yield the distillation of each run, then each student with each of its seeds."""
    for spec in plan.specs:
        folder = spec.folder(runs)
        yield Task(spec, folder)
        for student in plan.evaluation.students:
            for seed in range(plan.evaluation.seeds):
                path = result_path(folder, plan.evaluation.protocol, student, seed)
                corrupted = corrupted_path(path) if plan.evaluation.corruptions else None
                yield Task(spec, folder, student, seed, path, corrupted)
