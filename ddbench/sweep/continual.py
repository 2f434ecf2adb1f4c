"""A plan of class-incremental learning (a TOML file) to jobs: distillations of all steps, then students. No torch.

The distilled sets are runs below `<runs>/continual`, of some classes of a dataset, so no table of whole datasets reads
them. The students' records are below `<runs>/continual/students`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from ddbench.config import validate
from ddbench.datasets.class_subset import ClassSubset
from ddbench.datasets.info import DataPaths
from ddbench.datasets.name import DatasetName, display_name
from ddbench.errors import UserError
from ddbench.registry import load_method
from ddbench.runner import plan as planning
from ddbench.runner.options import SMALLEST
from ddbench.runner.plan import EvaluationSetup, ListedDataset, Request
from ddbench.runner.student_job import Students
from ddbench.store.paths import CONTINUAL, protocol_folder, result_name
from ddbench.store.records import RunSpec
from ddbench.sweep.grid import Ipc, MethodEntry, SweepJob, absolute_file, read_methods
from ddbench.utils.limits import LARGEST_SIZE, MOST_SEEDS

if TYPE_CHECKING:
    from ddbench.runner.continual import ContinualJob, Memory

STEPS = (5, 3)  # numbers of steps to try where a plan has none


@dataclass(frozen=True)
class Continual:
    """A plan: the classes of a dataset come in equal groups, with a memory of distilled images for each class.

    ipc: images of a class in the memory; 0 for methods that take all training images.
    steps: number of groups, which divides the classes; 0 for 5, else 3.
    orders: K for the class orders of the seeds 0 to K-1, or a list of seeds. An order's seed is also that of its
        distillations.
    size: pixels; None for the dataset's own.
    students, student_seeds, protocol: as of `ddbench run`.
    """

    dataset: str
    ipc: Annotated[Ipc, Meta(ge=0)] = 0
    steps: Annotated[int, Meta(ge=0)] = 0
    orders: Annotated[int, Meta(ge=1, le=MOST_SEEDS)] | tuple[Annotated[int, Meta(ge=0)], ...] = 5
    size: Annotated[int, Meta(ge=SMALLEST, le=LARGEST_SIZE)] | None = None
    students: tuple[str, ...] = ("convnet",)
    student_seeds: Annotated[int, Meta(ge=1, le=MOST_SEEDS)] = 1
    protocol: str = "quick"


@dataclass(frozen=True)
class ContinualWork:
    """The jobs of a plan.

    distillations: of each step of each order, by method. students: that learn from them, a few for each step.
    """

    distillations: tuple[SweepJob, ...]
    students: tuple[ContinualJob, ...]


def read_continual(path: Path) -> tuple[Continual, tuple[MethodEntry, ...]]:
    """Read a plan from a TOML file. Raises UserError that names the wrong key or value, and the valid ones."""
    content, methods = read_methods(path, Continual.__dataclass_fields__)
    if "dataset" not in content:
        raise UserError(f'{path}: dataset must be the name of one, such as dataset = "ucm"')
    plan = Continual(**validate(Continual, content, str(path)))
    if not plan.students or not plan.orders:
        raise UserError(f"{path}: {'orders' if plan.students else 'students'} is empty: name at least one")
    for entry in methods:
        if entry.ipcs is not None or entry.seeds is not None:
            raise UserError(f"{path}: {entry.method} has ipcs or seeds of its own; a plan has one ipc, and orders")
        if not load_method(entry.method).whole and not plan.ipc:
            raise UserError(f"{path}: {entry.method} needs images per class: add ipc = 20, for example")
    return plan, methods


def continual_work(plan: Continual, methods: tuple[MethodEntry, ...], data: DataPaths, runs: Path) -> ContinualWork:
    """Return the jobs of a plan. Raises UserError for any invalid name or value, before anything is written."""
    from ddbench.runner.continual import Memory, class_order

    students = Students.of(plan.students, plan.protocol, plan.student_seeds)
    setup = students.setup
    _check_protocol(setup)
    listed = planning.list_dataset(DatasetName.parse(plan.dataset).absolute, data)
    classes = listed.source.classes
    steps = plan.steps or next((number for number in STEPS if len(classes) % number == 0), 0)
    if steps < 2 or len(classes) % steps or len(classes) < 2 * steps:
        fits = [str(number) for number in range(2, len(classes) // 2 + 1) if len(classes) % number == 0]
        known = f"steps = {' or '.join(fits)}" if fits else "another dataset"
        raise UserError(
            f"{len(classes)} classes of {listed.source.name} do not come in {steps or 'five or three'} equal groups of "
            f"two classes or more: {known}"
        )
    setting = _Setting(plan, students, listed, steps, data, runs / CONTINUAL)
    distillations: dict[Path, SweepJob] = {}
    jobs: list[ContinualJob] = []
    for entry in methods:
        for seed in range(plan.orders) if isinstance(plan.orders, int) else dict.fromkeys(plan.orders):
            order, size = class_order(classes, seed), len(classes) // steps
            memories: tuple[Memory, ...] = ()
            for step in range(steps):
                labels = tuple(sorted(order[step * size : (step + 1) * size]))
                job = _distillation(setting, entry, seed, labels)
                distillations.setdefault(job.folder, job)
                memories = (*memories, Memory(job.folder, labels))
                jobs += _students(setting, job.tasks[0].spec, memories)
    return ContinualWork(tuple(distillations.values()), tuple(jobs))


@dataclass(frozen=True)
class _Setting:
    """The plan, its students, classes and folders, for all of its jobs. runs: the folder above all of its files."""

    plan: Continual
    students: Students
    listed: ListedDataset
    steps: int
    data: DataPaths
    runs: Path


def _check_protocol(setup: EvaluationSetup) -> None:
    """Raise UserError for a protocol that needs what a learner of classes in steps does not have."""
    title = setup.protocol.title
    if setup.protocol.teacher:
        raise UserError(f"{title} has a teacher, which was trained on all classes at once: name a protocol without one")
    if any(setup.protocol.recipe(name).learned_rate for name in setup.students):
        raise UserError(f"{title} trains at the rate that a set carries, and a memory has several: name another")


def _distillation(setting: _Setting, entry: MethodEntry, seed: int, labels: tuple[int, ...]) -> SweepJob:
    """Return the job of the distilled set of some classes, without students."""
    group = ClassSubset(setting.listed.source, labels)
    listed = ListedDataset(group, group.of_split(setting.listed.split))
    method = absolute_file(entry.method)
    ipcs = () if load_method(method).whole else (setting.plan.ipc,)
    config = Path(entry.config).absolute() if entry.config else None
    request = Request(method, group.name, ipcs, setting.plan.size, entry.preset, config, entry.set, (seed,))
    alone = replace(setting.students.setup, students=())
    tasks = tuple(planning.tasks(planning.plan(request, alone, setting.data, listed), setting.runs))
    return SweepJob(request, (), (setting.students.protocol,), 1, tasks, group)


def _students(setting: _Setting, spec: RunSpec, memories: tuple[Memory, ...]) -> Iterator[ContinualJob]:
    """Yield the students after one step. spec: of the step's set."""
    from ddbench.runner.continual import ContinualJob

    setup, listed = setting.students.setup, setting.listed
    setup.check_size(spec.size)
    name, split = display_name(listed.source.name), listed.split
    whole = replace(spec, dataset=name, split=split.rule, fingerprint=split.fingerprint)
    place = whole.folder(setting.runs / "students")  # .../<dataset><size>/<method>/ipc<n>/seed<order>-<digest>
    folder = place / f"{setting.steps}-steps" / protocol_folder(setup.protocol)
    for student in setup.students:
        for seed in range(setup.seeds):
            path = folder / f"step{len(memories)}-{result_name(student, setup.protocol.init, seed)}"
            task = planning.Task(whole, place, student, seed, path)
            yield ContinualJob(task, listed.source, setting.students.protocol, memories, setting.steps)
