"""The contract of a method, as a test that anyone can run: `check_method(cls)`, or `ddbench check NAME`."""

from __future__ import annotations

import dataclasses
import random
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

from ddbench import config
from ddbench.context import Context
from ddbench.datasets.scenes import painter
from ddbench.errors import UserError
from ddbench.types import DistilledSet, ImageSet, check_distilled_set, checksum
from ddbench.utils.files import canonical
from ddbench.utils.images import to_tensor

CLASSES = 3
PER_CLASS = 8
SIZE = 32


@dataclass(frozen=True)
class Outcome:
    """One promise of the contract. detail: what is wrong, or worth knowing."""

    name: str
    ok: bool
    detail: str = ""


def check_method(cls: type) -> list[Outcome]:
    """Try a method on a few images (8 of each of 3 classes of `scenes`, 32 px, on the CPU); one Outcome per promise.

    A method that needs other images or is slow by default may say so: `check_size: ClassVar[int]` is the side of the
    images in pixels, `check_params: ClassVar[dict]` are fields to set for the check. Raises UserError when the method
    lacks something that the user must provide.
    """
    with TemporaryDirectory() as place:
        bench = _Bench(cls, Path(place))
        return [_outcome(name, check, bench) for name, check in _CHECKS.items()]


class _Bench:
    """A method on trial. Distillations are made once per (ipc, seed, attempt), failures included."""

    def __init__(self, cls: type, place: Path) -> None:
        self.cls = cls
        self.place = place
        self.leaks: set[str] = set()
        self._made: dict[tuple[int, int, int], DistilledSet | Exception] = {}

    @cached_property
    def train(self) -> ImageSet:
        return sample(getattr(self.cls, "check_size", SIZE))

    @cached_property
    def untouched(self) -> int:
        """Checksum of the training images before anything was done."""
        return checksum(self.train)

    def distill(self, ipc: int, seed: int = 0, attempt: int = 0) -> DistilledSet:
        """The method's result; attempts share no folder, so that nothing is reused between them."""
        key = (ipc, seed, attempt)
        if key not in self._made:
            self._made[key] = self._try(*key)
        result = self._made[key]
        if isinstance(result, Exception):
            raise result
        return result

    def _try(self, ipc: int, seed: int, attempt: int) -> DistilledSet | Exception:
        work, shared = self.place / f"work-{ipc}-{seed}-{attempt}", self.place / f"shared-{attempt}"
        work.mkdir(exist_ok=True)
        ctx = Context(seed, torch.device("cpu"), work, shared, train_id=f"check-{self.untouched}", quiet=True)
        method = self.cls(**getattr(self.cls, "check_params", {}))
        before = _global_states()
        try:
            made = method.distill(self.train, ipc, ctx)
        except Exception as error:  # a stranger's code: whatever it raises is the finding
            return error
        self.leaks |= {name for name, state in _global_states().items() if state != before[name]}
        return made


def sample(size: int) -> ImageSet:
    """The images of the check: PER_CLASS of each of the first CLASSES classes of `scenes`."""
    images = [painter.scene(label, index, size) for label in range(CLASSES) for index in range(PER_CLASS)]
    labels = torch.arange(CLASSES).repeat_interleave(PER_CLASS)
    return ImageSet(to_tensor(np.stack(images)), labels, painter.CLASSES[:CLASSES], painter.READABLE[:CLASSES])


def _outcome(name: str, check: Callable[[_Bench], str | None], bench: _Bench) -> Outcome:
    try:
        return Outcome(name, True, check(bench) or "")
    except UserError:  # a base model that is not there says nothing about the contract
        raise
    except Exception as error:
        where = "" if isinstance(error, _BrokenError | ValueError) else f" ({_place(error)})"
        kind = "" if isinstance(error, _BrokenError) else f"{type(error).__name__}: "
        return Outcome(name, False, f"{kind}{error}{where}")


def _place(error: Exception) -> str:
    """File and line of where it was raised."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(last.filename).name}, line {last.lineno}"


class _BrokenError(Exception):
    """A promise that is not kept."""


def _require(kept: Any, detail: str) -> None:
    if not kept:
        raise _BrokenError(detail)


def _is_frozen(bench: _Bench) -> None:
    params = getattr(bench.cls, "__dataclass_params__", None)
    _require(params and params.frozen, f"decorate {bench.cls.__name__} with @dataclass(frozen=True)")


def _has_name(bench: _Bench) -> str:
    name, version = getattr(bench.cls, "name", None), getattr(bench.cls, "version", None)
    _require(isinstance(name, str) and name, "add name: ClassVar[str]")
    _require(type(version) is int and version >= 1, "add version: ClassVar[int], at least 1")
    return f"{name}, version {version}"


def _has_defaults(bench: _Bench) -> None:
    canonical(config.params(bench.cls()))  # also: the parameters can be written to spec.json
    known = {field.name for field in dataclasses.fields(bench.cls)}
    off = set(getattr(bench.cls, "check_params", {})) - known
    _require(not off, f"check_params names what is no field: {', '.join(sorted(off))}")


def _keeps_budget(ipc: int) -> Callable[[_Bench], str]:
    def check(bench: _Bench) -> str:
        whole = getattr(bench.cls, "whole", False)
        check_distilled_set(bench.distill(ipc), bench.train, 0 if whole else ipc)
        return "it takes every image: no budget" if whole else ""

    return check


def _repeats(bench: _Bench) -> None:
    first, second = bench.distill(2), bench.distill(2, attempt=1)
    for name in ("images", "labels", "soft_labels"):
        same = _equal(getattr(first, name), getattr(second, name))
        _require(same, f"{name} differ between two runs with seed 0; draw from ctx.generator(...)")


def _shares_no_seed(bench: _Bench) -> None:
    """Seed 1 where seed 0 has left its stages, and by itself."""
    bench.distill(2)
    same = _equal(bench.distill(2, seed=1).images, bench.distill(2, seed=1, attempt=2).images)
    why = "a stage draws from the run's seed; draw there from a fixed one, or put seed=ctx.seed into ctx.stage's key"
    _require(same, f"with seed 1 the images depend on whether seed 0 ran before: {why}")


def _other_seed(bench: _Bench) -> str:
    same = _equal(bench.distill(2).images, bench.distill(2, seed=1).images)
    return "it gives the same images: the method is deterministic" if same else "it gives other images"


def _keeps_training(bench: _Bench) -> None:
    before = bench.untouched
    for ipc in (1, 2):
        bench.distill(ipc)
    _require(checksum(bench.train) == before, "the method wrote to the training tensors; work on a copy")


def _keeps_global_state(bench: _Bench) -> None:
    for ipc in (1, 2):
        bench.distill(ipc)
    _require(not bench.leaks, f"{', '.join(sorted(bench.leaks))} moved; draw from ctx.generator(...), "
             "or make layers under ddbench.context.global_seed(...)")  # fmt: skip


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other if one is None or other is None else torch.equal(one, other)


def _global_states() -> dict[str, Any]:
    """The state of every global generator, as values that can be compared."""
    return {
        "torch's global generator": torch.get_rng_state().numpy().tobytes(),
        "numpy's global generator": repr(np.random.get_state(legacy=False)["state"]["pos"])
        + np.random.get_state(legacy=False)["state"]["key"].tobytes().hex(),
        "random's global generator": random.getstate(),
    }


_CHECKS: dict[str, Callable[[_Bench], str | None]] = {
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
