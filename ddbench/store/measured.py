"""Students of a measure as files: a result with what the measure varies (`ddbench redundancy`, `budget`, `continual`).

They are beside a run's results, never among them, so no table of methods reads them. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from ddbench.store.paths import failure_path
from ddbench.store.records import Result, RunSpec, StoredResult, parse_result
from ddbench.store.schema import Count, Finite, NonNegative, Share
from ddbench.utils.files import read_json, write_json


@dataclass(frozen=True)
class Variation:
    """The setting of a student in a measure, and the figures that its result has beside those of a run.

    measure: name of the measure
    place: numbers that tell the measure's students of one set apart, by name: {"part_size": 10, "part": 3}
    accuracies: on each of several test sets, fractions; empty for one test set, that of the result
    classes: names of the classes that the student knows, where they are not all of the dataset
    confidences: of each audited image, as `evaluators.lira.log_odds`, mean over the image and its mirror image
    members, used: rows of the audited images in the training images, and of those that the set names as used
    """

    measure: str
    place: Mapping[str, NonNegative]
    accuracies: tuple[Share, ...] = ()
    classes: tuple[str, ...] = ()
    confidences: tuple[Finite, ...] = ()
    members: tuple[Count, ...] = ()
    used: tuple[Count, ...] = ()


@dataclass(frozen=True)
class MeasuredResult:
    """One student of a measure.

    result: its accuracy; `content` is the digest of the distilled sets that the measure took, `run` that of their spec
    """

    result: Result
    variation: Variation
    path: Path = field(compare=False)


@dataclass(frozen=True)
class MeasuredStudent:
    """A student of a measure in a table of it.

    x: value of what the measure varies
    spec: spec of its run
    """

    x: float
    spec: RunSpec
    measured: MeasuredResult

    @property
    def stored(self) -> StoredResult:
        """The same as a result in a table."""
        return StoredResult(self.spec, self.measured.result, self.measured.path)


def write_measured(measured: MeasuredResult) -> None:
    """Write the record of a student, after the removal of an earlier failure's."""
    failure_path(measured.path).unlink(missing_ok=True)
    write_json(measured.path, asdict(measured.result) | asdict(measured.variation))


def read_measured(path: Path) -> MeasuredResult:
    """Read the record of a student. Raises ValueError for another file, a newer schema and impossible numbers."""
    value: Any = read_json(path)
    if not isinstance(value, dict) or not value.keys() >= {"measure", "place"}:
        raise ValueError(f"{path} is no record of a measure's student")
    try:
        own = {name: value.pop(name) for name in Variation.__dataclass_fields__ if name in value}
        return MeasuredResult(parse_result(value), msgspec.convert(own, Variation), path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
