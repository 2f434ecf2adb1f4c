"""Part of benchmarks/gpu.py: an iteration of DC (DSA), DM and MTT against the official structure (methods.py).

ddbench computes with cuDNN's deterministic kernels, as its runner does; the official structure takes any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from gpu_dm import COMPILED, GRAPH, PLAIN, whole_iterations
from gpu_dm import EAGER as BY_KERNEL
from gpu_rows import Bench, Row, run_cases, take_turns
from methods import CLASSES, EAGER, OURS, USUAL, drawn_case, loops_of
from torch import Tensor

from ddbench.methods.pixels.network import eager_fallback

PART = "methods"
GOAL = 2.0  # of DM and MTT, compiled or not


@dataclass(frozen=True)
class Iteration:
    """One iteration to measure.

    method: dc, dm or mtt.
    size: px. ipc, real: distilled and real images of a class.
    steps: of MTT's student.
    """

    method: str
    size: int
    ipc: int = 10
    real: int = 64
    steps: int = 10

    @property
    def case(self) -> str:
        """The name of the case."""
        return f"{self.method}, {self.size} px, IPC {self.ipc}"


# MTT's official structure keeps the graph of all steps: 12.9 GiB at 64 px and IPC 10, sixteen times that at 256 px
LARGE = (
    Iteration("dm", 64), Iteration("mtt", 64), Iteration("dc", 64),
    Iteration("dm", 256), Iteration("mtt", 256, ipc=1), Iteration("dc", 256),
)  # fmt: skip
SMALL = tuple(Iteration(name, 16, ipc=1, real=2, steps=2) for name in ("dm", "mtt", "dc"))


def deterministic(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Return the work under the flags of ddbench's runner."""

    def call() -> Tensor:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            return work()

    return call


def iteration_rows(bench: Bench, iteration: Iteration, ours: str) -> Iterator[Row]:
    """Yield the seconds of an iteration of both ways, and how far ddbench's gradient is from the official structure's.

    ours: EAGER or OURS (compiled).
    """
    classes = 2 if bench.small else CLASSES
    case = drawn_case(classes, iteration.ipc, iteration.real, iteration.size, bench.device)
    loops = loops_of(iteration.method, case, iteration.steps)
    with eager_fallback() if ours == OURS else nullcontext():
        ways = {USUAL: loops[USUAL], ours: deterministic(loops[ours])}
        measurements = take_turns(bench, ways, 1 if bench.small else 5)
    reference = measurements[USUAL]
    for way, m in measurements.items():
        if m.error:
            yield Row(PART, iteration.case, way, note=f"failed: {m.error}")
            continue
        figures, ratio = vars(iteration) | {"classes": classes, "first_seconds": m.first}, None
        if not reference.error:
            ratio = reference.median / m.median
            apart = (m.value.reshape(reference.value.shape) - reference.value).norm() / reference.value.norm()
            figures["difference"] = float(apart)
        images = classes * iteration.ipc
        yield Row(
            PART, iteration.case, way, m.median, images / m.median, "images", ratio=ratio,
            goal=GOAL if way != USUAL and iteration.method != "dc" else None, peak_bytes=m.peak_bytes,
            note=f"{m.first - m.median:.0f} s of compiling before" if way == OURS else "", figures=figures,
        )  # fmt: skip


def rows(bench: Bench) -> Iterator[Row]:
    """Yield the rows of this part: eager code of all iterations, then compiled code."""
    iterations = SMALL if bench.small else LARGE
    ways, n = (PLAIN, BY_KERNEL, GRAPH), 2 if bench.small else 40
    cases = {"dm, whole iterations": (0.0 if bench.small else 20.0, partial(whole_iterations, bench, ways, n))}
    cases |= {i.case: (0.0 if bench.small else 8.0, partial(iteration_rows, bench, i, EAGER)) for i in iterations}
    if not bench.small:  # a compiler takes a minute on a CPU
        cases |= {"dm, whole iterations, compiled": (40.0, partial(whole_iterations, bench, (PLAIN, COMPILED), n))}
        cases |= {f"{i.case}, compiled": (25.0, partial(iteration_rows, bench, i, OURS)) for i in iterations}
    yield from run_cases(PART, bench, cases)
