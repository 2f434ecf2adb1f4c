"""Expert trajectories: networks trained on the real images, their weights kept after every epoch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ddbench.context import generator_of, seed_of
from ddbench.methods.pixels.loop import MatchingSetup, dsa_per_image
from ddbench.methods.pixels.network import Network, Weights, grad_and_value, sgd_step
from ddbench.methods.shared.checkpoint import optimise_with_checkpoints
from ddbench.utils.checkpoint import Checkpoint

FILE = "trajectory.safetensors"


@dataclass(frozen=True)
class ExpertConfig:
    """Settings of an expert's training: plain SGD at a constant learning rate (buffer.py of the public code).

    student: architecture.
    epochs: passes over the real images.
    rate: learning rate.
    batch: real images per step.
    augment: DSA on every batch, with numbers drawn for every image.
    images: real images per epoch at most, 0 for all.
    normalise: normalisation of the images.
    """

    student: str
    epochs: int
    rate: float
    batch: int
    augment: bool
    images: int = 0
    normalise: str = "constant"


def train_expert(index: int, config: ExpertConfig, setup: MatchingSetup) -> Path:
    """Return the file of expert `index`, trained once for all runs on these images, from a checkpoint if killed.

    The file holds theta*_0 ... theta*_epochs: float32 (epochs + 1, ...) by weight. Raises FloatingPointError for a
    loss that is not finite.
    """

    def make(folder: Path) -> dict[str, float]:
        train, device, numbers = setup.real.train, setup.ctx.device, generator_of(0, "expert", index)
        first = setup.network.fresh(seed_of(0, "expert", "weights", index))
        trajectory = {name: torch.zeros(config.epochs + 1, *w.shape) for name, w in first.items()}
        for name, w in first.items():
            trajectory[name][0] = w
        loss = torch.zeros(())
        state = {"generator": numbers.get_state(), "loss": loss, **trajectory}

        def run_epoch(epoch: int) -> float:
            numbers.set_state(state["generator"])
            theta = {name: snapshots[epoch].to(device) for name, snapshots in trajectory.items()}
            order = torch.randperm(len(train.labels), generator=numbers)[: config.images or None]
            for rows in order.split(config.batch):
                images = dsa_per_image(setup.real.normalised(rows), config.augment, numbers)
                gradient, last = setup.network.run(loss_gradient)(theta, images, train.labels[rows].to(device))
                theta = sgd_step(theta, gradient, config.rate)
            if not torch.isfinite(last):
                raise FloatingPointError(f"expert {index}: the loss became {float(last)}: try a smaller expert_rate")
            for name, w in theta.items():
                trajectory[name][epoch + 1] = w
            state["generator"].copy_(numbers.get_state())
            return float(loss.copy_(last))

        task, checkpoint = f"expert {index}", Checkpoint.beside(folder)
        fitted = optimise_with_checkpoints(state, run_epoch, config.epochs, setup.ctx, checkpoint, task)
        save_file(trajectory, folder / FILE)
        return {"loss": float(loss), "earlier_seconds": fitted.earlier_seconds}

    return setup.ctx.stage("expert", make, **vars(config), index=index) / FILE


def load_snapshot(path: Path, epoch: int, device: torch.device) -> Weights:
    """Return theta*_epoch, the weights after `epoch` epochs; epoch 0: the initial ones."""
    with safe_open(path, "pt") as file:
        return {name: file.get_slice(name)[epoch].to(device) for name in file.keys()}  # noqa: SIM118  not a mapping


def loss_gradient(network: Network, weights: Weights, images: Tensor, labels: Tensor) -> tuple[Weights, Tensor]:
    """Return the gradient of the cross-entropy with respect to the weights, and its value."""
    return grad_and_value(network.loss)(weights, images, labels)
