"""A plan of `ddbench audit --canaries` (a TOML file) to jobs: distillations of all halves, then students. No torch.

The distilled sets are runs below `<runs>/canaries`, of halves of a dataset, so no table of whole datasets reads them.
Each student's record is in its run; the attacks are below `<runs>/canaries/audits`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from ddbench.datasets.canaries import CanaryHalf
from ddbench.datasets.info import DataPaths
from ddbench.datasets.name import DatasetName, display_name
from ddbench.errors import UserError
from ddbench.registry import load_method
from ddbench.runner import plan as planning
from ddbench.runner.plan import ListedDataset, Task
from ddbench.runner.student_job import Students
from ddbench.store.canaries import FEWEST_PAIRS
from ddbench.store.paths import CANARIES, protocol_folder, result_name
from ddbench.sweep.grid import MethodEntry, SweepJob
from ddbench.sweep.parts import PartPlan, PartSetting, distil_part, read_part_plan
from ddbench.utils.limits import MOST_IMAGES, MOST_SEEDS

if TYPE_CHECKING:
    from ddbench.runner.canaries import CanarySubject

FEWEST = 40  # audited images
LARGEST_SEED = 2**32 - 1


@dataclass(frozen=True)
class Canaries(PartPlan):
    """A plan: methods distil random halves of audited training images, and students of the sets are attacked.

    audited: number of audited images, a multiple of 4, at most half of the training images. Half are relabelled.
    distillations: of each method, an even number; each has a student of each name.
    seed: of the draw of audited images, labels and halves.
    """

    audited: Annotated[int, Meta(ge=FEWEST, le=MOST_IMAGES)] = 500
    distillations: Annotated[int, Meta(ge=2 * FEWEST_PAIRS, le=MOST_SEEDS)] = 16
    seed: Annotated[int, Meta(ge=0, le=LARGEST_SEED)] = 0


@dataclass(frozen=True)
class CanaryWork:
    """The jobs of a plan.

    distillations: of each half, by method. subjects: each method with each student, whose jobs are the students.
    """

    distillations: tuple[SweepJob, ...]
    subjects: tuple[CanarySubject, ...]


def read_canaries(path: Path) -> tuple[Canaries, tuple[MethodEntry, ...]]:
    """Read a plan from a TOML file. Raises UserError that names the wrong key or value, and the valid ones."""
    plan, methods = read_part_plan(path, Canaries, "distillations")
    if plan.audited % 4:
        nearest = plan.audited // 4 * 4
        raise UserError(f"{path}: audited = {plan.audited} does not come in four equal parts: {nearest}, for example")
    if plan.distillations % 2:
        raise UserError(f"{path}: distillations = {plan.distillations} is odd, and halves come in pairs")
    return plan, methods


def canary_work(plan: Canaries, methods: tuple[MethodEntry, ...], data: DataPaths, runs: Path) -> CanaryWork:
    """Return the jobs of a plan. Raises UserError for any invalid name or value, before anything is written."""
    from ddbench.runner.canaries import CanaryJob, CanarySubject

    students = Students.of(plan.students, plan.protocol, 1)
    setup = students.setup
    listed = planning.list_dataset(DatasetName.parse(plan.dataset).absolute, data)
    halves = [CanaryHalf(listed.source, plan.audited, plan.seed, half) for half in range(plan.distillations)]
    parts = [ListedDataset(half, half.of_split(listed.split)) for half in halves]
    setting = PartSetting(plan, students, listed, data, runs / CANARIES)
    name, split = display_name(listed.source.name), listed.split
    place = f"{plan.audited}-audited-{plan.distillations}-halves"
    distillations: dict[Path, SweepJob] = {}
    subjects: dict[Path, CanarySubject] = {}
    for entry in methods:
        jobs = [distil_part(setting, entry, half.half, part) for half, part in zip(halves, parts, strict=True)]
        for job in jobs:
            distillations.setdefault(job.folder, job)
        spec = jobs[0].tasks[0].spec
        setup.check_size(spec.size)
        whole = replace(spec, dataset=name, split=split.rule, fingerprint=split.fingerprint, seed=plan.seed)
        label = " ".join([spec.method, *([f"({entry.preset})"] if entry.preset else []), *entry.set])
        for student in setup.students:
            trained = []
            for half, job in zip(halves, jobs, strict=True):
                file = result_name(student, setup.protocol.init, half.half)
                path = job.folder / CANARIES / protocol_folder(setup.protocol) / file
                task = Task(job.tasks[0].spec, job.folder, student, half.half, path)
                trained.append(CanaryJob(task, half, students.protocol, half))
            folder = whole.folder(setting.runs / "audits") / place / protocol_folder(setup.protocol)
            path = folder / f"{student}-{setup.protocol.init}.json"
            subject = CanarySubject(label, whole, load_method(entry.method).whole, tuple(trained), path)
            subjects.setdefault(path, subject)
    return CanaryWork(tuple(distillations.values()), tuple(subjects.values()))
