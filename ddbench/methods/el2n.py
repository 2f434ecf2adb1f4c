"""EL2N: real images on which networks err most, early in their training (Paul et al., NeurIPS 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ddbench.config import param
from ddbench.methods.shared.dynamics import Dynamics, DynamicsMethod


@dataclass(frozen=True)
class EL2N(DynamicsMethod):
    """The images of each class with the highest EL2N score (Paul et al., NeurIPS 2021, arXiv:2107.07075).

    The score of an image x with label y is E || p(w_t, x) - y ||_2 (definition 2.3): w_t are the weights after epoch t,
    the mean is over networks. Ours: the choice is made class by class; the networks train on to the last epoch, because
    the methods share them.
    """

    name: ClassVar[str] = "el2n"
    citation: ClassVar[str] = (
        "Paul et al., Deep Learning on a Data Diet: Finding Important Examples Early in Training, NeurIPS 2021"
    )
    check_params: ClassVar[dict[str, Any]] = {"epochs": 3, "networks": 2}

    networks: int = param(10, "networks from other initial weights, whose mean score ranks the images", "1 or more")
    epoch: int = param(2, "t, the epoch whose error counts; 2 of 20 is the published share, 20 of 200", "1 to epochs")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.epoch <= self.epochs:
            raise ValueError(f"epoch must be in 1..{self.epochs}, the epochs, not {self.epoch}")

    def score(self, dynamics: Dynamics) -> Tensor:
        return dynamics.error[self.epoch - 1]
