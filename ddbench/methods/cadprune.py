"""CAD-Prune: real images of which a network is least certain, for the compute of a student (Dey et al., CVPR 2026)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from ddbench.config import param
from ddbench.methods.shared.dynamics import Dynamics, DynamicsMethod
from ddbench.methods.shared.validation import at_least


@dataclass(frozen=True)
class CADPrune(DynamicsMethod):
    """The images of each class with the highest uncertainty just before a compute budget ends.

    Dey et al., CVPR 2026, arXiv:2604.18811, equations 1 and 2; the uncertainty is Dyn-Unc's (He et al. 2023,
    arXiv:2306.05175). Neither paper's text was at hand: the formula, J = 6, W = 2 and the highest end are from others'
    notes and a public reproduction. Ours: the first K epochs of a longer training, where the paper's lasts K epochs;
    CA2D, which cuts the coreset as RDED does, is left out.
    """

    name: ClassVar[str] = "cadprune"
    citation: ClassVar[str] = "Dey et al., Rethinking Dataset Distillation: Hard Truths about Soft Labels, CVPR 2026"
    check_params: ClassVar[dict[str, Any]] = {"epochs": 3, "budget": 3, "span": 2, "windows": 1}

    budget: int = param(
        8,
        "K, first epochs that count; the paper's is the student's compute, images that it sees / training images, for "
        "ImageNet-1K 8; 0 for all epochs",
        "0 to epochs",
    )
    span: int = param(6, "J, successive epochs over which the deviation is taken", "2 or more")
    windows: int = param(2, "W, last windows whose mean deviation is the score; J + W must be at most K", "1 or more")
    signal: Literal["probability", "error"] = param(
        "probability",
        "what deviates: the probability of the true class, as in Dyn-Unc, or the L2 norm of the error, as a public "
        "reproduction has it",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, budget=0, span=2, windows=1)
        if self.budget > self.epochs:
            raise ValueError(f"budget must be in 0..{self.epochs}, the epochs, not {self.budget}")
        k, needed = self.budget or self.epochs, self.span + self.windows
        if needed > k:
            raise ValueError(f"span + windows must be at most {k}, the epochs that count, not {needed}")

    def score(self, dynamics: Dynamics) -> Tensor:
        series = dynamics.probability if self.signal == "probability" else dynamics.error
        return uncertainty(series[: self.budget or self.epochs], self.span, self.windows)


def uncertainty(p: Tensor, J: int, W: int) -> Tensor:
    """Return the mean over k = K - J - W .. K - J - 1 of U_k, (n,), of a series p (K, n).

    U_k is the deviation of p_k .. p_(k+J-1), with J - 1 in the denominator. The last window, k = K - J, is left out, as
    in Dyn-Unc (equation 3).
    """
    K = len(p)
    U = p.unfold(0, J, 1).std(-1)  # (K - J + 1, n)
    return U[K - J - W : K - J].mean(0)
