"""Checks of hyper-parameters and images per class that many methods share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ddbench.types import ImageSet


def at_least(config: Any, **minima: float) -> None:
    """Raise ValueError naming every hyper-parameter that is below its minimum, or not a number."""
    low = {name: minimum for name, minimum in minima.items() if not getattr(config, name) >= minimum}
    _raise(f"{name} must be at least {minimum}, not {getattr(config, name)}" for name, minimum in low.items())


def shares(config: Any, *names: str) -> None:
    """Raise ValueError naming every hyper-parameter that is not in 0..1."""
    _raise(f"{n} must be in 0..1, not {v}" for n in names if not 0 <= (v := getattr(config, n)) <= 1)


def rising(config: Any, low: str, high: str) -> None:
    """Raise ValueError unless two hyper-parameters are in 0..1, the first below the second."""
    shares(config, low, high)
    lower, upper = getattr(config, low), getattr(config, high)
    _raise([f"{low}={lower} must be below {high}={upper}"] if lower >= upper else [])


def check_enough(train: ImageSet, ipc: int, parts: str) -> None:
    """Raise ValueError naming the classes with fewer than `ipc` images; parts: "prototypes" or "clusters"."""
    if few := train.fewer_than(ipc):
        problem = f"{ipc} {parts} per class need {ipc} images per class, but: {', '.join(few)}"
        raise ValueError(f"{problem}; --ipc {min(train.counts())}")


def _raise(problems: Iterable[str]) -> None:
    if text := "; ".join(problems):
        raise ValueError(text)
