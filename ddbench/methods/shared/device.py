"""Batches that fit the device's memory, precision, and CUDA graphs of a network's two passes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

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


def graphed(network: nn.Module, call: Callable[..., Tensor], device: torch.device) -> Callable[..., Tensor]:
    """Return `call`; on a GPU, its forward and its backward pass through `network` are CUDA graphs from the first on.

    The same kernels, without the time that the host takes to start each. All later tensors must have the first ones'
    shapes. What cannot be captured runs kernel by kernel, with a warning.
    """
    if device.type != "cuda":
        return call
    captured: list[Callable[..., Tensor]] = []

    def run(*tensors: Tensor) -> Tensor:
        if not captured:
            try:
                captured.append(_capture_passes(network, call, tensors))
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                reason = (str(error).strip().splitlines() or [""])[0]
                log.warning("no CUDA graph, so steps are slower: %s: %s", type(error).__name__, reason[:160])
                captured.append(call)
        return captured[0](*tensors)

    return run


def _capture_passes(
    network: nn.Module, call: Callable[..., Tensor], tensors: tuple[Tensor, ...]
) -> Callable[..., Tensor]:
    """Capture the passes of `call` on tensors of these shapes, under the autocast that is on."""

    class Call(nn.Module):
        """The call as a module, which tells torch whose gradients the backward pass gives."""

        def __init__(self) -> None:
            super().__init__()
            self.network, self.training = network, network.training

        def forward(self, *args: Tensor) -> Tensor:
            return call(*args)

    was_cached = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)  # a weight that is cast outside the graph would stay as it was then
    try:
        samples = tuple(tensor.detach().clone().requires_grad_(tensor.requires_grad) for tensor in tensors)
        captured = torch.cuda.make_graphed_callables(Call(), samples, allow_unused_input=True)
        # gradients are summed on the stream of the capture; autograd waits for it, and would warn in every step
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
        return cast(Callable[..., Tensor], captured)
    finally:
        torch.set_autocast_cache_enabled(was_cached)
