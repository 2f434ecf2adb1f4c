"""The contract of a method, as a test that anyone can run: `check_method(cls)`, or `ddbench check NAME`."""

from __future__ import annotations

import dataclasses
import random
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddbench.config import params
from ddbench.context import Context
from ddbench.datasets.scenes import painter
from ddbench.errors import UserError
from ddbench.registry import with_defaults
from ddbench.types import DistilledSet, ImageSet, check_distilled_set, checksum
from ddbench.utils.files import canonical
from ddbench.utils.images import to_tensor

CLASSES = 3
PER_CLASS = 8
AFTER_IMPORTS = 3  # an attempt of its own


@dataclass(frozen=True)
class Outcome:
    """One promise of the contract. detail: what is wrong, or worth knowing."""

    name: str
    ok: bool
    detail: str = ""


def check_method(cls: type) -> list[Outcome]:
    """Test a method on a few images (8 of each of 3 classes of `scenes`, 32 px, CPU); return one Outcome per promise.

    A method that needs larger images or is slow by default has `check_size: ClassVar[int]`, the side of the images in
    pixels, and `check_params: ClassVar[dict]`, fields to set for the check. Raises UserError when the user must provide
    something that the method needs.
    """
    outcomes = []
    with TemporaryDirectory() as folder:
        trial = _MethodTrial(with_defaults(cls), Path(folder))
        for name, check in _CHECKS.items():
            try:
                outcomes.append(Outcome(name, True, check(trial) or ""))
            except UserError:  # a missing base model breaks no promise
                raise
            except _BrokenError as error:
                outcomes.append(Outcome(name, False, str(error)))
            except Exception as error:
                last = traceback.extract_tb(error.__traceback__)[-1]
                line = "" if isinstance(error, ValueError) else f" ({Path(last.filename).name}, line {last.lineno})"
                outcomes.append(Outcome(name, False, f"{type(error).__name__}: {error}{line}"))
    return outcomes


class _MethodTrial:
    """A method under test. It distils once per (ipc, seed, attempt) and remembers errors too."""

    def __init__(self, cls: Any, folder: Path) -> None:  # any class: that it is a method is what is tested
        self.cls = cls
        self.folder = folder
        self.moved_generators: set[str] = set()
        self.imported = False  # a distillation imported modules
        self._results: dict[tuple[int, int, int], DistilledSet | Exception] = {}

    @cached_property
    def train(self) -> ImageSet:
        return sample(self.cls.check_size)

    @cached_property
    def checksum_before(self) -> int:
        """Checksum of the training images before the first distillation."""
        return checksum(self.train)

    def distill(self, ipc: int, seed: int = 0, attempt: int = 0) -> DistilledSet:
        """Return the method's result or raise its error. Attempts share no folder, so they reuse nothing."""
        key = (ipc, seed, attempt)
        if key not in self._results:
            workdir, shared = self.folder / f"work-{ipc}-{seed}-{attempt}", self.folder / f"shared-{attempt}"
            workdir.mkdir(exist_ok=True)
            train_id = f"check-{self.checksum_before}"
            ctx = Context(seed, torch.device("cpu"), workdir, shared, train_id=train_id, quiet=True)
            method = self.cls(**self.cls.check_params)
            before, modules = _global_states(), set(sys.modules)
            try:
                self._results[key] = method.distill(self.train, ipc, ctx)
                if modules == set(sys.modules):
                    self.moved_generators |= {name for name, state in _global_states().items() if state != before[name]}
                else:
                    self.imported = True
            except Exception as error:  # a plugin may raise anything
                self._results[key] = error
        result = self._results[key]
        if isinstance(result, Exception):
            raise result
        return result


def sample(size: int) -> ImageSet:
    """Return the images of the check: PER_CLASS of each of the first CLASSES classes of `scenes`."""
    images = [painter.scene(label, index, size) for label in range(CLASSES) for index in range(PER_CLASS)]
    labels = torch.arange(CLASSES).repeat_interleave(PER_CLASS)
    return ImageSet(to_tensor(np.stack(images)), labels, painter.CLASSES[:CLASSES], painter.READABLE[:CLASSES])


class _BrokenError(Exception):
    """A broken promise."""


def _require(ok: Any, detail: str) -> None:
    if not ok:
        raise _BrokenError(detail)


def _is_frozen(trial: _MethodTrial) -> None:
    params = getattr(trial.cls, "__dataclass_params__", None)
    _require(params and params.frozen, f"decorate {trial.cls.__name__} with @dataclass(frozen=True)")


def _has_name(trial: _MethodTrial) -> str:
    name, version = getattr(trial.cls, "name", None), getattr(trial.cls, "version", None)
    _require(isinstance(name, str) and name, "add name: ClassVar[str]")
    _require(type(version) is int and version >= 1, "add version: ClassVar[int], at least 1")
    return f"{name}, version {version}"


def _has_defaults(trial: _MethodTrial) -> None:
    canonical(params(trial.cls()))  # also: the parameters can be written to spec.json
    fields = {field.name for field in dataclasses.fields(trial.cls)}
    others = set(trial.cls.check_params) - fields
    _require(not others, f"check_params has keys that are no fields: {', '.join(sorted(others))}")


def _keeps_budget(ipc: int) -> Callable[[_MethodTrial], str]:
    def check(trial: _MethodTrial) -> str:
        whole = trial.cls.whole
        check_distilled_set(trial.distill(ipc), trial.train, 0 if whole else ipc)
        return "it takes every image: no budget" if whole else ""

    return check


def _repeats(trial: _MethodTrial) -> None:
    first, second = trial.distill(2), trial.distill(2, attempt=1)
    for name in ("images", "labels", "soft_labels"):
        same = _equal(getattr(first, name), getattr(second, name))
        _require(same, f"{name} differ between two runs with seed 0; draw from ctx.generator(...)")


def _shares_no_seed(trial: _MethodTrial) -> None:
    """Compare seed 1 after seed 0, which left its stages, with seed 1 alone."""
    trial.distill(2)
    same = _equal(trial.distill(2, seed=1).images, trial.distill(2, seed=1, attempt=2).images)
    why = "a stage draws from the run's seed; draw there from a fixed one, or put seed=ctx.seed into ctx.stage's key"
    _require(same, f"with seed 1 the images depend on whether seed 0 ran before: {why}")


def _other_seed(trial: _MethodTrial) -> str:
    same = _equal(trial.distill(2).images, trial.distill(2, seed=1).images)
    return "it gives the same images: the method is deterministic" if same else "it gives other images"


def _keeps_training(trial: _MethodTrial) -> None:
    before = trial.checksum_before
    for ipc in (1, 2):
        trial.distill(ipc)
    _require(checksum(trial.train) == before, "the method wrote to the training tensors; work on a copy")


def _keeps_global_state(trial: _MethodTrial) -> None:
    for ipc in (1, 2):
        trial.distill(ipc)
        if trial.imported:  # modules that draw when they are imported (scikit-learn's) are not the method's doing
            trial.distill(ipc, attempt=AFTER_IMPORTS)
    moved = ", ".join(sorted(trial.moved_generators))
    advice = "draw from ctx.generator(...), or make layers under ddbench.context.global_seed(...)"
    _require(not moved, f"{moved} moved; {advice}")


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other if one is None or other is None else torch.equal(one, other)


def _global_states() -> dict[str, Any]:
    """Return the state of every global generator, as values that can be compared."""
    return {
        "torch's global generator": torch.get_rng_state().numpy().tobytes(),
        "numpy's global generator": repr(np.random.get_state(legacy=False)["state"]["pos"])
        + np.random.get_state(legacy=False)["state"]["key"].tobytes().hex(),
        "random's global generator": random.getstate(),
    }


_CHECKS: dict[str, Callable[[_MethodTrial], str | None]] = {
    "is a frozen dataclass": _is_frozen,
    "has a name and a version": _has_name,
    "can be made from its defaults": _has_defaults,
    "keeps classes, size and the budget of 1 image per class": _keeps_budget(1),
    "keeps classes, size and the budget of 2 images per class": _keeps_budget(2),
    "gives the same images for the same seed": _repeats,
    "accepts another seed": _other_seed,
    "gives the same images whatever ran before": _shares_no_seed,
    "leaves the training images as they are": _keeps_training,
    "leaves the global random state as it is": _keeps_global_state,
}
