"""The amount and the arithmetic of the base model's training: steps or minutes, batches, precision."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import click
import torch
from torch import Tensor, nn

from ddbench.context import seed_of


class Amount(click.ParamType):
    """An option's value: a number of steps ("9000") or of minutes ("6.5min")."""

    name = "STEPS|MINUTESmin"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value).strip()
        try:
            positive = 0 < float(text.removesuffix("min")) < math.inf if text.endswith("min") else int(text) > 0
        except ValueError:
            positive = False
        if not positive:
            self.fail(f"{text!r} is neither steps, as 9000, nor minutes, as 6.5min", param, ctx)
        return text


def compile_step(loss_at: Callable[[int], Tensor], network: nn.Module) -> None:
    """Run a step whose gradients are thrown away: torch.compile does its work here, before the clock starts."""
    loss_at(0).backward()
    network.zero_grad(set_to_none=True)


@dataclass(frozen=True)
class TrainingBudget:
    """The amount and the arithmetic of one part's training.

    amount: steps, or minutes as "6.5min": then the learning rate follows the time that has passed.
    batch: images per step.
    rate: peak learning rate.
    ema: decay per step of the average of the weights.
    precision: bf16 (autocast) or fp32.
    compiled: torch.compile; takes a minute or two first, which do not count.
    channels_last: order of the network's arrays; faster on a GPU.
    """

    amount: str
    batch: int
    rate: float
    ema: float
    precision: str = "fp32"
    compiled: bool = False
    channels_last: bool = False

    @property
    def steps(self) -> int:
        """Optimizer steps, 0 where `seconds` decides."""
        return 0 if self.seconds else int(self.amount)

    @property
    def seconds(self) -> float:
        """Seconds of training, 0 where `steps` decides."""
        return 60 * float(self.amount.removesuffix("min")) if self.amount.endswith("min") else 0.0

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def generator(self, device: torch.device, *names: str | int) -> torch.Generator:
        """Return a generator on the device, seeded by the names of its purpose."""
        return torch.Generator(device).manual_seed(seed_of(0, *names))
