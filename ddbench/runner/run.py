"""From a plan to files: doing what is missing. No torch until it is needed.

`run` does what is not done; running it again resumes.
"""

from __future__ import annotations

import logging
import shutil
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ddbench.errors import UserError, is_out_of_memory
from ddbench.runner.plan import EvaluationSetup, ExecutionSettings, Plan, Task, tasks
from ddbench.store import distilled_set
from ddbench.store.paths import LOCKS, failure_path
from ddbench.store.records import Failure, read_failure, write_failure
from ddbench.utils import contact_sheet
from ddbench.utils.distributed import process_group
from ddbench.utils.files import locked, remove_stale_files, write_bytes

if TYPE_CHECKING:
    from ddbench.types import Dataset

log = logging.getLogger("ddbench")


@dataclass(frozen=True)
class TaskCounts:
    """done: tasks done now. failed: tasks that failed, now or earlier. kept: tasks that were there already."""

    done: int = 0
    failed: int = 0
    existing: int = 0

    def __add__(self, other: TaskCounts) -> TaskCounts:
        return TaskCounts(self.done + other.done, self.failed + other.failed, self.existing + other.existing)


def run(plan: Plan, settings: ExecutionSettings, retry: bool = False) -> TaskCounts | None:
    """Do every task that is not done. A task that fails is recorded and costs only what needs it.

    One that failed earlier is taken up again with `retry`, else reported. UserError (something the user must provide is
    missing) is raised, and leaves nothing behind. A run that another process is at is waited for, filelock.Timeout
    where the settings's patience ends. Of several processes of one launch the lead does the tasks; the others help it
    with the distillations of a method that is `parallel`, and return None. There a failure ends all.
    """
    if not process_group(settings.device == "cpu").is_lead:
        _assist(plan, settings)
        return None
    load = cache(lambda size: plan.source.load(settings.data_paths, size))
    counts = TaskCounts(0, 0, 0)
    for spec in plan.specs:
        one = replace(plan, specs=(spec,))
        with _alone(one, settings):
            counts += _run(one, settings, retry, load)
    return counts


@contextmanager
def _alone(plan: Plan, settings: ExecutionSettings) -> Iterator[None]:
    """No other process does the tasks of this plan of one run meanwhile."""
    if all(task.done for task in tasks(plan, settings.runs)):
        yield
        return
    locks = settings.runs / LOCKS
    made_here = _missing_parents(locks)
    locks.mkdir(parents=True, exist_ok=True)
    try:
        with locked(locks / plan.specs[0].digest[:16], settings.patience):
            yield
    except UserError:
        if locks in made_here:  # others may hold locks there by now
            (locks / f".{plan.specs[0].digest[:16]}.lock").unlink(missing_ok=True)
            _remove_empty(made_here)
        raise


def _run(plan: Plan, settings: ExecutionSettings, retry: bool, load: Callable[[int], Dataset]) -> TaskCounts:
    """The tasks of one run."""
    done = failed = existing = 0
    lost = False
    for task in tasks(plan, settings.runs):
        there = task.done  # looked at once, and so is the failure: others may be at it too
        before = None if there or retry else read_failure(task.path)
        if task.student is None and (there or before):
            process_group().broadcast(False)
        if there:
            _tidy(task)
            existing += 1
        elif lost:
            log.warning("%s: skipped, there is no distilled set", _where(task))
        elif not before and _attempt(task, plan, settings, load):
            done += 1
        else:
            if before:
                log.error("%s: %s earlier (%s); --retry tries again", _where(task), before.status, before.error)
            failed += 1
            lost = task.student is None
        if task.student is None and not lost:
            _contact_sheet(task.folder)
    return TaskCounts(done, failed, existing)


def _assist(plan: Plan, settings: ExecutionSettings) -> None:
    """Help with every distillation that the lead begins."""
    for spec in plan.specs:
        if process_group().broadcast():
            from ddbench.runner import distillation  # torch
            from ddbench.utils import distributed

            data = plan.source.load(settings.data_paths, spec.size)
            distillation.join_distillation(spec, plan, data, distributed.device(settings.device), settings)


def _tidy(task: Task) -> None:
    """Remove what a process killed after its work was done had no time to remove."""
    failure_path(task.path).unlink(missing_ok=True)
    if task.student is None:
        shutil.rmtree(task.folder / ".work", ignore_errors=True)
        remove_stale_files(task.folder)


def _attempt(task: Task, plan: Plan, settings: ExecutionSettings, load: Callable[[int], Dataset]) -> bool:
    """Whether the task was done; a failure is logged and recorded."""
    try:
        _execute(task, plan, settings, load)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a method that calls sys.exit() costs its task alone
        failure = _failure(error, task, plan.evaluation)
        write_failure(task.path, failure)
        log.error("%s: %s; the trace is in %s", _where(task), failure.error, failure_path(task.path))
        log.debug("%s", traceback.format_exc())
        if process_group().size > 1 and task.student is None:  # the others are in the middle of it
            raise
        return False
    failure_path(task.path).unlink(missing_ok=True)
    return True


def _execute(task: Task, plan: Plan, settings: ExecutionSettings, load: Callable[[int], Dataset]) -> None:
    from ddbench.runner import distillation, evaluation  # torch
    from ddbench.utils import distributed

    device = distributed.device(settings.device)
    log.info("%s", _where(task))
    evaluation.check_weights(plan.evaluation)  # before hours of distillation
    data = load(task.spec.size)
    evaluation.check_test(data)
    if task.student is not None:
        evaluation.evaluate_student(evaluation.StudentTask(task, plan.evaluation, data, device, settings))
        return
    made_here = _missing_parents(task.folder)
    try:
        distillation.distill(task, plan, data, device, settings)
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
    _remove_empty(made_here[1:])


def _remove_empty(folders: list[Path]) -> None:
    for parent in folders:
        if parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()


def _contact_sheet(folder: Path) -> None:
    if (folder / "contact.png").exists():
        return
    try:
        pictures = distilled_set.read(folder / "distilled")
        write_bytes(
            folder / "contact.png", contact_sheet.render_png(pictures.images, pictures.labels, pictures.classes)
        )
    except (OSError, ValueError) as error:  # somebody changed the images: judging them will fail and be recorded
        log.error("no contact sheet: %s", error)


def _where(task: Task) -> str:
    return f"{'/'.join(task.folder.parts[-4:])}: {task.description}"


def _failure(error: BaseException, task: Task, evaluation: EvaluationSetup) -> Failure:
    kind, summary = status(error), _summary(error)
    said = f"{summary} ({_memory_words(task, evaluation)})" if kind == "oom" else summary
    return Failure(kind, said, "".join(traceback.format_exception(error)))


def _memory_words(task: Task, evaluation: EvaluationSetup) -> str:
    """The settings of a task that its memory depends on, and how it would need less."""
    size = f"{task.spec.size} px"
    if task.student is not None:
        batch = evaluation.protocol.recipe(task.student).batch
        return f"batches of {batch} at {size}: a smaller --size, or a protocol of your own with a smaller batch"
    sets = [f"--set {name}={value}" for name, value in task.spec.params.items() if name.endswith("batch")]
    if not sets:
        return f"{size}: a smaller --size needs less"
    return f"{' '.join(sets)} at {size}: smaller needs less"


def _summary(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def status(error: BaseException) -> str:
    """One word for what went wrong: oom, diverged or failed."""
    if is_out_of_memory(error):
        return "oom"
    names = {cls.__name__ for cls in type(error).__mro__}
    return "diverged" if names & {"DivergedError", "FloatingPointError"} else "failed"
