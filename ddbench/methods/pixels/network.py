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


class Network:
    """A student as a function of its weights, so that many sets of weights share one compiled function.

    compiled: `run` uses torch.compile; without a compiler a warning is logged and the function runs uncompiled.
    """

    def __init__(self, student: str, size: int, classes: int, device: torch.device, compiled: bool = False) -> None:
        from evaluators.students import build  # imports torchvision: takes seconds

        self._build = lambda seed: build(student, size, classes, seed)
        self._skeleton = self._build(0).to(device).train()
        self._functions: dict[Callable, Callable] = {}
        self.device, self.compiled = device, compiled

    def draw(self, seed: int) -> Weights:
        """Draw the weights of a new random network, on the CPU; they require no gradient."""
        return {name: part.detach() for name, part in self._build(seed).named_parameters()}

    def fresh(self, seed: int) -> Weights:
        """Draw the weights of a new random network, on the device; they require no gradient."""
        return {name: part.to(self.device) for name, part in self.draw(seed).items()}

    def features(self, weights: Weights, images: Tensor) -> Tensor:
        """Return the features (n, d) of normalised images (n, 3, h, w)."""
        return functional_call(self._skeleton.body, _part_weights(weights, "body"), (images,))

    def logits(self, weights: Weights, images: Tensor) -> Tensor:
        """Return the logits (n, classes) of normalised images (n, 3, h, w)."""
        logits: Tensor = functional_call(
            self._skeleton.head, _part_weights(weights, "head"), (self.features(weights, images),)
        )
        return logits

    def loss(self, weights: Weights, images: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy of normalised images (n, 3, h, w); labels: (n,), or probabilities (n, c)."""
        return F.cross_entropy(self.logits(weights, images), labels)

    def run(self, function: Callable) -> Callable:
        """Bind `function(network, ...)` of a module to this network; compile it once if `compiled`."""
        if function not in self._functions:
            bound = partial(function, self)
            self._functions[function] = torch.compile(bound, dynamic=False) if self.compiled else bound
        return self._functions[function]


def _part_weights(weights: Weights, part: str) -> Weights:
    return {name.removeprefix(f"{part}."): w for name, w in weights.items() if name.startswith(f"{part}.")}


def grad_and_value(function: Callable[..., Tensor]) -> Callable[..., tuple[Any, Tensor]]:
    """Differentiate a function once in its first argument, as torch.func.grad_and_value does.

    torch.func's own also keeps the graph of the gradient for a second derivative: half as much memory again, unless
    it is compiled.
    """

    def differentiate(first: Any, *rest: Any) -> tuple[Any, Tensor]:
        if torch.compiler.is_compiling():
            return torch.func.grad_and_value(function)(first, *rest)
        parts, form = tree_flatten(first)
        parts = [part.detach().requires_grad_() for part in parts]
        with torch.enable_grad():
            value = function(tree_unflatten(parts, form), *rest)
        return tree_unflatten(torch.autograd.grad(value, parts), form), value.detach()

    return differentiate


def weight_gradient(network: Network, weights: Weights, images: Tensor, labels: Tensor) -> Weights:
    """Return the gradient of the cross-entropy with respect to the weights."""
    return grad_and_value(network.loss)(weights, images, labels)[0]


def sgd_step(weights: Weights, gradient: Weights, rate: float) -> Weights:
    """Return the weights after a step of plain SGD."""
    return {name: w - rate * gradient[name] for name, w in weights.items()}


def backprop_through(
    augment: Callable[[Tensor], Tensor], pixels: Tensor, grad_fn: Callable[[Tensor], tuple[Tensor, Any]]
) -> tuple[Tensor, Any]:
    """Apply the chain rule: return the gradient with respect to `pixels`, and the value of `grad_fn`.

    grad_fn: maps x = augment(pixels) to the loss's gradient with respect to x, and any value.
    """
    pixels = pixels.detach().requires_grad_()
    x = augment(pixels)
    gradient, value = grad_fn(x.detach())
    return torch.autograd.grad(x, pixels, gradient)[0], value


@contextmanager
def eager_fallback() -> Iterator[None]:
    """Run code that cannot be compiled uncompiled, with a warning (`evaluators.compilation.compiler_fallback`)."""
    from evaluators.compilation import compiler_fallback  # imports torchvision

    with compiler_fallback():
        yield
