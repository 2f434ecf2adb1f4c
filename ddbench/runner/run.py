"""Do the tasks of a plan that are missing; record failures. `run` again resumes. No torch until a task needs it."""

from __future__ import annotations

import logging
import os
import shutil
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from ddbench.errors import UserError, disk_error, is_out_of_memory
from ddbench.runner.plan import EvaluationSetup, ExecutionSettings, Plan, Task, tasks
from ddbench.store import distilled_set
from ddbench.store.failures import Failure, read_failure, write_failure
from ddbench.store.paths import LOCKS, MEASURES, failure_path
from ddbench.utils import contact_sheet
from ddbench.utils.distributed import process_group
from ddbench.utils.files import locked, remove_stale_files, write_bytes

if TYPE_CHECKING:
    from ddbench.types import Dataset

log = logging.getLogger("ddbench")

TrainStudents = Callable[[Plan, Sequence[Task]], "TaskCounts"]  # of one run, all with its distilled set


@dataclass(frozen=True)
class TaskCounts:
    """Numbers of tasks, or of a sweep's jobs.

    done: done now.
    failed: failed now or earlier.
    existing: done earlier.
    """

    done: int = 0
    failed: int = 0
    existing: int = 0

    def __add__(self, other: TaskCounts) -> TaskCounts:
        return TaskCounts(self.done + other.done, self.failed + other.failed, self.existing + other.existing)


def run(
    plan: Plan, settings: ExecutionSettings, retry: bool = False, train: TrainStudents | None = None
) -> TaskCounts | None:
    """Do every task that is missing. A task that fails is recorded and costs only the tasks that need it.

    retry: try tasks again that failed earlier; otherwise they are reported.
    train: trains the missing students of a run, at once; None trains one after another, here.

    UserError (missing user data) is raised and leaves nothing behind. A run that another process does is waited for, up
    to filelock.Timeout after `settings.patience`.

    Of several processes of one launch the lead does the tasks. The others help with the distillations of a `parallel`
    method and return None; there a failure ends all processes.
    """
    if not process_group(settings.device == "cpu").is_lead:
        for spec in plan.specs:
            if process_group().broadcast():  # the lead begins a distillation
                from ddbench.runner import distillation  # torch
                from ddbench.utils import distributed

                data = plan.source.load(settings.data_paths, spec.size)
                device = distributed.device(settings.device, settings.gpu_memory)
                distillation.join_distillation(spec, plan, data, device, settings)
        return None
    load = cache(lambda size: plan.source.load(settings.data_paths, size))
    counts = TaskCounts()
    for spec in plan.specs:
        one = replace(plan, specs=(spec,))
        with _run_lock(one, settings):
            counts += _do_tasks(one, settings, retry, load, train)
    return counts


@contextmanager
def _run_lock(plan: Plan, settings: ExecutionSettings) -> Iterator[None]:
    """Keep other processes from the tasks of this plan of one run."""
    if all(task.done for task in tasks(plan, settings.runs)):
        yield
        return
    locks = settings.runs / LOCKS
    new_folders = _missing_parents(locks)
    locks.mkdir(parents=True, exist_ok=True)
    try:
        with locked(locks / plan.specs[0].digest[:16], settings.patience):
            yield
    except UserError:
        if locks in new_folders:  # other processes may hold locks there by now
            (locks / f".{plan.specs[0].digest[:16]}.lock").unlink(missing_ok=True)
            _remove_empty(new_folders)
        raise


def _do_tasks(
    plan: Plan,
    settings: ExecutionSettings,
    retry: bool,
    load: Callable[[int], Dataset],
    train: TrainStudents | None,
) -> TaskCounts:
    """Do the missing tasks of one run."""
    done = failed = existing = 0
    students: list[Task] = []  # for `train`
    no_distilled_set = False
    refuse_links(settings.runs, plan.specs[0].folder(settings.runs))
    for task in tasks(plan, settings.runs):
        label, is_distillation = task_label(task), task.student is None
        exists = task.done  # read once, like the failure: other processes may change both
        earlier_failure = None if exists or retry else read_failure(task.path)
        if is_distillation:
            remove_stale_files(task.folder)
            if exists or earlier_failure:
                process_group().broadcast(False)
        if exists:
            if failure_path(task.path).exists():  # a process was killed after the task was done
                failure_path(task.path).unlink(missing_ok=True)
            if is_distillation:
                shutil.rmtree(task.folder / ".work", ignore_errors=True)
            existing += 1
        elif no_distilled_set:
            log.warning("%s: skipped, there is no distilled set", label)
        elif earlier_failure:
            log.error("%s: %s earlier (%s); --retry repeats it", label, earlier_failure.status, earlier_failure.error)
            failed += 1
            no_distilled_set = is_distillation
        elif train and not is_distillation:
            students.append(task)
        elif attempt(task, label, plan.evaluation, partial(_execute, task, plan, settings, load)):
            done += 1
        else:
            failed += 1
            no_distilled_set = is_distillation
        if is_distillation and not no_distilled_set:
            _write_contact_sheet(task.folder)
    counts = TaskCounts(done, failed, existing)
    if train and students:
        from ddbench.runner import evaluation  # torch

        evaluation.check_weights(plan.evaluation)  # UserError here, not in each process
        load(plan.specs[0].size)
        counts += train(plan, students)
    return counts


def refuse_links(runs: Path, folder: Path) -> None:
    """Raise UserError for a link in a run's folder, or between it and `runs`: what is written would go elsewhere."""
    measures = [path for name in MEASURES for path in (*folder.glob(f"{name}/*"), *folder.glob(f"{name}/*/*"))]
    above = [parent for parent in folder.parents if parent != runs and parent.is_relative_to(runs)]
    for path in (*above, folder, *folder.glob("*"), *folder.glob(".work*"), *folder.glob("results/*"), *measures):
        if path.is_symlink():
            raise UserError(f"{path} is a link to {os.readlink(path)}: a run's files are plain. Remove it or copy them")


def attempt(task: Task, label: str, evaluation: EvaluationSetup, execute: Callable[[], None]) -> bool:
    """Do a task by `execute` and return True; log and record a failure and return False.

    A disk that cannot be written is no failure of the task: its OSError is raised, and nothing is recorded.
    """
    try:
        execute()
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a method that calls sys.exit() costs its task alone
        if disk := disk_error(error):
            raise OSError(disk.errno, disk.strerror, disk.filename or str(task.folder)) from error
        lines = str(error).strip().splitlines()
        summary = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        if (kind := status(error)) == "oom":
            summary = f"{summary} ({_memory_advice(task, evaluation)})"
        write_failure(task.path, Failure(kind, summary, "".join(traceback.format_exception(error))))
        log.error("%s: %s; the traceback is in %s", label, summary, failure_path(task.path))
        log.debug("%s", traceback.format_exc())
        if process_group().size > 1 and task.student is None:  # the other processes are inside the distillation
            raise
        return False
    failure_path(task.path).unlink(missing_ok=True)
    return True


def _execute(task: Task, plan: Plan, settings: ExecutionSettings, load: Callable[[int], Dataset]) -> None:
    if task.student is not None:
        train_and_test_student(task, plan.evaluation, load(task.spec.size), settings)
        return
    from ddbench.runner import distillation, evaluation  # torch
    from ddbench.utils import distributed

    device = distributed.device(settings.device, settings.gpu_memory)
    log.info("%s", task_label(task))
    evaluation.check_weights(plan.evaluation)  # before hours of distillation
    plan.method.check_models(plan.source.readable)
    data = load(task.spec.size)
    evaluation.check_test(data)
    new_folders = _missing_parents(task.folder)
    try:
        distillation.distill(task, plan, data, device, settings)
    except UserError:
        if task.folder in new_folders:
            shutil.rmtree(task.folder, ignore_errors=True)
        _remove_empty(new_folders[1:])
        raise


def train_and_test_student(task: Task, setup: EvaluationSetup, data: Dataset, settings: ExecutionSettings) -> None:
    """Train one student on the distilled set of its run, test it, write its result. Raises UserError, ValueError."""
    from ddbench.runner import evaluation  # torch
    from ddbench.utils import distributed

    device = distributed.device(settings.device, settings.gpu_memory)
    log.info("%s", task_label(task))
    evaluation.check_weights(setup)
    evaluation.check_test(data)
    evaluation.evaluate_student(evaluation.StudentTask(task, setup, data, device, settings))


def _missing_parents(folder: Path) -> list[Path]:
    """Return `folder` and its parents that do not exist, innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _write_contact_sheet(folder: Path) -> None:
    if (folder / "contact.png").exists():
        return
    try:
        pictures = distilled_set.read(folder / "distilled")
        sheet = contact_sheet.render_png(pictures.images, pictures.labels, pictures.classes)
    except (OSError, ValueError) as error:  # the images were changed: their evaluation will fail and be recorded
        log.error("no contact sheet: %s", error)
    else:
        write_bytes(folder / "contact.png", sheet)


def task_label(task: Task) -> str:
    """Return the path of a task's run below the runs folder, and what is done."""
    return f"{'/'.join(task.folder.parts[-4:])}: {task.description}"


def _memory_advice(task: Task, evaluation: EvaluationSetup) -> str:
    """Name the settings that a task's memory depends on, and how to need less."""
    size = f"{task.spec.size} px"
    if task.student is not None:
        batch = evaluation.protocol.recipe(task.student).batch
        return f"batches of {batch} at {size}: a smaller --size, or a protocol of your own with a smaller batch"
    sets = [f"--set {name}={value}" for name, value in task.spec.params.items() if name.endswith("batch")]
    if not sets:
        return f"{size}: a smaller --size needs less"
    return f"{' '.join(sets)} at {size}: smaller needs less"


def status(error: BaseException) -> str:
    """Return the kind of a failure: "oom", "diverged" or "failed"."""
    if is_out_of_memory(error):
        return "oom"
    names = {cls.__name__ for cls in type(error).__mro__}
    return "diverged" if names & {"DivergedError", "FloatingPointError"} else "failed"
