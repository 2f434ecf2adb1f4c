"""Expert trajectories: networks trained on the real images, their weights kept after every epoch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ddbench.context import generator_of, seed_of, show_loss
from ddbench.methods.pixels.loop import Bench, looked_at, normalised
from ddbench.methods.pixels.network import Network, Weights, grad_and_value, stepped

FILE = "trajectory.safetensors"


@dataclass(frozen=True)
class Training:
    """How an expert is trained: plain SGD at a constant `rate`, `epochs` over the real images in batches of `batch`.

    images: an epoch sees at most so many, 0 for all. augment: DSA's operations on every batch, the numbers drawn for
    every image (buffer.py of the public code).
    """

    student: str
    epochs: int
    rate: float
    batch: int
    augment: bool
    images: int = 0


def trajectory(index: int, training: Training, bench: Bench) -> Path:
    """The file of expert `index`, made once for all runs on these images: float32, (epochs + 1, ...) by weight."""
    key = vars(training) | {"index": index}
    return bench.ctx.stage("expert", lambda folder: _train(folder, index, training, bench), **key) / FILE


def snapshot(path: Path, epoch: int, device: torch.device) -> Weights:
    """The weights after `epoch` epochs; 0 for those before any."""
    with safe_open(path, "pt") as file:
        return {name: file.get_slice(name)[epoch].to(device) for name in file.keys()}  # noqa: SIM118  not a mapping


def _train(folder: Path, index: int, training: Training, bench: Bench) -> dict[str, float]:
    train, numbers = bench.real.train, generator_of(0, "expert", index)
    weights = bench.network.fresh(seed_of(0, "expert", "weights", index))
    kept = {name: [w.cpu()] for name, w in weights.items()}  # no copy on a CPU: `stepped` makes new tensors every step
    bar = bench.ctx.progress(range(training.epochs), f"expert {index}", training.epochs)
    for _ in bar:
        seen = torch.randperm(len(train.labels), generator=numbers)[: training.images or None]
        for rows in seen.split(training.batch):
            images = looked_at(normalised(train.images[rows].to(bench.ctx.device)), training.augment, numbers)
            labels = train.labels[rows].to(bench.ctx.device)
            downhill, loss = bench.network.run(slope_and_loss)(weights, images, labels)
            weights = stepped(weights, downhill, training.rate)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"expert {index}: the loss became {float(loss)}: try a smaller expert_rate")
        show_loss(bar, float(loss))
        for name, w in weights.items():
            kept[name].append(w.cpu())
    save_file({name: torch.stack(parts) for name, parts in kept.items()}, folder / FILE)
    return {"loss": float(loss)}


def slope_and_loss(network: Network, weights: Weights, images: Tensor, labels: Tensor) -> tuple[Weights, Tensor]:
    """The gradient of the cross-entropy in the weights, and itself."""
    return grad_and_value(network.loss)(weights, images, labels)
