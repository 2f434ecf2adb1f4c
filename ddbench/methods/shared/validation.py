"""Checks of hyper-parameters that many methods share."""

from __future__ import annotations

from collections.abc import Iterable
from string import Formatter
from typing import Any


def at_least(config: Any, **minima: float) -> None:
    """Raise ValueError naming every hyper-parameter that is below its minimum, or not a number."""
    low = {name: minimum for name, minimum in minima.items() if not getattr(config, name) >= minimum}
    _raise(f"{name} must be at least {minimum}, not {getattr(config, name)}" for name, minimum in low.items())


def shares(config: Any, *names: str) -> None:
    """Raise ValueError naming every hyper-parameter that is not in 0..1."""
    _raise(f"{n} must be in 0..1, not {v}" for n in names if not 0 <= (v := getattr(config, n)) <= 1)


def check_sampled(config: Any) -> None:
    """Raise ValueError for hyper-parameters that no method that samples a latent diffusion model accepts."""
    at_least(config, rank=1, tune_steps=1, tune_batch=1, steps=1, batch=1, tune_warmup=0, guidance=0)
    shares(config, "strength", "tune_empty")
    try:
        placeholders = [name for _, name, _, _ in Formatter().parse(config.prompt) if name is not None]
    except ValueError:  # not a template
        placeholders = []
    problems = {
        "tune_ema must be in 0..1, 1 excluded": not 0 <= config.tune_ema < 1,
        "tune_rate must be above 0": not config.tune_rate > 0,
        "prompt must hold {} once, for the class name": placeholders != [""],
    }
    _raise(problem for problem, occurs in problems.items() if occurs)


def _raise(problems: Iterable[str]) -> None:
    if text := "; ".join(problems):
        raise ValueError(text)
