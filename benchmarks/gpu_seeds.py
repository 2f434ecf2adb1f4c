"""Part of benchmarks/gpu.py: several student seeds in one pass against one after another (seeds.py)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from gpu_rows import Bench, Row, run_cases
from seeds import measured

PART = "seeds"
SEEDS = 3


def seed_rows(bench: Bench, student: str) -> Iterator[Row]:
    """Yield the seconds of a step of all seeds of both ways."""
    size, steps, repeat = (16, 1, 1) if bench.small else (64, 30, 3)
    figures = measured(student, size, SEEDS, steps, repeat)
    for way, seconds in figures["seconds"].items():
        yield Row(
            PART, f"{student}, {SEEDS} seeds, {size} px", way, seconds / steps, SEEDS * steps / seconds, "steps",
            ratio=figures["seconds"]["apart"] / seconds, figures={"largest_difference": figures["largest_difference"]},
        )  # fmt: skip


def rows(bench: Bench) -> Iterator[Row]:
    """Yield the rows of this part."""
    students = ("convnet",) if bench.small else ("convnet", "resnet18")
    yield from run_cases(PART, bench, {name: (3.0, partial(seed_rows, bench, name)) for name in students})
