"""A loop whose state outlives a kill: steps, a checkpoint file, losses that are checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeAlias, cast

import torch
from torch import Tensor

from ddbench.context import Context, show_loss
from ddbench.utils.checkpoint import Checkpoint, FitResult, Progress
from ddbench.utils.files import Stopwatch

PIXELS = "pixels.safetensors"  # in a run's private folder
CHECK_STEPS, CHECK_SECONDS = 20, 1.0  # between looks at losses that are tensors: a look waits for the device
Loss: TypeAlias = float | Tensor  # a tensor of no dimensions may still be computed on a device


def optimise_with_checkpoints(
    state: Mapping[str, Tensor],
    step: Callable[[int], Loss],
    steps: int,
    ctx: Context,
    checkpoint: Checkpoint | None = None,
    task: str = "distilling",
) -> FitResult:
    """Call `step(i)` for i = 0..steps-1; it changes the tensors of `state` in place and returns the loss.

    What `step` draws must follow from i and `state` alone. The state is written to the checkpoint (by default a file in
    the run's private folder) every minute and after the last step. A killed run continues from there and ends with
    the same result. Raises FloatingPointError at the first loss or state that is not finite; the checkpoint then still
    holds the last finite state. Losses that are tensors are looked at once in 20 steps or in a second.
    """
    checkpoint = checkpoint or Checkpoint(ctx.workdir / PIXELS)
    tensors, start = checkpoint.load()
    with torch.no_grad():
        for name in state if tensors else ():
            state[name].copy_(tensors[name])
    losses, pending, watch, saved, looked = start.losses, [], Stopwatch(), 0.0, 0.0
    bar = ctx.progress(range(start.step, steps), task, steps - start.step)
    for i in bar:
        pending.append(step(i))
        last, now = i + 1 == steps, watch.seconds
        save = now - saved >= checkpoint.every or (checkpoint.final and last)
        wait = isinstance(pending[-1], Tensor) and len(pending) < CHECK_STEPS and now - looked < CHECK_SECONDS
        if wait and not (save or last):
            continue
        losses = [*losses, *finite_losses(pending, i + 1 - len(pending))][-100:]
        for name, tensor in state.items():
            if not torch.isfinite(tensor).all():
                raise FloatingPointError(f"{name} became not finite at iteration {i}: try a smaller learning rate")
        show_loss(bar, losses[-1])
        pending, looked = [], now
        if save:
            checkpoint.save(state, Progress(i + 1, start.seconds + watch.seconds, losses))
            saved = watch.seconds
    return FitResult(sum(losses) / max(len(losses), 1), start.seconds)


def finite_losses(losses: list[Loss], first: int) -> list[float]:
    """Return the losses of iterations first, first + 1, ... Raises FloatingPointError at one that is not finite."""
    if isinstance(losses[0], Tensor):
        losses = torch.stack(cast(list[Tensor], losses)).tolist()
    for i, loss in enumerate(losses, first):
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss became {loss} at iteration {i}: try a smaller learning rate")
    return cast(list[float], losses)
