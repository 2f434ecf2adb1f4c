"""Training one student. The whole set lies on the device as uint8; the loop waits for the device once in 20 steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluators import augment
from evaluators.protocols import protocol as named
from evaluators.recipes import Protocol, Recipe
from evaluators.seeds import generator, seed_of
from evaluators.students import Student, build

CHECK_EVERY = 20  # steps between looks at the loss: each look waits for the device
Progress = Callable[[Iterable, str, int], Iterable]


class DivergedError(ArithmeticError):
    """The loss was not finite. step: the first such step, counted from 0. Not an accuracy: record it as a failure."""

    def __init__(self, step: int) -> None:
        super().__init__(f"training diverged: the loss is not finite at step {step}")
        self.step = step


def train_student(  # noqa: PLR0913  the interface of the judge; everything that moves a number is named
    images: Tensor,
    targets: Tensor,
    *,
    student: str,
    protocol: Protocol | str,
    num_classes: int,
    seed: int,
    device: torch.device | str,
    progress: Progress | None = None,
) -> Student:
    """Train a fresh student and return it as it is after the last step, in eval mode, on `device`.

    images: uint8 (n, 3, s, s), may be memory-mapped. targets: int64 (n,), every class present. protocol: a Protocol,
    or the name of one. progress: called as progress(steps, description, total), gives the steps back.
    The same seed gives the same weights on the same machine with the same number of threads. fp32 on a CPU, bf16
    autocast on CUDA. Raises ValueError for bad input before any training, DivergedError for a loss that is not finite.
    """
    protocol = named(protocol) if isinstance(protocol, str) else protocol
    recipe = protocol.recipe(student)
    check_labelled(images, targets, num_classes)
    model = build(student, images.shape[-1], num_classes, seed_of(seed, "weights"))
    model = model.to(device, memory_format=torch.channels_last).train()
    steps = recipe.steps(len(images))
    rates = [learning_rate(recipe, step, steps) for step in range(steps)]
    rates = progress(rates, f"training {student}", steps) if progress else rates
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        _fit(model, batches(images.to(device), targets.to(device), recipe, seed), recipe, rates)
    return model.eval()


def check_labelled(images: Tensor, labels: Tensor, num_classes: int) -> None:
    """Raise ValueError unless these are labelled images with at least one of every class."""
    n = len(images)
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise ValueError(f"images must be uint8 (n, 3, size, size), not {images.dtype} {tuple(images.shape)}")
    if n == 0:
        raise ValueError("there is no image")
    if labels.dtype != torch.int64 or labels.shape != (n,):
        raise ValueError(f"labels must be int64 ({n},), not {labels.dtype} {tuple(labels.shape)}")
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if len(outside):
        raise ValueError(f"label {int(outside[0])} is outside the classes 0..{num_classes - 1}")
    missing = (torch.bincount(labels, minlength=num_classes) == 0).nonzero().flatten().tolist()
    if missing:
        raise ValueError(f"no image of class {', '.join(map(str, missing))} (classes are 0..{num_classes - 1})")


def batches(images: Tensor, targets: Tensor, recipe: Recipe, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless augmented batches: float 0..1 (batch, 3, h, w) and targets, on the device that `images` lie on."""
    numbers = generator(seed, "augment")
    for index in _indices(len(images), recipe.batch, generator(seed, "order")):
        index = index.to(images.device, non_blocking=True)
        drawn = augment.draw(len(index), recipe.augment, numbers).to(images.device)
        yield augment.apply(images[index].float() / 255, drawn, recipe.augment), targets[index]


def _indices(n: int, batch: int, order: torch.Generator) -> Iterator[Tensor]:
    """Batches cut from an endless chain of permutations of 0..n-1."""
    left = torch.empty(0, dtype=torch.int64)
    while True:
        while len(left) < batch:
            left = torch.cat([left, torch.randperm(n, generator=order)])
        yield left[:batch]
        left = left[batch:]


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Of one of the steps 0..steps-1, taken at its middle: linear from 0 to recipe.lr, then half a cosine to 0."""
    done = (step + 0.5) / steps
    if done < recipe.warmup:
        return recipe.lr * done / recipe.warmup
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * (done - recipe.warmup) / (1 - recipe.warmup)))


def _fit(model: Student, stream: Iterator[tuple[Tensor, Tensor]], recipe: Recipe, rates: Iterable[float]) -> None:
    """One step per learning rate, in place."""
    optimizer = _optimizer(model, recipe)  # made once: its momentum survives every change of the learning rate
    losses: list[Tensor] = []
    done = 0
    for rate, (images, targets) in zip(rates, stream, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = rate
        losses.append(_step(model, optimizer, recipe, images, targets))
        if len(losses) == CHECK_EVERY:
            done, losses = _require_finite(losses, done), []
    _require_finite(losses, done)


def _step(model: Student, optimizer: torch.optim.Optimizer, recipe: Recipe, images: Tensor, targets: Tensor) -> Tensor:
    """One step of the optimizer; the loss, left on the device."""
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=images.is_cuda):
        logits = model(images)
    loss = F.cross_entropy(logits.float(), targets, label_smoothing=recipe.label_smoothing)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if recipe.clip:
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    optimizer.step()
    return loss.detach()


def _require_finite(losses: list[Tensor], done: int) -> int:
    """The steps done with these losses, `done` before them; DivergedError for the first that is not finite."""
    bad = (~torch.isfinite(torch.stack(losses))).nonzero().flatten() if losses else []
    if len(bad):
        raise DivergedError(done + int(bad[0]))
    return done + len(losses)


def _optimizer(model: Student, recipe: Recipe) -> torch.optim.Optimizer:
    """Weight decay only on weights of two or more dimensions: not on biases, norms."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.momentum, recipe.beta2), fused=True)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0, fused=True)
