"""A loop whose state outlives a kill: steps, a checkpoint file, losses that are checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ddbench.context import Context, show_loss
from ddbench.utils.checkpoint import Checkpoint, FitResult, Progress
from ddbench.utils.files import Stopwatch

PIXELS = "pixels.safetensors"  # in a run's private folder


def optimise_with_checkpoints(
    state: Mapping[str, Tensor],
    step: Callable[[int], float],
    steps: int,
    ctx: Context,
    checkpoint: Checkpoint | None = None,
    task: str = "distilling",
) -> FitResult:
    """Call `step(i)` for i = 0..steps-1; it changes the tensors of `state` in place and returns the loss.

    What `step` draws must follow from i and `state` alone. The state is written to the checkpoint (by default a file in
    the run's private folder) every minute and after the last step. A killed run continues from there and ends with
    the same result. Raises FloatingPointError at the first loss or state that is not finite; the checkpoint then still
    holds the last finite state.
    """
    checkpoint = checkpoint or Checkpoint(ctx.workdir / PIXELS)
    tensors, start = checkpoint.load()
    with torch.no_grad():
        for name in state if tensors else ():
            state[name].copy_(tensors[name])
    losses, watch, saved = start.losses, Stopwatch(), 0.0
    bar = ctx.progress(range(start.step, steps), task, steps - start.step)
    for i in bar:
        loss = step(i)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss became {loss} at iteration {i}: try a smaller learning rate")
        for name, tensor in state.items():
            if not torch.isfinite(tensor).all():
                raise FloatingPointError(f"{name} became not finite at iteration {i}: try a smaller learning rate")
        losses = [*losses[-99:], loss]
        show_loss(bar, loss)
        if watch.seconds - saved >= checkpoint.every or (checkpoint.final and i + 1 == steps):
            checkpoint.save(state, Progress(i + 1, start.seconds + watch.seconds, losses))
            saved = watch.seconds
    return FitResult(sum(losses) / max(len(losses), 1), start.seconds)
