"""One student of a measure as a job: train it, test it, write its record. A sweep's workers can do it. No torch."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from ddbench.datasets.lookup import ImageSource, find_dataset
from ddbench.errors import UserError
from ddbench.protocols import TOML
from ddbench.runner.plan import EvaluationSetup, ExecutionSettings, Task, evaluation_setup
from ddbench.runner.run import TaskCounts, attempt, refuse_links
from ddbench.store.failures import Failure, read_failure, write_failure
from ddbench.store.measured import MeasuredResult, MeasuredStudent, read_measured, write_measured
from ddbench.store.reader import Problem, find_run_folders
from ddbench.store.records import RunSpec, distilled_digest, read_spec
from ddbench.utils.files import locked, read_json, remove_stale_files

if TYPE_CHECKING:
    from ddbench.datasets.info import DataPaths, Split
    from ddbench.runner.evaluation import StudentTask

log = logging.getLogger("ddbench")


@dataclass(frozen=True)
class MeasuredRun:
    """A run whose distilled set a measure takes.

    counts: images of each class.
    source: its dataset.
    """

    folder: Path
    spec: RunSpec
    counts: tuple[int, ...]
    source: ImageSource


@dataclass(frozen=True)
class Students:
    """The students that a measure trains on each set.

    names: of the networks.
    protocol: a name, or the absolute path of a TOML file.
    seeds: students of each name, with seeds 0 to seeds - 1.
    """

    names: tuple[str, ...] = ("convnet",)
    protocol: str = "quick"
    seeds: int = 1

    @classmethod
    def of(cls, names: tuple[str, ...], protocol: str, seeds: int) -> Self:
        """Return the students of a request, whose protocol may be a file with a relative path."""
        absolute = str(Path(protocol).expanduser().absolute()) if protocol.endswith(TOML) else protocol
        return cls(names, absolute, seeds)

    @property
    def setup(self) -> EvaluationSetup:
        """The same with the protocol itself. Raises UserError for an unknown name."""
        return evaluation_setup(self.names, self.protocol, self.seeds)


@dataclass(frozen=True)
class StudentJob(ABC):
    """One student of a measure, as plain values and the dataset's source: it can be sent to another process.

    task: the run, the student with its seed, and the file of its record.
    source: the dataset.
    protocol: a name, or the absolute path of a TOML file.
    """

    measure: ClassVar[str]
    task: Task
    source: ImageSource
    protocol: str

    @property
    @abstractmethod
    def description(self) -> str:
        """The training set or its budget in words, for titles: "part 3 of 5"."""

    @property
    @abstractmethod
    def x(self) -> float:
        """Value of what the measure's table has columns for."""

    @abstractmethod
    def measured(self, student_task: StudentTask) -> MeasuredResult:
        """Train and test the student."""

    @property
    def title(self) -> str:
        """The path below the runs folder, and what is done."""
        run = "/".join(self.task.folder.parts[-4:])
        return f"{run}: {self.measure}, {self.description}, {self.task.student} seed {self.task.seed}"

    def content(self) -> str:
        """Return the digest of the present distilled sets that it is trained on. Raises ValueError without them."""
        return distilled_digest(self.task.folder)

    @property
    def done(self) -> bool:
        """True if the record exists and belongs to the present distilled sets, as far as both can be read."""
        path = self.task.path
        try:
            return path.exists() and bool(read_json(path)["content"] == self.content())
        except (OSError, ValueError, KeyError, TypeError):
            return True  # the reader names it, and it is not overwritten

    @property
    def earlier_failure(self) -> Failure | None:
        """The recorded failure of a student that is missing."""
        return None if self.done else read_failure(self.task.path)

    def run(self, settings: ExecutionSettings, retry: bool = False) -> TaskCounts:
        """Train the student unless that is done; record a failure.

        retry: train it again if that failed earlier. Raises UserError for missing data, and filelock.Timeout where
        another process trains it for longer than `settings.patience`.
        """
        path, folder = self.task.path, self.task.folder
        if self.done:
            return TaskCounts(existing=1)
        refuse_links(folder.parents[3], folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path, settings.patience):
            remove_stale_files(path.parent)
            if self.done:  # now, by the other process
                return TaskCounts(existing=1)
            if not retry and (failure := read_failure(path)):
                log.error("%s: %s earlier (%s); --retry repeats it", self.title, failure.status, failure.error)
                return TaskCounts(failed=1)
            evaluation = Students((str(self.task.student),), self.protocol).setup
            done = attempt(self.task, self.title, evaluation, partial(self._train, evaluation, settings))
        return TaskCounts(done=1) if done else TaskCounts(failed=1)

    def record(self, failure: Failure) -> None:
        """Record a failure that `run` could not record, such as the end of its process."""
        write_failure(self.task.path, failure)

    def _train(self, evaluation: EvaluationSetup, settings: ExecutionSettings) -> None:
        from ddbench.runner.evaluation import StudentTask, check_test, check_weights  # torch
        from ddbench.utils.distributed import device

        log.info("%s", self.title)
        check_weights(evaluation)
        data = self.source.load(settings.data_paths, self.task.spec.size)
        check_test(data)
        content = self.content()
        chosen = device(settings.device, settings.gpu_memory)
        measured = self.measured(StudentTask(self.task, evaluation, data, chosen, settings))
        write_measured(replace(measured, result=replace(measured.result, content=content)))


def read_students(jobs: Sequence[StudentJob]) -> tuple[list[MeasuredStudent], list[Problem]]:
    """Return the records of the jobs that are done, and the files that cannot be used."""
    students, problems = [], []
    for job in jobs:
        if job.done:
            try:
                students.append(MeasuredStudent(job.x, job.task.spec, read_measured(job.task.path)))
            except (OSError, ValueError) as error:
                problems.append(Problem(job.task.path, str(error)))
    return students, problems


def check_data(jobs: Sequence[StudentJob], data_paths: DataPaths) -> None:
    """Raise UserError unless the images of all jobs that are to be done are there, with the split of their run."""
    splits: dict[str, Split] = {}
    for job in jobs:
        if job.done:
            continue
        spec, folder = job.task.spec, job.task.folder
        if job.source.name not in splits:
            splits[job.source.name] = job.source.describe(data_paths)
        split = splits[job.source.name]
        if split.fingerprint != spec.fingerprint:
            raise UserError(
                f"{folder} was distilled from the split {spec.fingerprint[:8]} of {spec.dataset}; {job.source.name} "
                f"has the split {split.fingerprint[:8]}: name the run's dataset with --dataset"
            )


def find_runs(folders: Sequence[Path], dataset: str | ImageSource | None) -> list[MeasuredRun]:
    """Return the runs at `folders`, or below them, sorted by path within each.

    dataset: their dataset; None for the one that each of them names.

    Runs without a distilled set, which failed or were stopped, are left out beside others. Raises UserError for a
    folder without a run, for runs none of which has a set, and for an unknown dataset.
    """
    sources: dict[str, ImageSource] = {}
    paths = dict.fromkeys(path.absolute() for path in find_run_folders(folders))
    empty = [path for path in paths if not (path / "distilled").is_dir()]
    if len(empty) < len(paths):  # else the error of the first one says what to do
        for path in empty:
            log.warning("%s has no distilled set yet: it is left out", path)
            del paths[path]
    return [_find_run(path, dataset, sources) for path in paths]


def _find_run(folder: Path, dataset: str | ImageSource | None, sources: dict[str, ImageSource]) -> MeasuredRun:
    """Return one run. sources: datasets that were found already, by the name in a spec."""
    try:
        spec = read_spec(folder / "spec.json")
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: {error}") from None
    if spec.dataset not in sources:
        try:
            named = spec.dataset if dataset is None else dataset
            sources[spec.dataset] = find_dataset(named) if isinstance(named, str) else named
        except UserError as error:
            raise UserError(f"{folder}: {error}\nname the run's dataset with --dataset") from None
    try:
        manifest = read_json(folder / "distilled" / "manifest.json")
        classes: list[str] = manifest["classes"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} has no distilled set yet ({error}): repeat its `ddbench run` command") from None
    counts = tuple(len(list((folder / "distilled" / name).glob("*.png"))) for name in classes)
    return MeasuredRun(folder, spec, counts, sources[spec.dataset])
