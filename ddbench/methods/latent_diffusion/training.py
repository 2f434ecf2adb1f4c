"""Training of the networks of diffusion methods: AdamW, a schedule, clipping, averaged weights, checkpoints."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ddbench.context import show_loss
from ddbench.methods.shared.checkpoint import STATE, Checkpoint, FitResult, Progress
from ddbench.utils.distributed import SINGLE_PROCESS, ProcessGroup
from ddbench.utils.files import Stopwatch


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    steps: optimizer steps. rate: peak learning rate. warmup: steps from 0 to the peak. cosine: decay to `floor`
    times the peak by the last step, else constant. clip: largest gradient norm. decay: AdamW's weight decay. betas:
    AdamW's. ema: decay per step of an exponential moving average of the weights that replaces them at the end, 0 for
    none. seconds: when not 0, time decides in place of `steps`: the run ends after so many seconds, those before a kill
    included, and the cosine follows them.
    """

    steps: int
    rate: float
    warmup: int = 0
    cosine: bool = False
    clip: float = 1.0
    decay: float = 1e-2
    betas: tuple[float, float] = (0.9, 0.999)
    ema: float = 0.0
    floor: float = 0.01
    seconds: float = 0.0

    def progress_at(self, step: int, seconds: float) -> float:
        """Share of the training that is done before step `step` (from 0), after so many seconds; 1 ends it."""
        return seconds / self.seconds if self.seconds else step / self.steps

    def rate_at(self, step: int, progress: float | None = None) -> float:
        """Learning rate of optimizer step `step` (from 0); progress: that of `progress_at`, by steps by default."""
        progress = step / self.steps if progress is None else progress
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        wave = (1 + math.cos(math.pi * progress)) / 2 if self.cosine else 1.0
        return self.rate * warm * (self.floor + (1 - self.floor) * wave)


@dataclass(frozen=True)
class Checkpoints:
    """Checkpoints of a loop.

    folder: folder of the file, None for no checkpoints.
    every: steps between two of them.
    processes: the processes that run the loop together, each on its part of every batch. The lead writes, all read.
    """

    folder: Path | None = None
    every: int = 500
    processes: ProcessGroup = SINGLE_PROCESS


def checkpoints_beside(folder: Path, every: int = 250, processes: ProcessGroup = SINGLE_PROCESS) -> Checkpoints:
    """Return the checkpoints of a stage; they are removed when the stage is complete (`files.make_once`)."""
    return Checkpoints(Checkpoint.beside(folder).path.parent, every, processes)


def fit(
    network: nn.Module,
    loss_at: Callable[[int], Tensor],
    schedule: Schedule,
    progress: Callable[[Iterable], Iterable],
    checkpoints: Checkpoints = Checkpoints(),
    after: Callable[[int], None] = lambda step: None,
) -> FitResult:
    """Minimise `loss_at(step)` over the trainable weights of `network`.

    Whatever is random in `loss_at` must follow from `step` alone: then a run killed and resumed from a checkpoint ends
    with the weights of one that was not. `after(step)` is called after each step, and again for those since the last
    checkpoint when a run is resumed. Raises FloatingPointError at the first loss that is not finite.
    """
    weights = [p for p in network.parameters() if p.requires_grad]
    buffers = list(network.buffers())  # running statistics
    fused = weights[0].device.type == "cuda"
    optimizer = torch.optim.AdamW(
        _groups(network), lr=schedule.rate, betas=schedule.betas, weight_decay=schedule.decay, fused=fused
    )
    average = [w.detach().clone() for w in weights] if schedule.ema else []
    groups: dict[str, Sequence[Tensor]] = {"weight": weights, "buffer": buffers, "average": average}
    checkpoint = Checkpoint(checkpoints.folder / STATE) if checkpoints.folder else None
    tensors, start = checkpoint.load(weights[0].device) if checkpoint else ({}, Progress())
    if tensors:
        _restore(tensors, groups, optimizer)
    losses, watch = start.losses, Stopwatch()
    bar = progress(itertools.count(start.step) if schedule.seconds else range(start.step, schedule.steps))
    for step in bar:
        done = schedule.progress_at(step, start.seconds + watch.seconds)
        if done >= 1:
            break
        rate = schedule.rate_at(step, done)
        losses = [*losses[-99:], _step(loss_at(step), (step, rate, schedule.clip), optimizer, checkpoints.processes)]
        show_loss(bar, losses[-1])
        _update_average(average, weights, schedule.ema, step)
        after(step)
        if checkpoint and checkpoints.processes.is_lead and (step + 1) % checkpoints.every == 0:
            seconds = start.seconds + watch.seconds
            checkpoint.save(_state(groups, optimizer), Progress(step + 1, seconds, losses))
    with torch.no_grad():
        for weight, mean in zip(weights, average, strict=False):
            weight.copy_(mean)
    return FitResult(sum(losses) / max(len(losses), 1), start.seconds)


def _groups(network: nn.Module) -> list[dict[str, object]]:
    """The trainable weights. A DiT's table of classes does not decay: a row that no step reads stays where it is."""
    weights = {name: p for name, p in network.named_parameters() if p.requires_grad}
    tables = [p for name, p in weights.items() if "class_embedder." in name]
    others = [p for name, p in weights.items() if "class_embedder." not in name]
    return [{"params": others}, *([{"params": tables, "weight_decay": 0.0}] if tables else [])]


def _step(
    loss: Tensor, at: tuple[int, float, float], optimizer: torch.optim.Optimizer, processes: ProcessGroup
) -> float:
    """Take one optimizer step; `at` is its number, learning rate and largest gradient norm.

    Returns the loss of the whole batch. A GPU is waited for once, after the step: a run that raises saves nothing.
    """
    step, rate, clip = at
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    whole = loss.detach().clone()
    processes.all_reduce([whole, *(w.grad for w in weights if w.grad is not None)])  # the parts of the batch add up
    norm = nn.utils.clip_grad_norm_(weights, clip)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    value, norm = torch.stack([whole.float(), norm.float()]).tolist()
    for name, figure in (("loss", value), ("gradient", norm)):
        if not math.isfinite(figure):
            raise FloatingPointError(f"the {name} became {figure} at step {step}: try smaller rates and loss weights")
    return value


@torch.no_grad()
def _update_average(average: list[Tensor], weights: list[nn.Parameter], decay: float, step: int) -> None:
    """Move the averages towards the weights; the decay warms up so that early weights are forgotten."""
    if average:
        torch._foreach_lerp_(average, [w.detach() for w in weights], 1 - min(decay, (1 + step) / (10 + step)))


def _state(groups: Mapping[str, Sequence[Tensor]], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Name the tensors of the groups ("weight.0") and of AdamW's state of every weight ("adam.0.exp_avg")."""
    state = {f"{name}.{i}": tensor for name, tensors in groups.items() for i, tensor in enumerate(tensors)}
    for i, weight in enumerate(groups["weight"]):
        state |= {f"adam.{i}.{key}": torch.as_tensor(value) for key, value in optimizer.state[weight].items()}
    return state


@torch.no_grad()
def _restore(
    state: Mapping[str, Tensor], groups: Mapping[str, Sequence[Tensor]], optimizer: torch.optim.Optimizer
) -> None:
    """Copy a state of `_state` into the groups and the optimizer."""
    for name, tensors in groups.items():
        for i, tensor in enumerate(tensors):
            tensor.copy_(state[f"{name}.{i}"])
    for i, weight in enumerate(groups["weight"]):
        prefix = f"adam.{i}."
        adam = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if adam:  # none for a weight that never had a gradient
            optimizer.state[weight] = adam | {"step": adam["step"].cpu()}
