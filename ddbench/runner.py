"""From words to files: what was asked for, what of it is there already, doing the rest. No torch until it is needed.

`plan` and `plan_given` check every word and write nothing. `run` does what is missing; running it again resumes.
"""

from __future__ import annotations

import logging
import shutil
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddbench import config, contact, distilled, registry
from ddbench.datasets.facts import Place, Split
from ddbench.errors import UserError, ran_out
from ddbench.files import canonical, sweep, write_bytes
from ddbench.runs import (
    Failure,
    RunSpec,
    corrupted_path,
    failure_path,
    read_failure,
    result_path,
    wanting,
    write_failure,
)
from ddbench.team import join
from evaluators.sizes import check_size

if TYPE_CHECKING:
    from ddbench.types import Dataset

log = logging.getLogger("ddbench")


@dataclass(frozen=True)
class Setting:
    """Where things lie and what computes. None of it changes which run is meant.

    compiled: whether students are trained through torch.compile (evaluators.train).
    """

    runs: Path
    place: Place
    device: str = "auto"
    quiet: bool = False
    compiled: bool = False


@dataclass(frozen=True)
class Jury:
    """The students that judge: names, a protocol (evaluators.protocols.Protocol), and how many of each.

    corruptions: whether they are tested on corrupted images too (evaluators.robust).
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
            found.append((student, registry.load("protocols", title)))
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
    jury: Jury
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
        return not any(wanting(path, self.folder) for path in (self.result, self.corrupted) if path)

    @property
    def words(self) -> str:
        return f"train {self.student} seed {self.seed}" if self.student else "distil"


@dataclass(frozen=True)
class Outcome:
    """done: tasks done now. failed: tasks that failed, now or earlier. kept: tasks that were there already."""

    done: int
    failed: int
    kept: int


def jury(students: tuple[str, ...], protocol: str, seeds: int, corruptions: bool = False) -> Jury:
    """Students by name; UserError for an unknown student or protocol, and for one that is not for judging."""
    row = registry.load("protocols", protocol)
    if not row.judges:
        raise UserError(f"{row.title} is not for judging (`ddbench show {row.title}`); --protocol quick is, for one")
    names = tuple(dict.fromkeys(registry.load("students", student) for student in students))
    for name in names:
        try:
            row.recipe(name)
        except ValueError as error:
            raise UserError(str(error)) from None
    return Jury(names, row, seeds, corruptions)


def plan(request: Request, judges: Jury, place: Place) -> Plan:
    """Every word checked, the dataset's files listed; raises UserError and writes nothing."""
    source = registry.load("datasets", request.dataset)
    size = request.size or source.pixels
    judges.check_size(size)
    split = source.describe(place)  # before the method, whose module may import torch: missing data is said at once
    cls = _method(request.method)
    method = config.build(cls, request.preset, request.config, request.sets)
    spec = RunSpec(
        method=config.title(cls),
        method_version=cls.version,
        preset=request.preset,
        params=_params(method),
        dataset=registry.short(source.name),
        split=split.rule,
        fingerprint=split.fingerprint,
        size=size,
        ipc=0,
        seed=0,
        source=registry.source_of(request.method),
        identity=method.identity() if callable(getattr(method, "identity", None)) else "",
    )
    return Plan(method, source, split, _each(spec, _ipcs(request, cls), request.seeds), judges)


def _ipcs(request: Request, cls: type) -> tuple[int, ...]:
    """Images per class, 0 for all of them; UserError unless that is what the method takes."""
    whole = getattr(cls, "whole", False)
    if whole and request.ipcs:
        raise UserError(f"{request.method} takes every training image: leave out --ipc")
    if not whole and not request.ipcs:
        raise UserError(f"how many images per class may {request.method} keep? Say --ipc 10, for one")
    return tuple(dict.fromkeys(request.ipcs)) or (0,)


def _method(name: str) -> type:
    """The class of a method; UserError when it is none."""
    cls = registry.load("methods", name)
    has_both = callable(getattr(cls, "distill", None)) and type(getattr(cls, "version", None)) is int
    if not (is_dataclass(cls) and has_both and isinstance(getattr(cls, "name", None), str) and cls.name):
        raise UserError(f"{name} is not a method; `ddbench check {name}` says what it lacks")
    return cls


def _params(method: Any) -> dict[str, Any]:
    params = config.params(method)
    try:
        canonical(params)
    except (TypeError, ValueError) as error:
        raise UserError(f"a field of {config.title(type(method))} cannot be written to spec.json: {error}") from None
    return params


def _each(spec: RunSpec, ipcs: tuple[int, ...], seeds: tuple[int, ...]) -> tuple[RunSpec, ...]:
    """The same run with each IPC and each of the seeds."""
    return tuple(replace(spec, ipc=ipc, seed=seed) for ipc in ipcs for seed in seeds)


def tasks(plan: Plan, runs: Path) -> Iterator[Task]:
    """Per run: the distillation, then each student with each of its seeds."""
    for spec in plan.specs:
        folder = spec.folder(runs)
        yield Task(spec, folder)
        for student in plan.jury.students:
            for seed in range(plan.jury.seeds):
                path = result_path(folder, plan.jury.protocol, student, seed)
                yield Task(spec, folder, student, seed, path, corrupted_path(path) if plan.jury.corruptions else None)


def run(plan: Plan, setting: Setting, retry: bool = False) -> Outcome | None:
    """Do every task that is not done. A task that fails is recorded and costs only what needs it.

    One that failed earlier is taken up again with `retry`, else reported. UserError (something the user must provide is
    missing) is raised, and leaves nothing behind. Of several processes of one launch the lead does the tasks; the
    others help it with the distillations of a method that is `parallel`, and return None. There a failure ends all.
    """
    if not join(setting.device == "cpu").lead:
        return _assist(plan, setting)
    load = cache(lambda size: plan.source.load(setting.place, size))
    done = failed = kept = 0
    lost: set[Path] = set()
    for task in tasks(plan, setting.runs):
        there = task.done  # looked at once, and so is the failure: others may be at it too
        before = None if there or retry else read_failure(task.path)
        if task.student is None and (there or before):
            join().told(False)
        if there:
            _tidy(task)
            kept += 1
        elif task.folder in lost:
            log.warning("%s: skipped, there is no distilled set", _where(task))
        elif not before and _attempt(task, plan, setting, load):
            done += 1
        else:
            if before:
                log.error("%s: %s earlier (%s); --retry tries again", _where(task), before.status, before.error)
            failed += 1
            lost |= {task.folder} if task.student is None else set()
        if task.student is None and task.folder not in lost:
            _contact_sheet(task.folder)
    return Outcome(done, failed, kept)


def _assist(plan: Plan, setting: Setting) -> None:
    """Help with every distillation that the lead begins."""
    for spec in plan.specs:
        if join().told():
            from ddbench import execute  # torch

            data = plan.source.load(setting.place, spec.size)
            execute.assist(spec, plan, data, execute.device(setting.device), setting)


def _tidy(task: Task) -> None:
    """Remove what a process killed after its work was done had no time to remove."""
    failure_path(task.path).unlink(missing_ok=True)
    if task.student is None:
        shutil.rmtree(task.folder / ".work", ignore_errors=True)
        sweep(task.folder)


def _attempt(task: Task, plan: Plan, setting: Setting, load: Callable[[int], Dataset]) -> bool:
    """Whether the task was done; a failure is logged and recorded."""
    try:
        _execute(task, plan, setting, load)
    except UserError:
        raise
    except Exception as error:
        failure = _failure(error, task, plan.jury)
        write_failure(task.path, failure)
        log.error("%s: %s; the trace is in %s", _where(task), failure.error, failure_path(task.path))
        log.debug("%s", traceback.format_exc())
        if join().size > 1 and task.student is None:  # the others are in the middle of it
            raise
        return False
    failure_path(task.path).unlink(missing_ok=True)
    return True


def _execute(task: Task, plan: Plan, setting: Setting, load: Callable[[int], Dataset]) -> None:
    from ddbench import execute, judging  # torch

    device = execute.device(setting.device)
    log.info("%s", _where(task))
    judging.check_weights(plan.jury)  # before hours of distillation
    data = load(task.spec.size)
    judging.check_test(data)
    if task.student is not None:
        judging.judge(judging.Trial(task, plan.jury, data, device, setting))
        return
    made_here = _missing_parents(task.folder)
    try:
        execute.distill(task, plan, data, device, setting)
    except UserError:
        _forget(task.folder, made_here)
        raise


def _missing_parents(folder: Path) -> list[Path]:
    """`folder` and its parents that do not exist, innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def _forget(folder: Path, made_here: list[Path]) -> None:
    """Remove a run folder that this process made, and its parents as far as they are empty."""
    if folder in made_here:
        shutil.rmtree(folder, ignore_errors=True)
    for parent in made_here[1:]:
        if parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()


def _contact_sheet(folder: Path) -> None:
    if (folder / "contact.png").exists():
        return
    try:
        write_bytes(folder / "contact.png", contact.png(distilled.read(folder / "distilled")))
    except (OSError, ValueError) as error:  # somebody changed the images: judging them will fail and be recorded
        log.error("no contact sheet: %s", error)


def _where(task: Task) -> str:
    return f"{'/'.join(task.folder.parts[-4:])}: {task.words}"


def _failure(error: Exception, task: Task, jury: Jury) -> Failure:
    kind, summary = status(error), _summary(error)
    said = f"{summary} ({_memory_words(task, jury)})" if kind == "oom" else summary
    return Failure(kind, said, "".join(traceback.format_exception(error)))


def _memory_words(task: Task, jury: Jury) -> str:
    """The settings of a task that its memory depends on, and how it would need less."""
    size = f"{task.spec.size} px"
    if task.student is not None:
        batch = jury.protocol.recipe(task.student).batch
        return f"batches of {batch} at {size}: a smaller --size, or a protocol of your own with a smaller batch"
    sets = [f"--set {name}={value}" for name, value in task.spec.params.items() if name.endswith("batch")]
    if not sets:
        return f"{size}: a smaller --size needs less"
    return f"{' '.join(sets)} at {size}: smaller needs less"


def _summary(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def status(error: Exception) -> str:
    """One word for what went wrong: oom, diverged or failed."""
    if ran_out(error):
        return "oom"
    names = {cls.__name__ for cls in type(error).__mro__}
    return "diverged" if names & {"DivergedError", "FloatingPointError"} else "failed"
