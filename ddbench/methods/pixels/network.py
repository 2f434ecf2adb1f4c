"""A student as a function of its weights, and its gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from torch.utils._pytree import tree_flatten, tree_unflatten

Weights = dict[str, Tensor]


def grad_and_value(function: Callable[..., Tensor]) -> Callable[..., tuple[Any, Tensor]]:
    """torch.func.grad_and_value of a function that is differentiated once.

    torch.func's own keeps the graph of the gradient too, for a second derivative: half as much memory again, unless
    it is compiled.
    """

    def once(first: Any, *rest: Any) -> tuple[Any, Tensor]:
        if torch.compiler.is_compiling():
            return torch.func.grad_and_value(function)(first, *rest)
        parts, form = tree_flatten(first)
        parts = [part.detach().requires_grad_() for part in parts]
        with torch.enable_grad():
            value = function(tree_unflatten(parts, form), *rest)
        return tree_unflatten(torch.autograd.grad(value, parts), form), value.detach()

    return once


def slope(network: Network, weights: Weights, images: Tensor, labels: Tensor) -> Weights:
    """The gradient of the cross-entropy in the weights."""
    return grad_and_value(network.loss)(weights, images, labels)[0]


def stepped(weights: Weights, downhill: Weights, rate: float) -> Weights:
    """The weights after a step of plain SGD."""
    return {name: w - rate * downhill[name] for name, w in weights.items()}


class Network:
    """A student as a function of its weights, so that many can take turns in one compiled function.

    compiled: `run` compiles by torch.compile; where there is no compiler, a warning says so and it runs as it is.
    """

    def __init__(self, student: str, size: int, classes: int, device: torch.device, compiled: bool = False) -> None:
        from evaluators.students import build  # torchvision: seconds that a finished run need not wait for

        self._build = lambda seed: build(student, size, classes, seed)
        self._skeleton = self._build(0).to(device).train()
        self._made: dict[Callable, Callable] = {}
        self.device, self.compiled = device, compiled

    def fresh(self, seed: int) -> Weights:
        """Weights of a new random network; they want no gradient."""
        return {name: part.detach().to(self.device) for name, part in self._build(seed).named_parameters()}

    def features(self, weights: Weights, images: Tensor) -> Tensor:
        """Features (n, d) of normalised images."""
        return functional_call(self._skeleton.body, _below(weights, "body"), (images,))

    def loss(self, weights: Weights, images: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of normalised images."""
        logits = functional_call(self._skeleton.head, _below(weights, "head"), (self.features(weights, images),))
        return F.cross_entropy(logits, labels)

    def run(self, function: Callable) -> Callable:
        """`function(network, ...)` of a module as a function of the rest, compiled once where that is wanted."""
        if function not in self._made:
            bound = partial(function, self)
            self._made[function] = torch.compile(bound, dynamic=False) if self.compiled else bound
        return self._made[function]


def _below(weights: Weights, part: str) -> Weights:
    return {name.removeprefix(f"{part}."): w for name, w in weights.items() if name.startswith(f"{part}.")}


@contextmanager
def falling_back() -> Iterator[None]:
    """Inside, what cannot be compiled runs as it is, with a warning of torch's (`evaluators.train.compiling`)."""
    from evaluators.train import compiling  # torchvision

    with compiling():
        yield
