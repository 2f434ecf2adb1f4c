"""A student of a run as a job of its own, so that several train at once. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from ddbench.datasets.lookup import ImageSource
from ddbench.runner.plan import EvaluationSetup, ExecutionSettings, Task
from ddbench.runner.run import TaskCounts, attempt, task_label, train_and_test_student
from ddbench.store.failures import Failure, read_failure, write_failure


@dataclass(frozen=True)
class RunStudent:
    """One student of a run, as plain values and the dataset's source: it can be sent to another process.

    Who makes it holds the lock of the run, so its process takes none.
    """

    task: Task
    evaluation: EvaluationSetup
    source: ImageSource

    @property
    def title(self) -> str:
        """The path below the runs folder, the student and its seed."""
        return task_label(self.task)

    @property
    def done(self) -> bool:
        """True if the student's result is there."""
        return self.task.done

    @property
    def earlier_failure(self) -> Failure | None:
        """The recorded failure of a student that is missing."""
        return None if self.done else read_failure(self.task.path)

    def run(self, settings: ExecutionSettings, retry: bool = False) -> TaskCounts:
        """Train and test the student; record a failure. Raises UserError for missing data."""
        done = attempt(self.task, self.title, self.evaluation, partial(self._train, settings))
        return TaskCounts(done=1) if done else TaskCounts(failed=1)

    def record(self, failure: Failure) -> None:
        """Record a failure that `run` could not record, such as the end of its process."""
        write_failure(self.task.path, failure)

    def _train(self, settings: ExecutionSettings) -> None:
        data = self.source.load(settings.data_paths, self.task.spec.size)
        train_and_test_student(self.task, self.evaluation, data, settings)
