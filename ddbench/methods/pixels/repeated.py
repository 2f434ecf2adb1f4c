"""A step that is taken thousands of times with tensors of the same shapes: on a GPU as one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from ddbench.context import log
from evaluators.cuda_graph import capture

WARM_UP = 2  # steps before a capture: libraries set up their handles, torch.compile compiles


class RepeatedStep:
    """Call `compute(drawn)` on static copies of what a step draws; return its value, a tensor that stays.

    compute: changes the tensors of `state` in place. On a GPU it must not wait for the device.
    drawn: tensors in dicts and named tuples, of the same shapes in every call, on the CPU or on the device. Copies to a
    GPU do not make the host wait, so it can draw the next step while the GPU computes this one.

    On a GPU the first call captures `compute` as a CUDA graph. Later calls launch the graph: one launch in place of
    hundreds, the same kernels. What cannot be captured runs kernel by kernel, with a warning. capture: False for that.
    """

    def __init__(
        self, compute: Callable[[Any], Tensor], state: Sequence[Tensor], device: torch.device, capture: bool = True
    ) -> None:
        self._compute, self._state, self._device = compute, state, device
        self._capture = capture and device.type == "cuda"
        self._static: Any = None
        self._run: Callable[[], Tensor] | None = None

    def __call__(self, drawn: Any) -> Tensor:
        if self._static is None:
            self._static = tree_map(lambda x: torch.empty_like(x, device=self._device), drawn)
        for static, tensor in zip(*(tree_flatten(part)[0] for part in (self._static, drawn)), strict=True):
            to_gpu = static.is_cuda and not tensor.is_cuda
            static.copy_(tensor.pin_memory() if to_gpu else tensor, non_blocking=True)
        if self._run is None:
            self._run = self._prepare()
        return self._run()

    def _prepare(self) -> Callable[[], Tensor]:
        """Return the step as a function without arguments: the replay of its graph, or the step itself."""
        if self._capture:
            try:
                return graph_of(lambda: self._compute(self._static), self._state, self._device)
            except RuntimeError as error:
                reason = (str(error).strip().splitlines() or [""])[0]
                log.warning("no CUDA graph, so steps are slower: %s: %s", type(error).__name__, reason[:160])
        return lambda: self._compute(self._static)


def graph_of(compute: Callable[[], Tensor], state: Sequence[Tensor], device: torch.device) -> Callable[[], Tensor]:
    """Capture a CUDA graph of `compute`; return a function that launches it and copies its value.

    state: tensors that `compute` changes; the steps that warm up are undone. Raises RuntimeError if it cannot be
    captured, with the state as it was.
    """
    before = [tensor.clone() for tensor in state]
    current, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    side.wait_stream(current)
    try:
        with torch.cuda.device(device), torch.cuda.stream(side):
            for _ in range(WARM_UP):
                compute()
            replay = capture(compute)
    finally:
        current.wait_stream(side)
        with torch.no_grad():
            for tensor, old in zip(state, before, strict=True):
                tensor.copy_(old)
    return lambda: replay().clone()
