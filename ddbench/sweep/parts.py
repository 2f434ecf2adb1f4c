"""Plans whose methods distil parts of a dataset: `ddbench continual`, `ddbench audit --canaries`. No torch.

Their sets are runs in a folder of their own below `--runs`, so no table of whole datasets reads them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from msgspec import Meta

from ddbench.config import validate
from ddbench.datasets.info import DataPaths
from ddbench.errors import UserError
from ddbench.registry import load_method
from ddbench.runner import plan as planning
from ddbench.runner.options import SMALLEST
from ddbench.runner.plan import ListedDataset, Request
from ddbench.utils.limits import LARGEST_SIZE, MOST_IMAGES

if TYPE_CHECKING:
    from ddbench.runner.student_job import Students
    from ddbench.sweep.grid import MethodEntry, SweepJob


@dataclass(frozen=True)
class PartPlan:
    """The keys that both kinds of plans have.

    ipc: images of a class in each set; 0 for methods that take all training images.
    size: pixels; None for the dataset's own.
    students, protocol: as of `ddbench run`.
    """

    dataset: str
    ipc: Annotated[int, Meta(ge=0, le=MOST_IMAGES)] = 0
    size: Annotated[int, Meta(ge=SMALLEST, le=LARGEST_SIZE)] | None = None
    students: tuple[str, ...] = ("convnet",)
    protocol: str = "quick"


AnyPlan = TypeVar("AnyPlan", bound=PartPlan)


def read_part_plan(path: Path, cls: type[AnyPlan], instead: str) -> tuple[AnyPlan, tuple[MethodEntry, ...]]:
    """Read a plan and its methods from a TOML file.

    instead: what a plan has in place of seeds.

    Raises UserError that names the wrong key or value, and the valid ones.
    """
    from ddbench.sweep.grid import read_methods

    content, methods = read_methods(path, cls.__dataclass_fields__)
    if "dataset" not in content:
        raise UserError(f'{path}: dataset must be the name of one, such as dataset = "ucm"')
    plan = cls(**validate(cls, content, str(path)))
    if not plan.students:
        raise UserError(f"{path}: students is empty: name at least one")
    for entry in methods:
        if own := [name for name in ("ipcs", "seeds", "student_seeds") if getattr(entry, name) is not None]:
            reason = f"a plan of this kind has one ipc, {instead} in place of seeds, and the same students for all"
            raise UserError(f"{path}: {entry.method} has {' and '.join(own)} of its own; {reason}")
        if not load_method(entry.method).whole and not plan.ipc:
            raise UserError(f"{path}: {entry.method} needs images per class: add ipc = 20, for example")
    return plan, methods


@dataclass(frozen=True)
class PartSetting:
    """A plan with what all of its jobs need.

    plan: what it shares with others.
    students: with a protocol as an absolute path.
    listed: the whole dataset.
    data: folders of the data.
    runs: the folder above all of its files.
    """

    plan: PartPlan
    students: Students
    listed: ListedDataset
    data: DataPaths
    runs: Path


def distil_part(setting: PartSetting, entry: MethodEntry, seed: int, part: ListedDataset) -> SweepJob:
    """Return the job of the distilled set of a part of the dataset, without students."""
    from ddbench.sweep.grid import SweepJob, absolute_file

    method = absolute_file(entry.method)
    ipcs = () if load_method(method).whole else (setting.plan.ipc,)
    config = Path(entry.config).absolute() if entry.config else None
    request = Request(method, part.source.name, ipcs, setting.plan.size, entry.preset, config, entry.set, (seed,))
    alone = replace(setting.students.setup, students=())
    tasks = tuple(planning.tasks(planning.plan(request, alone, setting.data, part), setting.runs))
    return SweepJob(request, (), (setting.students.protocol,), 1, tasks, part.source)
