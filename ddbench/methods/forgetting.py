"""Forgetting: real images that a network learns and forgets again most often (Toneva et al., ICLR 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ddbench.methods.shared.dynamics import Dynamics, DynamicsMethod


@dataclass(frozen=True)
class Forgetting(DynamicsMethod):
    """The most forgotten images of each class (Toneva et al., ICLR 2019, arXiv:1812.05159).

    Ours: an image is looked at after each epoch, without augmentation; in the paper whenever it is in a batch. The
    choice is made class by class.
    """

    name: ClassVar[str] = "forgetting"
    citation: ClassVar[str] = (
        "Toneva et al., An Empirical Study of Example Forgetting during Deep Neural Network Learning, ICLR 2019"
    )

    def score(self, dynamics: Dynamics) -> Tensor:
        return forgetting_events(dynamics.correct)


def forgetting_events(correct: Tensor) -> Tensor:
    """Count of each image how often it was correct at epoch t and not at t + 1: bool (epochs, n) -> float32 (n,).

    An image that was never correct counts `epochs`, more than any that was: the paper takes it as forgotten infinitely
    often.
    """
    forgotten = (correct[:-1] & ~correct[1:]).sum(0).float()
    return torch.where(correct.any(0), forgotten, float(len(correct)))
