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

from ddbench.datasets.class_subset import ClassSubset
from ddbench.datasets.info import DataPaths
from ddbench.datasets.name import DatasetName, display_name
from ddbench.errors import UserError
from ddbench.runner import plan as planning
from ddbench.runner.plan import EvaluationSetup, ListedDataset
from ddbench.runner.student_job import Students
from ddbench.store.paths import CONTINUAL, protocol_folder, result_name
from ddbench.store.records import RunSpec
from ddbench.sweep.grid import MethodEntry, SweepJob
from ddbench.sweep.parts import PartPlan, PartSetting, distil_part, read_part_plan
from ddbench.utils.limits import MOST_SEEDS

if TYPE_CHECKING:
    from ddbench.runner.continual import ContinualJob, Memory

STEPS = (5, 3)  # numbers of steps to try where a plan has none


@dataclass(frozen=True)
class Continual(PartPlan):
    """A plan: the classes of a dataset come in equal groups, with a memory of distilled images for each class.

    steps: number of groups, which divides the classes; 0 for 5, else 3.
    orders: K for the class orders of the seeds 0 to K-1, or a list of seeds. An order's seed is also that of its
        distillations.
    student_seeds: students of each name after each step.
    """

    steps: Annotated[int, Meta(ge=0)] = 0
    orders: Annotated[int, Meta(ge=1, le=MOST_SEEDS)] | tuple[Annotated[int, Meta(ge=0)], ...] = 5
    student_seeds: Annotated[int, Meta(ge=1, le=MOST_SEEDS)] = 1


@dataclass(frozen=True)
class ContinualWork:
    """The jobs of a plan.

    distillations: of each step of each order, by method. students: that learn from them, a few for each step.
    """

    distillations: tuple[SweepJob, ...]
    students: tuple[ContinualJob, ...]


def read_continual(path: Path) -> tuple[Continual, tuple[MethodEntry, ...]]:
    """Read a plan from a TOML file. Raises UserError that names the wrong key or value, and the valid ones."""
    plan, methods = read_part_plan(path, Continual, "orders")
    if not plan.orders:
        raise UserError(f"{path}: orders is empty: name at least one")
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
    setting = PartSetting(plan, students, listed, data, runs / CONTINUAL)
    distillations: dict[Path, SweepJob] = {}
    jobs: list[ContinualJob] = []
    for entry in methods:
        for seed in range(plan.orders) if isinstance(plan.orders, int) else dict.fromkeys(plan.orders):
            order, size = class_order(classes, seed), len(classes) // steps
            memories: tuple[Memory, ...] = ()
            for step in range(steps):
                labels = tuple(sorted(order[step * size : (step + 1) * size]))
                group = ClassSubset(listed.source, labels)
                job = distil_part(setting, entry, seed, ListedDataset(group, group.of_split(listed.split)))
                distillations.setdefault(job.folder, job)
                memories = (*memories, Memory(job.folder, labels))
                jobs += _students(setting, job.tasks[0].spec, memories, steps)
    return ContinualWork(tuple(distillations.values()), tuple(jobs))


def _check_protocol(setup: EvaluationSetup) -> None:
    """Raise UserError for a protocol that needs what a learner of classes in steps does not have."""
    title = setup.protocol.title
    if setup.protocol.teacher:
        raise UserError(f"{title} has a teacher, which was trained on all classes at once: name a protocol without one")
    if any(setup.protocol.recipe(name).learned_rate for name in setup.students):
        raise UserError(f"{title} trains at the rate that a set carries, and a memory has several: name another")


def _students(setting: PartSetting, spec: RunSpec, memories: tuple[Memory, ...], steps: int) -> Iterator[ContinualJob]:
    """Yield the students after one step. spec: of the step's set."""
    from ddbench.runner.continual import ContinualJob

    setup, listed = setting.students.setup, setting.listed
    setup.check_size(spec.size)
    name, split = display_name(listed.source.name), listed.split
    whole = replace(spec, dataset=name, split=split.rule, fingerprint=split.fingerprint)
    place = whole.folder(setting.runs / "students")  # .../<dataset><size>/<method>/ipc<n>/seed<order>-<digest>
    folder = place / f"{steps}-steps" / protocol_folder(setup.protocol)
    for student in setup.students:
        for seed in range(setup.seeds):
            path = folder / f"step{len(memories)}-{result_name(student, setup.protocol.init, seed)}"
            task = planning.Task(whole, place, student, seed, path)
            yield ContinualJob(task, listed.source, setting.students.protocol, memories, steps)
