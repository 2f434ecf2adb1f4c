"""Work cut into batches that fit the device, and its precision."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import TypeVar

import torch

from ddbench.errors import is_out_of_memory

log = logging.getLogger("ddbench")
T = TypeVar("T")


def in_batches(
    compute: Callable[[slice], T], count: int, batch: int, progress: Callable[[Iterable], Iterable] = iter
) -> Iterator[T]:
    """compute(slice) for slices of at most `batch` that cover range(count), in order.

    When the memory does not suffice, the slice is tried again in halves, and so are all that follow; with one thing
    alone the error says so. For work whose results do not depend on how it is cut.
    """
    size = batch
    for start in progress(range(0, count, batch)):
        at, stop = start, min(start + batch, count)
        while at < stop:
            part = slice(at, min(at + size, stop))
            try:
                found = compute(part)
            except (RuntimeError, MemoryError) as error:
                if size == 1 or not is_out_of_memory(error):
                    raise
                size = _halved(size)
                continue
            yield found
            at = part.stop


def _halved(size: int) -> int:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    log.warning("out of memory with batches of %d: going on with %d", size, size // 2)
    return size // 2


def chosen(precision: str, device: torch.device) -> str:
    """The precision that "auto" means on a device: bf16 on a GPU, else fp32; any other as it is."""
    if precision != "auto":
        return precision
    return "bf16" if device.type == "cuda" else "fp32"


def mixed_precision(device: torch.device, precision: str):
    """The autocast context of "bf16" or "fp16", or nothing for "fp32"."""
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}
    if precision not in (*half, "fp32"):
        raise ValueError(f"precision is {precision!r}: choose bf16, fp16 or fp32")
    return torch.autocast(device.type, half[precision]) if precision in half else nullcontext()
