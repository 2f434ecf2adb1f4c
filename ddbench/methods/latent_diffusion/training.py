"""A resumable training loop: AdamW, schedule, clipping, weight average, checkpoints."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddbench.context import show_loss
from ddbench.methods.latent_diffusion.class_vectors import CLASS_VECTORS
from ddbench.utils.checkpoint import STATE, Checkpoint, FitResult, Progress
from ddbench.utils.distributed import SINGLE_PROCESS, ProcessGroup
from ddbench.utils.files import Stopwatch


@dataclass(frozen=True)
class Schedule:
    """The length and the rates of a training.

    steps: optimizer steps.
    rate: peak learning rate.
    warmup: steps of the linear warm-up.
    cosine: decay to `floor` times the peak by the last step, else constant.
    clip: largest gradient norm.
    decay, betas: AdamW's weight decay and betas.
    ema: decay per step of the weight average that replaces the weights at the end, 0 for none.
    average: warm: the decay of step i (from 0) is at most (1 + i) / (10 + i), so that the first weights are forgotten;
        constant: it is `ema` from the first step on, so that ema ** steps of the average are the first weights.
    floor: share of the peak rate at the end of the cosine.
    vector_rate: peak rate of the classes' vectors of a denoiser conditioned by text.
    seconds: where not 0, time decides in place of `steps`, the seconds before a kill included; so does the cosine.
    """

    steps: int
    rate: float
    warmup: int = 0
    cosine: bool = False
    clip: float = 1.0
    decay: float = 1e-2
    betas: tuple[float, float] = (0.9, 0.999)
    ema: float = 0.0
    average: str = "warm"
    floor: float = 0.01
    seconds: float = 0.0
    vector_rate: float = 0.0

    def progress_at(self, step: int, seconds: float) -> float:
        """Return the share of the training done before step `step` (from 0), after `seconds`; 1 ends it."""
        return seconds / self.seconds if self.seconds else step / self.steps

    def rate_at(self, step: int, progress: float | None = None) -> float:
        """Return the learning rate of step `step` (from 0); progress: that of `progress_at`, by steps by default."""
        progress = step / self.steps if progress is None else progress
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        wave = (1 + math.cos(math.pi * progress)) / 2 if self.cosine else 1.0
        return self.rate * warm * (self.floor + (1 - self.floor) * wave)


@dataclass(frozen=True)
class Checkpoints:
    """The place of the loop's state.

    folder: None keeps none.
    every: most steps between two checkpoints; slow steps are stored every minute.
    processes: they run the loop together, each on its part of every batch; the lead writes, all read.
    """

    folder: Path | None = None
    every: int = 500
    processes: ProcessGroup = SINGLE_PROCESS


def checkpoints_beside(folder: Path, every: int = 250, processes: ProcessGroup = SINGLE_PROCESS) -> Checkpoints:
    """Return checkpoints beside a stage's hidden folder; `files.make_once` removes them with the stage complete."""
    return Checkpoints(Checkpoint.beside(folder).path.parent, every, processes)


def fit(
    network: nn.Module,
    loss_at: Callable[[int], Tensor | Iterable[Tensor]],
    schedule: Schedule,
    progress: Callable[[Iterable], Iterable],
    checkpoints: Checkpoints = Checkpoints(),
    after: Callable[[int], None] = lambda step: None,
) -> FitResult:
    """Minimise `loss_at(step)` over the trainable weights of `network`; a sum of losses is minimised part by part.

    Randomness in `loss_at` must follow from the step alone: then a killed and resumed run ends with the same weights.
    `after(step)` is called after each step, on resuming again for the steps since the last checkpoint. Raises
    FloatingPointError at the first loss or gradient that is not finite.
    """
    weights = [p for p in network.parameters() if p.requires_grad]
    optimizer = _optimizer(network, schedule)
    by_group = [p for group in optimizer.param_groups for p in group["params"]]  # the order of the sum for the norm
    average = [w.detach().clone() for w in weights] if schedule.ema else []
    state: dict[str, Sequence[Tensor]] = {"weight": weights, "buffer": list(network.buffers()), "average": average}
    checkpoint = Checkpoint(checkpoints.folder / STATE) if checkpoints.folder else None
    start = _resume(checkpoint, state, optimizer) if checkpoint else Progress()
    losses, watch, saved = start.losses, Stopwatch(), 0.0
    bar = progress(itertools.count(start.step) if schedule.seconds else range(start.step, schedule.steps))
    for step in bar:
        done = schedule.progress_at(step, start.seconds + watch.seconds)
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate_at(step, done) * group["scale"]
        optimizer.zero_grad(set_to_none=True)
        loss, total = loss_at(step), torch.zeros((), device=by_group[0].device)
        for part in [loss] if isinstance(loss, Tensor) else loss:  # each part's graph is freed before the next one's
            part.backward()
            total += part.detach()
        checkpoints.processes.all_reduce([total, *(w.grad for w in by_group if w.grad is not None)])  # parts add up
        norm = nn.utils.clip_grad_norm_(by_group, schedule.clip)
        optimizer.step()
        values = torch.stack([total.float(), norm.float()]).tolist()  # waits for a GPU once
        for name, value in zip(("loss", "gradient"), values, strict=True):
            if not math.isfinite(value):
                problem = f"the {name} became {value} at step {step}"
                raise FloatingPointError(f"{problem}: try smaller rates and loss weights")
        losses = [*losses[-99:], values[0]]
        show_loss(bar, losses[-1])
        if average:
            decay = min(schedule.ema, (1 + step) / (10 + step)) if schedule.average == "warm" else schedule.ema
            with torch.no_grad():
                torch._foreach_lerp_(average, [w.detach() for w in weights], 1 - decay)
        after(step)
        is_due = checkpoint and ((step + 1) % checkpoints.every == 0 or watch.seconds - saved >= checkpoint.every)
        if checkpoint and is_due and checkpoints.processes.is_lead:
            tensors = _tensors(state, optimizer)
            checkpoint.save(tensors, Progress(step + 1, start.seconds + watch.seconds, losses))
            saved = watch.seconds
    with torch.no_grad():
        for weight, mean in zip(weights, average, strict=False):
            weight.copy_(mean)
    return FitResult(sum(losses) / max(len(losses), 1), start.seconds)


def _optimizer(network: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """Build AdamW; a group's rate is `Schedule.rate_at` times its "scale".

    A DiT's table of classes does not decay: a row that no step reads stays where it is. Neither do `CLASS_VECTORS`.
    """
    weights = {name: p for name, p in network.named_parameters() if p.requires_grad}
    tables = [p for name, p in weights.items() if "class_embedder." in name]
    vectors = [p for name, p in weights.items() if name == CLASS_VECTORS]
    others = [p for name, p in weights.items() if "class_embedder." not in name and name != CLASS_VECTORS]
    groups: list[dict[str, Any]] = [{"params": others, "scale": 1.0}]
    groups += [{"params": tables, "scale": 1.0, "weight_decay": 0.0}] if tables else []
    vector_scale = schedule.vector_rate / schedule.rate
    groups += [{"params": vectors, "scale": vector_scale, "weight_decay": 0.0}] if vectors else []
    fused = next(iter(weights.values())).device.type == "cuda"
    return torch.optim.AdamW(groups, lr=schedule.rate, betas=schedule.betas, weight_decay=schedule.decay, fused=fused)


def _tensors(state: Mapping[str, Sequence[Tensor]], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name: those of `state`, and AdamW's of each weight."""
    tensors = {f"{name}.{i}": t for name, parts in state.items() for i, t in enumerate(parts)}
    for i, weight in enumerate(state["weight"]):
        tensors |= {f"adam.{i}.{k}": torch.as_tensor(v) for k, v in optimizer.state[weight].items()}
    return tensors


def _resume(
    checkpoint: Checkpoint, state: Mapping[str, Sequence[Tensor]], optimizer: torch.optim.Optimizer
) -> Progress:
    """Put the checkpoint's tensors, if there is one, in place; return its progress."""
    stored, progress = checkpoint.load(state["weight"][0].device)
    if not stored:
        return progress
    with torch.no_grad():
        for name, tensors in state.items():
            for i, tensor in enumerate(tensors):
                tensor.copy_(stored[f"{name}.{i}"])
    for i, weight in enumerate(state["weight"]):
        prefix = f"adam.{i}."
        adam = {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)}
        for key, value in adam.items():  # none for a weight that never had a gradient
            is_step = key == "step"  # moments need the weight's memory format
            optimizer.state[weight][key] = value.cpu() if is_step else torch.empty_like(weight).copy_(value)
    return progress
