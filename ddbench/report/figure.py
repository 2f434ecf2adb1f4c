"""A figure of distilled sets: a row per class, a column per set, beside prototypes and real images. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ddbench.errors import UserError
from ddbench.leaderboard.labels import method_title
from ddbench.store.distilled_set import Pictures
from ddbench.store.reader import find_run_folders, read_distilled_run
from ddbench.store.records import RunSpec

Columns = list[tuple[str, list[np.ndarray]]]  # as ddbench.utils.contact_sheet.draw_columns takes them

MOST = 30  # runs in a figure


@dataclass(frozen=True)
class DistilledRun:
    """A run with its distilled set."""

    folder: Path
    spec: RunSpec
    pictures: Pictures

    @property
    def title(self) -> str:
        """Method and preset, as in tables."""
        return method_title(self.spec.method, self.spec.preset)

    @property
    def prototypes(self) -> list[tuple[int, int]]:
        """(label, row of the training split) of the real image that each distilled one starts from; none for most.

        Raises UserError for a record that cannot be read.
        """
        records = self.pictures.extras.get("prototypes", [])
        try:
            return [(int(record["label"]), int(record["row"])) for record in records]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{self.folder / 'distilled/manifest.json'}: its prototypes are damaged ({error})"
            ) from None


@dataclass(frozen=True)
class TrainingImages:
    """The real training images.

    labels: int64 (n,).
    read: rows -> images, uint8 (k, h, w, 3).
    """

    labels: np.ndarray
    read: Callable[[list[int]], np.ndarray]


def read_runs(folders: Sequence[Path]) -> list[DistilledRun]:
    """Read the spec and the distilled set of every run; a folder above runs stands for all of them, sorted by path.

    Raises UserError for a folder without a run, more than MOST runs, and a run that has no distilled set.
    """
    paths = find_run_folders(folders)
    if len(paths) > MOST:
        raise UserError(f"{len(paths)} runs are too many columns, at most {MOST}: name fewer")
    return [DistilledRun(path, *read_distilled_run(path)) for path in paths]


def check_same_data(runs: Sequence[DistilledRun]) -> None:
    """Raise UserError unless all runs have one dataset, split and size."""
    first = runs[0]
    for run in runs[1:]:
        for name in ("dataset", "size", "fingerprint"):
            one, other = getattr(first.spec, name), getattr(run.spec, name)
            if one != other:
                raise UserError(f"{first.folder} has the {name} {one}, {run.folder} {other}: draw two figures")


def columns(
    runs: Sequence[DistilledRun],
    labels: Sequence[int],
    per_class: int,
    real: TrainingImages | None,
    prototypes: TrainingImages | None,
    titles: Sequence[str] = (),
) -> Columns:
    """Return the first images of these classes: real ones, then of every run its prototypes and its own.

    Prototypes that several runs share are drawn once, before the first of them.

    labels: the classes to draw. per_class: images of a class in each column, at most.
    real, prototypes: where to read them; None to leave them out.
    titles: heads of the runs' columns; none for their methods and presets.
    """
    drawn: Columns = []
    if real:
        rows = [np.flatnonzero(real.labels == label)[:per_class].tolist() for label in labels]
        drawn.append(("real", [real.read(of_class) for of_class in rows]))
    chosen = [
        [[row for of, row in run.prototypes if of == label][:per_class] for label in labels] if prototypes else []
        for run in runs
    ]
    for number, (title, run, rows) in enumerate(zip(titles or _titles(runs), runs, chosen, strict=True)):
        if prototypes and any(rows) and rows not in chosen[:number]:
            head = "prototype (real)" if chosen.count(rows) > 1 else f"prototype of {title} (real)"
            drawn.append((head, [prototypes.read(of_class) for of_class in rows]))
        drawn.append((title, [run.pictures.images[run.pictures.labels == label][:per_class] for label in labels]))
    return drawn


def _titles(runs: Sequence[DistilledRun]) -> Iterator[str]:
    """Yield the runs' titles, with IPC, seed and digest where nothing else tells two apart."""
    texts: list[Callable[[DistilledRun], Any]] = [
        lambda run: run.title,
        lambda run: f"{run.title}, IPC {run.spec.ipc}",
        lambda run: f"{run.title}, IPC {run.spec.ipc}, seed {run.spec.seed}",
        lambda run: f"{run.title}, {run.spec.digest[:8]}",
    ]
    for run in runs:
        yield next(text(run) for text in texts if text is texts[-1] or [text(r) for r in runs].count(text(run)) == 1)
