"""A training step as a CUDA graph: the same kernels on the same memory, started by one call.

A step of a small network starts hundreds of small kernels, and a GPU waits for their start. A graph records them once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

WARM_UP = 3  # steps before the capture: they make optimizer states, workspaces and compiled code

Step = Callable[[Tensor, Tensor], Tensor]  # images, targets -> loss, a scalar; changes the weights in place
Replay = Callable[[], Tensor]


def capture(call: Replay) -> Replay:
    """Record the kernels that `call` starts as a CUDA graph, without running them; return what runs them."""
    graph = torch.cuda.CUDAGraph()
    # a capture that fails would leave its own stream as the current one: the outer context sets it back
    with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph, capture_error_mode="thread_local"):
        output = call()

    def replay() -> Tensor:
        graph.replay()
        return output

    return replay


def _as_current(device: torch.device) -> AbstractContextManager[object]:
    """Make a GPU the current one: streams and captures are of the current GPU, wherever the tensors are."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@dataclass
class GraphedStep:
    """A step that runs as a CUDA graph, one for each shape of a batch, after WARM_UP steps of that shape.

    The step must change all tensors in place. What Python decides in it is decided once, at the capture; numbers that
    change from step to step, such as the learning rate, must be tensors. If a step cannot be captured, it goes on
    eagerly, with a warning.
    capture: records a call and returns what repeats it.
    """

    step: Step
    capture: Callable[[Replay], Replay] = capture
    _calls: dict[torch.Size, int] = field(default_factory=dict)
    _graphs: dict[torch.Size, tuple[Tensor, Tensor, Replay]] = field(default_factory=dict)
    _eager: bool = False

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """Run one step; return its loss, which later steps do not change."""
        shape = images.shape
        self._calls[shape] = self._calls.get(shape, 0) + 1
        if self._eager:
            return self.step(images, targets)
        if self._calls[shape] <= WARM_UP:
            with _as_current(images.device):
                return self._warm_up(images, targets)
        if shape not in self._graphs:
            x, y = images.clone(), targets.clone()
            try:
                with _as_current(images.device):
                    self._graphs[shape] = x, y, self.capture(lambda: self.step(x, y))
            except RuntimeError as error:
                reason = str(error).strip().splitlines()[0]
                warnings.warn(f"no CUDA graph, so the steps run one kernel at a time, slower: {reason}", stacklevel=2)
                self._eager = True
                return self.step(images, targets)
        x, y, replay = self._graphs[shape]
        x.copy_(images)
        y.copy_(targets)
        return replay().clone()

    def forget(self) -> None:
        """Warm up and capture anew: the optimizer has lost its state."""
        self._calls.clear()
        self._graphs.clear()

    def _warm_up(self, images: Tensor, targets: Tensor) -> Tensor:
        """Run a step on a stream of its own, as torch asks before a capture."""
        if images.device.type != "cuda":
            return self.step(images, targets)
        current, own = torch.cuda.current_stream(), torch.cuda.Stream()
        own.wait_stream(current)
        with torch.cuda.stream(own):
            loss = self.step(images, targets)
        current.wait_stream(own)
        return loss
