"""One resumable training loop for every network of DPD: schedule, clipping, checkpoints without pickle."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ddbench.context import show_loss
from ddbench.utils.distributed import SINGLE_PROCESS, ProcessGroup
from ddbench.utils.files import Stopwatch, write_bytes

STATE = "state.safetensors"
PROGRESS_KEYS = ("step", "seconds", "losses")  # steps done, seconds they took, the last losses
Progress = tuple[int, float, list[float]]


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
    """Where the loop's state is kept, and every how many steps; `folder=None` keeps none.

    processes: the processes that run the loop together, each on its part of every batch. The lead writes, all read.
    """

    folder: Path | None = None
    every: int = 500
    processes: ProcessGroup = SINGLE_PROCESS


@dataclass(frozen=True)
class FitResult:
    """loss: mean of the last 100 steps. earlier_seconds: what processes that were killed spent on steps that count."""

    loss: float
    earlier_seconds: float


def checkpoints_beside(folder: Path, every: int = 250, processes: ProcessGroup = SINGLE_PROCESS) -> Checkpoints:
    """Checkpoints beside the hidden folder of a stage, which removes them when it is complete (`files.make_once`)."""
    return Checkpoints(folder.with_name(f"{folder.name}.checkpoints"), every, processes)


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
    kept = {"weight": weights, "buffer": buffers, "average": average}
    start, earlier, recent = _resume(checkpoints.folder, kept, optimizer)
    watch = Stopwatch()
    bar = progress(itertools.count(start) if schedule.seconds else range(start, schedule.steps))
    for step in bar:
        done = schedule.progress_at(step, earlier + watch.seconds)
        if done >= 1:
            break
        rate = schedule.rate_at(step, done)
        recent = [*recent[-99:], _step(loss_at(step), (step, rate, schedule.clip), optimizer, checkpoints.processes)]
        show_loss(bar, recent[-1])
        _update_average(average, weights, schedule.ema, step)
        after(step)
        if checkpoints.folder and checkpoints.processes.is_lead and (step + 1) % checkpoints.every == 0:
            _save(checkpoints.folder, (step + 1, earlier + watch.seconds, recent), kept, optimizer)
    with torch.no_grad():
        for weight, mean in zip(weights, average, strict=False):
            weight.copy_(mean)
    return FitResult(sum(recent) / max(len(recent), 1), earlier)


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


def _save(folder: Path, so_far: Progress, kept: dict[str, list[Tensor]], optimizer: torch.optim.Optimizer) -> None:
    """Keep the newest state only, in one file that is moved into place."""
    state = {f"{name}.{i}": t.detach() for name, tensors in kept.items() for i, t in enumerate(tensors)}
    for i, weight in enumerate(kept["weight"]):
        state |= {f"adam.{i}.{k}": torch.as_tensor(v) for k, v in optimizer.state[weight].items()}
    state = {k: v.contiguous().cpu() for k, v in state.items()}
    state |= {k: torch.tensor(v, dtype=torch.float64) for k, v in zip(PROGRESS_KEYS, so_far, strict=True)}
    write_bytes(folder / STATE, save(state))


def _resume(folder: Path | None, kept: dict[str, list[Tensor]], optimizer: torch.optim.Optimizer) -> Progress:
    """Restore the newest state, if there is one; return the step to go on from, the seconds and losses before it."""
    path = folder and folder / STATE
    if not path or not path.is_file():
        return 0, 0.0, []
    state = load_file(path, device=str(kept["weight"][0].device))
    with torch.no_grad():
        for name, tensors in kept.items():
            for i, tensor in enumerate(tensors):
                tensor.copy_(state[f"{name}.{i}"])
    for i, weight in enumerate(kept["weight"]):
        prefix = f"adam.{i}."
        adam = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        if adam:  # none for a weight that never had a gradient
            optimizer.state[weight] = adam | {"step": adam["step"].cpu()}
    step, seconds, losses = (state[name].tolist() for name in PROGRESS_KEYS)
    return int(step), seconds, losses
