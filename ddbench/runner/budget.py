"""Accuracy over the training time of students: a protocol with fewer or more steps, its schedule cut to each budget.

A student of a budget is trained anew, so its learning rate falls to the protocol's end value within the budget. No
torch at import.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from ddbench.errors import UserError
from ddbench.runner.plan import Task
from ddbench.runner.student_job import MeasuredRun, StudentJob, Students
from ddbench.store import distilled_set
from ddbench.store.measured import MeasuredResult, Variation
from ddbench.store.paths import protocol_folder, result_name, result_path
from ddbench.store.records import Result, missing_or_outdated, read_result
from evaluators.recipes import Protocol

if TYPE_CHECKING:
    from ddbench.runner.evaluation import StudentTask

SHARES = (0.125, 0.25, 0.5, 1.0)  # of a protocol's steps
MOST_STEPS = 10_000_000


@dataclass(frozen=True)
class Budgets:
    """The budgets of a request.

    shares: of the protocol's steps, above 0.
    steps: numbers of steps, 1 or more, in place of shares; empty for shares.
    """

    shares: tuple[float, ...] = SHARES
    steps: tuple[int, ...] = ()

    def of(self, full: int) -> dict[int, float]:
        """Return the numbers of steps, ascending, each with what the table's column is named after.

        full: steps of the protocol. Of two shares with the same number of steps the first stays.
        """
        if self.steps:
            return {steps: float(steps) for steps in sorted(set(self.steps))}
        budgets: dict[int, float] = {}
        for share in sorted(set(self.shares)):
            budgets.setdefault(max(1, round(share * full)), share)
        return budgets


@dataclass(frozen=True)
class BudgetJob(StudentJob):
    """One student, trained for a number of steps.

    steps: of its training. full: of the protocol for this set.
    share: of `full`, as it was asked for; 0 for a number of steps.
    """

    measure: ClassVar[str] = "budget"
    steps: int
    full: int
    share: float

    @property
    def description(self) -> str:
        """The number of steps."""
        return f"{self.steps} of {self.full} steps"

    @property
    def x(self) -> float:
        """The share, or the number of steps."""
        return float(self.share or self.steps)

    def measured(self, student_task: StudentTask) -> MeasuredResult:
        """Train for the budget, test on the real test images; a run's own result of as many steps is taken over."""
        from ddbench.runner.evaluation import train_and_test
        from evaluators.train import precision

        pictures = distilled_set.read(self.task.folder / "distilled")
        evaluation, student = student_task.evaluation, student_task.student
        row = with_steps(evaluation.protocol, student, self.steps, len(pictures.labels), len(pictures.classes))
        kind = precision(row.recipe(student), student_task.device), student_task.settings.compiled
        result = self._existing_result(evaluation.protocol, row.identity(student), *kind)
        if result is None:
            evaluation = replace(evaluation, protocol=row)
            _, result = train_and_test(replace(student_task, evaluation=evaluation), pictures)
        place = {"steps": self.steps, "full_steps": self.full}
        return MeasuredResult(result, Variation(self.measure, place), self.task.path)

    def _existing_result(self, protocol: Protocol, identity: str, precision: str, compiled: bool) -> Result | None:
        """Return the run's result of the same student, if it was trained in the same way."""
        path = result_path(self.task.folder, protocol, str(self.task.student), self.task.seed)
        if missing_or_outdated(path, self.task.folder):
            return None
        try:
            result = read_result(path)
        except (OSError, ValueError):
            return None
        own = (result.protocol_hash, result.precision, result.compiled)
        return result if own == (identity, precision, compiled) else None


def with_steps(protocol: Protocol, student: str, steps: int, images: int, classes: int) -> Protocol:
    """Return the protocol with `steps` steps for the student on a set of `images`, and no tests in between."""
    recipe = replace(protocol.recipe(student).with_steps(steps, images, classes), tests=0)
    return replace(protocol, recipes={**protocol.recipes, student: recipe})


def budget_jobs(runs: Sequence[MeasuredRun], budgets: Budgets, students: Students) -> list[BudgetJob]:
    """Return a job for each budget, student and seed of every run. Raises UserError for impossible budgets."""
    if not (budgets.steps or budgets.shares):
        raise UserError("a budget is a share of the protocol's steps, or a number of steps: name at least one")
    if wrong := [share for share in budgets.shares if not 0 < share <= 100]:  # NaN too
        raise UserError(f"fractions = {wrong} are not above 0 and at most 100")
    setup = students.setup
    jobs: dict[str, BudgetJob] = {}
    for run in runs:
        setup.check_size(run.spec.size)
        images, classes = sum(run.counts), len(run.counts)
        for student in setup.students:
            full = setup.protocol.recipe(student).steps(images, classes)
            for wanted, x in budgets.of(full).items():
                if not 1 <= wanted <= MOST_STEPS:
                    raise UserError(f"{wanted} steps are not 1 to {MOST_STEPS}: choose other budgets")
                row = with_steps(setup.protocol, student, wanted, images, classes)
                steps = row.recipe(student).steps(images, classes)  # of whole epochs, the nearest number
                folder = run.folder / "budget" / protocol_folder(setup.protocol) / f"steps{steps}"
                for seed in range(setup.seeds):
                    task = Task(run.spec, run.folder, student, seed, folder / result_name(student, row.init, seed))
                    share = 0.0 if budgets.steps else x
                    job = BudgetJob(task, run.source, students.protocol, steps, full, share)
                    jobs.setdefault(str(task.path), job)
    return list(jobs.values())
