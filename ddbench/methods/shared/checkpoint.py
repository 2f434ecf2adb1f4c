"""A loop whose state outlives a kill: steps, a checkpoint file, losses that are checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from ddbench.context import Context, show_loss
from ddbench.utils.files import Stopwatch, write_bytes

PIXELS = "pixels.safetensors"  # in a run's private folder
STATE = "state.safetensors"  # in a folder beside the stage that is being made
FORMER_KEYS = {"step": "done", "losses": "recent"}  # of files written before seconds were recorded


@dataclass(frozen=True)
class Progress:
    """step: steps done. seconds: time they took, killed processes included. losses: the last 100."""

    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class FitResult:
    """loss: mean of the last 100 steps. earlier_seconds: time that killed processes spent on steps that count."""

    loss: float
    earlier_seconds: float


@dataclass(frozen=True)
class Checkpoint:
    """A safetensors file with the newest state of a loop: its tensors by name, and its progress.

    path: the file. every: seconds between two writes. final: write after the last step too.
    """

    path: Path
    every: float = 60.0
    final: bool = True

    @classmethod
    def beside(cls, stage: Path) -> Checkpoint:
        """Return the checkpoint of a stage; it is removed when the stage is complete (`files.make_once`)."""
        return cls(stage.with_name(f"{stage.name}.checkpoints") / STATE, final=False)

    def save(self, tensors: Mapping[str, Tensor], progress: Progress) -> None:
        """Replace the file by these tensors and this progress, atomically."""
        content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        content |= {name: torch.tensor(value, dtype=torch.float64) for name, value in vars(progress).items()}
        write_bytes(self.path, save(content))

    def load(self, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], Progress]:
        """Return the tensors on `device` and the progress; no tensors and step 0 if there is no file."""
        if not self.path.is_file():
            return {}, Progress()
        tensors = load_file(self.path, device=str(device))
        for name, former in FORMER_KEYS.items():
            if former in tensors:
                tensors[name] = tensors.pop(former)
        seconds = float(tensors.pop("seconds", 0.0))
        return tensors, Progress(int(tensors.pop("step")), seconds, tensors.pop("losses").tolist())


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
