"""Rows of benchmarks/gpu.py: how its parts measure and report. Importing it needs no torch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

GIB = 2**30


@dataclass(frozen=True)
class Row:
    """One figure.

    part, case, way: what was measured; a case compares several ways.
    seconds: median seconds of one unit of work, such as a step.
    rate, unit: units per second, such as 1180 "images"; "TFLOP" for a rate of arithmetic.
    ratio: times as fast as the reference of the same case.
    goal: the least ratio that the project wants.
    peak_bytes: of the GPU in use, on a CPU of the process.
    note: why there is no figure, or words about it.
    figures: whatever else was measured, as JSON values; no name of a field here.
    """

    part: str
    case: str
    way: str = ""
    seconds: float | None = None
    rate: float | None = None
    unit: str = ""
    ratio: float | None = None
    goal: float | None = None
    peak_bytes: int | None = None
    note: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Return the fields that have a value, as JSON values."""
        values = asdict(self)
        figures = values.pop("figures")
        return {name: value for name, value in values.items() if value not in (None, "")} | figures

    def cells(self) -> tuple[str, ...]:
        """Return the row as texts, in the order of HEADS."""
        outcome = "" if self.goal is None or self.ratio is None else "met" if self.ratio >= self.goal else "missed"
        return (
            self.part,
            self.case,
            self.way,
            "" if self.seconds is None else f"{self.seconds:.4g}",
            "" if self.rate is None else f"{self.rate:.4g} {self.unit}",
            "" if self.ratio is None else f"{self.ratio:.2f}",
            "" if self.goal is None else f"{self.goal:g} {outcome}".strip(),
            "" if self.peak_bytes is None else f"{self.peak_bytes / GIB:.2f}",
            self.note,
        )


HEADS = ("part", "case", "way", "median s", "per second", "times as fast", "goal", "peak GiB", "note")


@dataclass(frozen=True)
class Bench:
    """The surroundings of a part.

    device: the device to measure.
    deadline: time.monotonic() at which the part ends.
    small: sizes for a CPU in a test in place of those for a card.
    """

    device: torch.device
    deadline: float
    small: bool = False

    def has(self, seconds: float) -> bool:
        """Return True if so much time is left."""
        return time.monotonic() + seconds < self.deadline

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            import torch

            torch.cuda.synchronize(self.device)

    def timed(self, work: Callable[[], Any]) -> tuple[float, int, Any]:
        """Return the seconds of a call, its peak bytes and its value."""
        from ddbench.utils.memory import Peak

        self.synchronize()
        peak, start = Peak(self.device), time.perf_counter()
        value = work()
        self.synchronize()
        return time.perf_counter() - start, peak.compute_bytes, value


Case = Callable[[], Iterable[Row]]


def run_cases(part: str, bench: Bench, cases: Mapping[str, tuple[float, Case]]) -> Iterator[Row]:
    """Yield the rows of each case; one that fails, or for which too little time is left, becomes a row that says so.

    cases: by name, the seconds that a case needs at least, and the case.
    """
    for name, (needed, case) in cases.items():
        if not bench.has(needed):
            yield Row(part, name, note=f"not reached: less than {needed:.0f} s were left")
            continue
        try:
            yield from case()
        except Exception as error:
            yield Row(part, name, note=f"failed: {reason(error)}")
        free_memory()


def free_memory() -> None:
    """Give the memory of a case back to the device: what failed keeps it in its traceback until then."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def reason(error: BaseException) -> str:
    """Describe an error in one line."""
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first[:160]}".rstrip(": ")


@dataclass
class Measurement:
    """The repeats of one way.

    first: seconds of the first call, which compiles and fills caches; it is not among `seconds`.
    value: of the last call.
    error: why the way was given up.
    """

    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    first: float = 0.0
    value: Any = None
    error: str = ""

    @property
    def median(self) -> float:
        """Median seconds."""
        return statistics.median(self.seconds)


def take_turns(bench: Bench, ways: Mapping[str, Callable[[], Any]], repeat: int) -> dict[str, Measurement]:
    """Call each way once, then `repeat` times in turns; a way that fails (out of memory) is left out from then on."""
    measurements = {name: Measurement() for name in ways}
    for turn in range(repeat + 1):
        for name, work in ways.items():
            measurement = measurements[name]
            if measurement.error:
                continue
            try:
                seconds, peak, measurement.value = bench.timed(work)
            except Exception as error:
                measurement.error = reason(error)
                free_memory()
                continue
            measurement.peak_bytes = max(measurement.peak_bytes, peak)
            if turn == 0:
                measurement.first = seconds
            else:
                measurement.seconds.append(seconds)
    return measurements
