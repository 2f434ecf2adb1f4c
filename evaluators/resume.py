"""The state of an unfinished training: what to store, and how to continue from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn


class TrainingState(Protocol):
    """Storage for the state of an unfinished training, from which another process continues it."""

    def load(self) -> tuple[int, Mapping[str, Tensor]]:
        """Return the steps done and the tensors saved after them; 0 and no tensors if nothing was saved."""

    def save(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Store the tensors after `step` steps. It is called every 20 steps and may skip any."""


def changing_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Name all tensors that change in a step, global generators included."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for i, weight in enumerate(model.parameters()):
        tensors |= {f"optimizer.{i}.{k}": v for k, v in optimizer.state[weight].items() if isinstance(v, Tensor)}
    device = next(model.parameters()).device
    cuda = {"random.cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
    return tensors | {"random": torch.get_rng_state()} | cuda


def restore(tensors: Mapping[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Copy what `changing_tensors` named into the model, the optimizer and the global generators."""
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    for i, weight in enumerate(model.parameters()):
        prefix = f"optimizer.{i}."
        for key in (key for key in tensors if key.startswith(prefix)):
            value = tensors[key]  # fused optimizers need moments in the weight's memory format
            value = torch.empty_like(weight).copy_(value) if value.shape == weight.shape else value.to(weight.device)
            optimizer.state[weight][key.removeprefix(prefix)] = value
    torch.set_rng_state(tensors["random"].cpu())
    if "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"].cpu(), next(model.parameters()).device)
