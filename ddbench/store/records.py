"""Files below `--runs`: specs and results. `failures` has the records of failures, `reader` reads all. No torch.

<dataset><size>/<method>/ipc<n>/seed<s>-<8 hex>/
    spec.json                   the request, complete
    distilled/  distill.json    see ddbench.store.distilled_set; distilled/ exists = complete
    results/<protocol>-v<k>/<student>-<init>-seed<j>.json     one student; exists = complete
    results/<protocol>-v<k>/corrupted-v1/...                  the same student on corrupted test images
    soft_labels/                a teacher's labels of the images, for protocols that use them
    failed.json                 the distillation failed; `<student>...failed.json` beside results: a student failed
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddbench.store.paths import failure_path, safe
from ddbench.store.schema import SCHEMA, Count, Finite, NonNegative, Share, decode
from ddbench.utils.files import digest, read_json, write_json

if TYPE_CHECKING:
    from ddbench.types import Dataset


@dataclass(frozen=True)
class RunSpec:
    """Identity of a distillation. Every field but `preset` is part of it.

    method: registered name, or name of the class in a file
    method_version: version of the method
    preset: name of the preset that set the parameters; recorded only
    params: every hyper-parameter, defaults included
    dataset: name of the dataset
    split: rule of the split, in words
    fingerprint: SHA-256 (hex) of the image names on each side of the split
    size: side of the images, pixels
    ipc: images per class; 0 for all training images
    seed: seed of the distillation
    source: SHA-256 (hex) of the method's file; empty for a registered method
    identity: digest of whatever else decides the images, such as the weights of a base model
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
        """SHA-256 (hex) of the method: its name, version, source, identity and complete parameters."""
        return digest([self.method, self.method_version, self.source, self.identity, dict(self.params)])

    def folder(self, runs: Path) -> Path:
        """Return the folder of this run below `runs`."""
        name = safe(self.dataset)
        name += "-" if name[-1].isdecimal() else ""  # ucm-80-64: ucm@80 at 64 px
        parent = runs / f"{name}{self.size}" / safe(self.method) / f"ipc{self.ipc}"
        return parent / f"seed{self.seed}-{self.digest[:8]}"


@dataclass(frozen=True)
class Result:
    """Accuracy of one student, trained on a distilled set and tested on real test images.

    Results of older versions lack some of the fields that have a default.

    run: digest of the spec
    content: SHA-256 (hex) of the images and labels that the student was trained on
    student, init, seed: name of the student, initialisation of its weights, seed of its training
    protocol, protocol_version: name and version of the protocol
    protocol_hash: SHA-256 (hex) of the protocol's content
    overall: accuracy over test images, fraction
    average: accuracy averaged over classes, fraction
    per_class: accuracy by class, fractions
    confusion: counts, rows true classes, columns predicted classes
    n_test: number of test images
    seconds: training and test
    memory_bytes: peak memory
    device: name of the device
    versions: name of a package -> its version
    commit: git commit of ddbench; None outside a checkout
    dirty: whether files differed from that commit
    schema: version of this file's format
    kappa, macro_f1, calibration: see evaluators.accuracy.Scores
    weights: SHA-256 (hex) of the file of initial weights; empty for training from scratch
    teacher: folder of the stage that gave soft labels; empty for hard labels and for labels of the set itself
    image_bytes: size of the uncompressed pixels that the student was trained on, and of the set's whitening if used
    label_bytes: size of soft labels; 0 for hard labels
    compiled: whether torch.compile was used
    precision: of the training, "fp32" or "bf16"
    best_on_test: highest accuracy over test images during training, for protocols that test then; in no table, as it
        is chosen on test images; None for others, and not in the file
    """

    run: str
    content: str
    student: str
    init: str
    seed: int
    protocol: str
    protocol_version: int
    protocol_hash: str
    overall: Share
    average: Share
    per_class: Mapping[str, Share]
    confusion: list[list[int]]
    n_test: Count
    seconds: NonNegative
    memory_bytes: Count
    device: str
    versions: Mapping[str, str]
    commit: str | None
    dirty: bool | None
    schema: int = SCHEMA
    kappa: Finite | None = None
    macro_f1: Finite | None = None
    calibration: Finite | None = None
    weights: str = ""
    teacher: str = ""
    image_bytes: Count | None = None
    label_bytes: Count | None = None
    compiled: bool | None = None
    precision: str = ""
    best_on_test: Share | None = None

    @property
    def title(self) -> str:
        """Name and version of the protocol as users write them: "quick@1"."""
        return f"{self.protocol}@{self.protocol_version}"


@dataclass(frozen=True)
class StoredResult:
    """A result as read back.

    spec: spec of its run
    result: the result
    path: file of the result
    """

    spec: RunSpec
    result: Result
    path: Path

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return self.path.parents[2]

    @property
    def relative_path(self) -> Path:
        """Path below the runs folder: dataset, method, IPC, seed, "results", protocol, student."""
        return Path(*self.path.parts[-7:])


def write_spec(folder: Path, spec: RunSpec) -> None:
    """Write spec.json unless the run has one."""
    if not (folder / "spec.json").exists():
        write_json(folder / "spec.json", {"schema": SCHEMA, **asdict(spec)})


def write_result(path: Path, result: Result) -> None:
    """Remove the record of an earlier failure, then write the result: after a kill there is at most one of them."""
    value = asdict(result)
    if result.best_on_test is None:
        del value["best_on_test"]
    failure_path(path).unlink(missing_ok=True)
    write_json(path, value)


def read_spec(path: Path) -> RunSpec:
    """Read a spec.json; see `parse_spec`."""
    return parse_spec(read_json(path), path.parent.name)


def parse_spec(value: Any, folder: str) -> RunSpec:
    """Return the spec that a JSON object describes.

    folder: name of the run's folder
    Raises ValueError when the object is no spec, has a newer schema, or does not match the folder.
    """
    spec = decode(value, RunSpec)
    try:
        spec.digest  # noqa: B018 (cached)
    except RecursionError:
        raise ValueError("its parameters are nested too deeply") from None
    if not folder.endswith(spec.digest[:8]):
        raise ValueError(f"the spec was edited: its digest {spec.digest[:8]} is not that of the folder")
    return spec


def read_result(path: Path, details: bool = True) -> Result:
    """Read a result file; see `parse_result`."""
    return parse_result(read_json(path), details)


def parse_result(value: Any, details: bool = True) -> Result:
    """Return the result that a JSON object describes.

    details: keep the accuracies of classes and the confusion, which are most of a result and which no table needs
    Raises ValueError when the object is no result, has a newer schema, or holds impossible numbers.
    """
    result = decode(value, Result)
    if {*map(len, result.confusion)} - {len(result.confusion)}:
        raise ValueError("confusion is not square")
    if not details:
        _drop_details(result)
    return result


_TEXTS = tuple(field.name for field in dataclasses.fields(Result) if field.type in ("str", "str | None"))
_versions: dict[tuple[tuple[str, str], ...], Mapping[str, str]] = {}  # a hundred thousand results have a few


def _drop_details(result: Result) -> None:
    """Remove the accuracies of classes and the confusion; share equal texts and versions between results."""
    value = vars(result)
    for name in _TEXTS:
        if text := value.get(name):  # a field at its default may be missing here
            value[name] = sys.intern(text)
    versions = _versions.setdefault(tuple(result.versions.items()), result.versions)
    value |= {"per_class": {}, "confusion": [], "versions": versions}


def distilled_digest(folder: Path) -> str:
    """Return the recorded digest of a run's present distilled set; ValueError without such a record."""
    path = folder / "distilled" / "manifest.json"
    try:
        content: str = read_json(path)["content"]
    except (OSError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not identify the distilled set ({error})") from None
    return content


def missing_or_outdated(path: Path, folder: Path) -> bool:
    """Return whether the result `path` is missing, or belongs to images that the run `folder` no longer has.

    False for a file that cannot be read: the reader names it, and it is not overwritten.
    """
    try:
        return not path.exists() or read_json(path)["content"] != distilled_digest(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def train_id(spec: RunSpec, data: Dataset) -> str:
    """Return the digest of the training images, part of the key of every shared stage."""
    return digest([spec.dataset, spec.fingerprint, spec.size, data.content])
