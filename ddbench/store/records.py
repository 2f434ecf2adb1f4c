"""What is on disk below `--runs`: specs, results, failures. `ddbench.store.reader` reads them all. No torch.

<dataset><size>/<method>/ipc<n>/seed<s>-<8 hex>/
    spec.json                   what was asked for, complete
    distilled/  distill.json    see ddbench.store.distilled_set; distilled/ exists = complete
    results/<protocol>-v<k>/<student>-<init>-seed<j>.json     one student; exists = complete
    results/<protocol>-v<k>/corrupted-v1/...                  the same on corrupted test images, where asked for
    soft_labels/                what a teacher gave the images, for protocols that have one
    failed.json                 the distillation failed; `<student>...failed.json` beside the results: a student did
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddbench.store.paths import failure_path, safe
from ddbench.utils.files import digest, read_json, write_json

if TYPE_CHECKING:
    from ddbench.types import Dataset

SCHEMA = 1


@dataclass(frozen=True)
class RunSpec:
    """What a distillation is. Its identity is everything here except the preset's name, which is only recorded.

    params: every hyper-parameter, defaults included. split: the rule in words. fingerprint: SHA-256 of which image is
    on which side. size: pixels. source: SHA-256 of the file of a method given by path, empty for a registered one.
    identity: what else decides the images, as the method's `identity` says it: a base model's weights.
    """

    method: str
    method_version: int
    preset: str | None
    params: Mapping[str, Any]
    dataset: str
    split: str
    fingerprint: str
    size: int
    ipc: int
    seed: int
    source: str = ""
    identity: str = ""

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the identity."""
        return digest({key: value for key, value in asdict(self).items() if key != "preset"})

    @cached_property
    def method_digest(self) -> str:
        """SHA-256 (hex) of the method, its version, source, identity and complete parameters."""
        return digest([self.method, self.method_version, self.source, self.identity, dict(self.params)])

    def folder(self, runs: Path) -> Path:
        """Where this run lies."""
        name = safe(self.dataset)
        name += "-" if name[-1].isdecimal() else ""  # ucm-80-64: ucm@80 at 64 px
        place = runs / f"{name}{self.size}" / safe(self.method) / f"ipc{self.ipc}"
        return place / f"seed{self.seed}-{self.digest[:8]}"


@dataclass(frozen=True)
class Result:
    """One student, trained on one distilled set and tested on the real test images. Fractions, seconds, bytes.

    run: digest of the spec. content: SHA-256 of the images and labels that were judged. overall, average: accuracy over
    images, and over classes. per_class: accuracy by class. confusion: rows true, columns predicted, counts.
    commit: git commit of ddbench when it is a checkout, dirty: whether files differed from it. kappa, macro_f1,
    calibration: see evaluators.accuracy.Scores. weights: SHA-256 of the file the student started from, empty from
    scratch. teacher: the stage that gave the soft labels, empty for hard labels and for the set's own. image_bytes:
    pixels, uncompressed. label_bytes: soft labels; hard ones are free. compiled: whether torch.compile trained it.
    precision: "fp32" or "bf16", of its training. Results of older versions lack some of these.
    """

    run: str
    content: str
    student: str
    init: str
    seed: int
    protocol: str
    protocol_version: int
    protocol_hash: str
    overall: float
    average: float
    per_class: Mapping[str, float]
    confusion: list[list[int]]
    n_test: int
    seconds: float
    memory_bytes: int
    device: str
    versions: Mapping[str, str]
    commit: str | None
    dirty: bool | None
    schema: int = SCHEMA
    kappa: float | None = None
    macro_f1: float | None = None
    calibration: float | None = None
    weights: str = ""
    teacher: str = ""
    image_bytes: int | None = None
    label_bytes: int | None = None
    compiled: bool | None = None
    precision: str = ""

    @property
    def title(self) -> str:
        """Its protocol as users write it: "quick@1"."""
        return f"{self.protocol}@{self.protocol_version}"


@dataclass(frozen=True)
class Entry:
    """A result as read back, with the spec of its run."""

    spec: RunSpec
    result: Result
    path: Path

    @property
    def folder(self) -> Path:
        """The run's."""
        return self.path.parents[2]


@dataclass(frozen=True)
class Failure:
    """Why there is no result. status: "oom", "diverged" or "failed"."""

    status: str
    error: str
    trace: str


def write_spec(folder: Path, spec: RunSpec) -> None:
    """Record what the run is, unless it is recorded already."""
    if not (folder / "spec.json").exists():
        write_json(folder / "spec.json", {"schema": SCHEMA, **asdict(spec)})


def write_result(path: Path, result: Result) -> None:
    """Record a result; a failure recorded earlier is no longer true."""
    write_json(path, asdict(result))
    failure_path(path).unlink(missing_ok=True)


def write_failure(path: Path, failure: Failure) -> None:
    """Record why `path` (a result file or a run folder) is not there."""
    write_json(failure_path(path), asdict(failure))


def read_failure(path: Path) -> Failure | None:
    """The recorded failure of a result file or a run folder; None without one."""
    recorded = failure_path(path)
    try:
        return Failure(**read_json(recorded)) if recorded.exists() else None
    except (OSError, ValueError, TypeError) as error:
        return Failure("failed", f"its record cannot be read ({error})", "")


def read_spec(path: Path) -> RunSpec:
    """Read a spec.json; ValueError when it is not one, of a newer schema, or not what its folder's name says."""
    spec = _read(path, RunSpec)
    if not path.parent.name.endswith(spec.digest[:8]):
        raise ValueError(f"the spec was edited: its digest {spec.digest[:8]} is not that of the folder")
    return spec


def content_of(folder: Path) -> str:
    """Digest of the distilled set that a run has now, as recorded; ValueError without such a record."""
    path = folder / "distilled" / "manifest.json"
    try:
        return read_json(path)["content"]
    except (OSError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not say what the distilled set is ({error})") from None


def wanting(path: Path, folder: Path) -> bool:
    """Whether `path`, a student's result or its corrupted one, is missing, or of other images than the run has now.

    A file that cannot be read is not wanting: `scan` names it, and nothing overwrites it.
    """
    try:
        return not path.exists() or read_json(path)["content"] != content_of(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read_result(path: Path, whole: bool = True) -> Result:
    """Read a result file; ValueError when it is not one, of a newer schema, or holds impossible numbers.

    whole: with the accuracies of each class and the confusions.
    """
    result = _read(path, Result, None if whole else _lighten)
    for name in ("overall", "average", "seconds"):
        value = getattr(result, name)
        if not math.isfinite(value) or value < 0 or (name != "seconds" and value > 1):
            raise ValueError(f"{name} is {value}")
    for name in ("kappa", "macro_f1", "calibration"):
        if not math.isfinite(getattr(result, name) or 0.0):
            raise ValueError(f"{name} is {getattr(result, name)}")
    if any(type(version) is not str for version in result.versions.values()):
        raise ValueError("versions are not text")
    _check_classes(result)
    return result


def _check_classes(result: Result) -> None:
    """ValueError for accuracies of classes and confusions (where they were kept) that cannot be."""
    for name, value in result.per_class.items():
        if type(value) not in (int, float) or not 0 <= value <= 1:
            raise ValueError(f"per_class says {value!r} of {name}")
    rows = result.confusion
    if any(type(row) is not list or len(row) != len(rows) or any(type(n) is not int for n in row) for row in rows):
        raise ValueError("confusion is not a square of whole numbers")


_TEXTS = frozenset(field.name for field in dataclasses.fields(Result) if field.type in ("str", "str | None"))


_versions: dict[str, Mapping[str, str]] = {}  # a hundred thousand results have a few


def _lighten(value: dict[str, Any]) -> None:
    """Leave what a table needs of a result; its texts become those of other results where they are equal."""
    for name in _TEXTS & value.keys():
        if value[name] is not None:
            value[name] = sys.intern(value[name])
    versions = _versions.setdefault(repr(value["versions"]), value["versions"])
    value |= {"per_class": {}, "confusion": [], "versions": versions}


def _read(path: Path, cls: type, change: Callable[[dict[str, Any]], None] | None = None) -> Any:
    """A JSON object with exactly the fields of `cls` (those with a default may be missing), of a schema we know.

    change: what is done to it once it was checked.
    """
    value = read_json(path)
    if not isinstance(value, dict) or not isinstance(value.get("schema"), int):
        raise ValueError("is not a file of ddbench")
    if value["schema"] > SCHEMA:
        raise ValueError(f"was written by a newer ddbench (schema {value['schema']}, this one knows {SCHEMA})")
    known, needed = _schema(cls)
    if "schema" not in known:
        value.pop("schema")
    if not needed <= value.keys() <= known.keys():
        missing, extra = sorted(needed - value.keys()), sorted(value.keys() - known.keys())
        raise ValueError(f"is not a file of ddbench (missing: {missing}, unknown: {extra})")
    for name, item in value.items():
        if type(item) not in known[name][1]:
            raise ValueError(f"{name} is {item!r}, not {known[name][0]}")
    if change:
        change(value)
    return cls(**value)


@cache
def _schema(cls: type) -> tuple[dict[str, tuple[str, frozenset[type]]], frozenset[str]]:
    """Of each field its type in words and what JSON may have for it; the fields without a default."""
    fields = dataclasses.fields(cls)
    needed = frozenset(field.name for field in fields if field.default is dataclasses.MISSING)
    return {field.name: (field.type, _JSON[field.type]) for field in fields}, needed


_JSON: dict[str, frozenset[type]] = {
    "str": frozenset({str}),
    "str | None": frozenset({str, type(None)}),
    "int": frozenset({int}),
    "int | None": frozenset({int, type(None)}),
    "float": frozenset({int, float}),
    "float | None": frozenset({int, float, type(None)}),
    "bool | None": frozenset({bool, type(None)}),
    "Mapping[str, Any]": frozenset({dict}),
    "Mapping[str, str]": frozenset({dict}),
    "Mapping[str, float]": frozenset({dict}),
    "list[list[int]]": frozenset({list}),
}


def train_id(spec: RunSpec, data: Dataset) -> str:
    """What identifies the training images, part of the key of every shared stage."""
    return digest([spec.dataset, spec.fingerprint, spec.size, data.content])
