"""Batches that fit the device's memory, and precision."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import TypeVar

import torch
from torch import Tensor

from ddbench.errors import is_out_of_memory

log = logging.getLogger("ddbench")
T = TypeVar("T")


def in_batches(
    compute: Callable[[slice], T], count: int, batch: int, progress: Callable[[Iterable], Iterable] = iter
) -> Iterator[T]:
    """Yield compute(slice) for slices of at most `batch` that cover range(count), in order.

    If memory runs out, this slice and all later ones are halved. Raises the error of `compute` if memory runs out for
    one item. The results must not depend on the size of the slices.
    """
    size = batch
    for first in progress(range(0, count, batch)):
        start, end = first, min(first + batch, count)
        while start < end:
            part = slice(start, min(start + size, end))
            try:
                result = compute(part)
            except (RuntimeError, MemoryError) as error:
                if size == 1 or not is_out_of_memory(error):
                    raise
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                log.warning("out of memory with batches of %d: continuing with %d", size, size // 2)
                size //= 2
                continue
            yield result
            start = part.stop


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device; the host does not wait for a GPU."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def resident(images: Tensor, device: torch.device) -> Tensor:
    """Return the images on the GPU if they take at most a quarter of its free memory, else as they are."""
    if device.type != "cuda" or images.nbytes > torch.cuda.mem_get_info(device)[0] // 4:
        return images
    return images.to(device)


def resolve_precision(precision: str, device: torch.device) -> str:
    """Replace "auto" by the precision of the device: bf16 on a GPU, else fp32."""
    if precision != "auto":
        return precision
    return "bf16" if device.type == "cuda" else "fp32"


def mixed_precision(device: torch.device, precision: str):
    """Return the autocast context of "bf16" or "fp16", an empty one for "fp32"; ValueError for other precisions."""
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}
    if precision not in (*half, "fp32"):
        raise ValueError(f"precision is {precision!r}: choose bf16, fp16 or fp32")
    return torch.autocast(device.type, half[precision]) if precision in half else nullcontext()
