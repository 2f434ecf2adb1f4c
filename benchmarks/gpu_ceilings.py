"""Part of benchmarks/gpu.py: the most that a card does: matrix products, copies, launches of kernels."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from functools import partial

import torch
from gpu_rows import Bench, Row, run_cases

PART = "ceilings"
CALLS, REPEAT = 20, 5


def median_seconds(bench: Bench, work: Callable[[], object]) -> float:
    """Return the median seconds of one of CALLS calls in a row, which wait for the device at the end only."""

    def several() -> None:
        for _ in range(CALLS):
            work()

    several()
    return statistics.median(bench.timed(several)[0] for _ in range(REPEAT)) / CALLS


def product_rate(bench: Bench, precision: str) -> float:
    """Return the arithmetic of a large square matrix product, FLOP per second. precision: bf16, tf32 or fp32."""
    side = 256 if bench.small else 8192
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(side, side, device=bench.device, dtype=dtype) for _ in range(2))
    out, before = torch.empty_like(a), torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    try:
        return 2 * side**3 / median_seconds(bench, lambda: torch.mm(a, b, out=out))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def product(bench: Bench, precision: str) -> Iterator[Row]:
    """Yield the ceiling of matrix products."""
    rate = product_rate(bench, precision)
    yield Row(PART, "matrix product", precision, rate=rate / 1e12, unit="TFLOP")


def copies(bench: Bench) -> Iterator[Row]:
    """Yield the bytes per second of copies within the device (read and written bytes) and from the host to it."""
    count = 2**20 if bench.small else 2**30
    source = torch.zeros(count, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    seconds = median_seconds(bench, lambda: target.copy_(source))
    yield Row(PART, "copy", "within the device", rate=2 * count / seconds / 1e9, unit="GB")
    if bench.device.type == "cuda":
        for way, host in (("from pinned memory", source.cpu().pin_memory()), ("from pageable memory", source.cpu())):
            seconds = median_seconds(bench, partial(target.copy_, host, non_blocking=True))
            yield Row(PART, "copy", way, rate=count / seconds / 1e9, unit="GB")


def launches(bench: Bench) -> Iterator[Row]:
    """Yield the seconds of one small operation: the time that Python and a launch take."""
    one = torch.zeros(1, device=bench.device)
    seconds = median_seconds(bench, lambda: [one.add_(1) for _ in range(100)]) / 100
    yield Row(PART, "launch", "add of one number", seconds, 1 / seconds, "launches")


def rows(bench: Bench) -> Iterator[Row]:
    """Yield the rows of this part."""
    products = {f"matrix product {name}": (0.0, partial(product, bench, name)) for name in ("bf16", "tf32", "fp32")}
    others = {"copy": (1.0, partial(copies, bench)), "launch": (1.0, partial(launches, bench))}
    yield from run_cases(PART, bench, products | others)
