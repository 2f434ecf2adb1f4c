"""Checks of settings that many methods share."""

from __future__ import annotations

from string import Formatter
from typing import Any


def at_least(settings: Any, **least: float) -> None:
    """Raise ValueError naming every setting that is below its least value, or no number."""
    off = {name: low for name, low in least.items() if not getattr(settings, name) >= low}
    _raise(f"{name} must be at least {low}, not {getattr(settings, name)}" for name, low in off.items())


def shares(settings: Any, *names: str) -> None:
    """Raise ValueError naming every setting that is not in 0..1."""
    _raise(f"{n} must be in 0..1, not {v}" for n in names if not 0 <= (v := getattr(settings, n)) <= 1)


def check_sampled(settings: Any) -> None:
    """Raise ValueError for what no method that samples a latent diffusion model can do."""
    at_least(settings, rank=1, tune_steps=1, tune_batch=1, steps=1, batch=1, tune_warmup=0, guidance=0)
    shares(settings, "strength", "tune_empty")
    off = ["tune_ema must be in 0..1, 1 excluded"] if not 0 <= settings.tune_ema < 1 else []
    off += ["tune_rate must be above 0"] if not settings.tune_rate > 0 else []
    off += ["prompt must hold {} once, for the class name"] if _fields(settings.prompt) != [""] else []
    _raise(off)


def _raise(off: Any) -> None:
    if text := "; ".join(off):
        raise ValueError(text)


def _fields(template: str) -> list[str | None]:
    """The names of a template's placeholders; [None] when it is none."""
    try:
        return [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError:
        return [None]
