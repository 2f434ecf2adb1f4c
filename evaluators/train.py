"""Training one student. The whole set lies on the device as uint8; the loop waits for the device once in 20 steps."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluators import augment
from evaluators.protocols import protocol as named
from evaluators.recipes import Protocol, Recipe
from evaluators.seeds import generator, seed_of
from evaluators.students import Student, build, streamed

CHECK_EVERY = 20  # steps between looks at the loss: each look waits for the device
Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]


class DivergedError(ArithmeticError):
    """The loss was not finite, or what the trained network says is not. Not an accuracy: record it as a failure.

    step: the first such step, counted from 0; None for the trained network, whose last update no loss has seen.
    """

    def __init__(self, step: int | None = None) -> None:
        what = "the network's output is not finite" if step is None else f"the loss is not finite at step {step}"
        super().__init__(f"training diverged: {what}")
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
    compiled: bool = False,
) -> Student:
    """Train a fresh student and return it as it is after the last step, in eval mode, on `device`.

    images: uint8 (n, 3, s, s), may be memory-mapped. targets: int64 (n,), every class present, or soft labels, float32
    (n, num_classes), each row probabilities. protocol: a Protocol, or the name of one. progress: called as
    progress(steps, description, total), gives the steps back. compiled: train through torch.compile, which pays where
    layers are small and steps many (the ConvNet on a CPU: docs/protocols.md); rounding differs a little; where there is
    no compiler, a warning says so and training goes on without.
    The same seed gives the same weights on the same machine with the same number of threads; on CUDA only to rounding
    where torch has no deterministic backward (vgg16's adaptive pooling, attention). fp32 on a CPU, bf16 autocast on
    CUDA. Raises ValueError for bad input before any training, DivergedError for a loss that is not finite.
    """
    protocol = named(protocol) if isinstance(protocol, str) else protocol
    recipe = protocol.recipe(student)
    check_targets(images, targets, num_classes)
    model = build(student, images.shape[-1], num_classes, seed_of(seed, "weights"), protocol.init)
    layout = _layout(compiled, device)
    model.to(torch.device(device)).to(memory_format=layout).train()
    steps = recipe.steps(len(images))
    rates: Iterable[float] = [learning_rate(recipe, step, steps) for step in range(steps)]
    rates = progress(rates, f"training {student}", steps) if progress else rates
    recipe = replace(recipe, label_smoothing=0.0) if targets.is_floating_point() else recipe
    targets = as_trained(targets, recipe, num_classes).to(device)
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True), _dropout(seed, device):
        stream = batches(images.to(device), targets, recipe, seed)
        stream = ((x.contiguous(memory_format=layout), y) for x, y in stream)
        with compiling() if compiled else nullcontext():
            _fit(cast(nn.Module, torch.compile(model, dynamic=False)) if compiled else model, stream, recipe, rates)
    return model.eval()


def precision(device: torch.device | str) -> str:
    """What students are trained in: "fp32", or "bf16" (autocast) on a GPU."""
    return "bf16" if torch.device(device).type == "cuda" else "fp32"


def probabilities(model: nn.Module, images: Tensor, device: torch.device | str, batch: int = 256) -> Tensor:
    """What `model` gives each class, float32 (n, classes) on the device, of uint8 (n, 3, s, s) images."""
    return torch.cat(list(logits(model, images, device, batch))).softmax(1)


def logits(model: nn.Module, images: Tensor, device: torch.device | str, batch: int = 256) -> Iterator[Tensor]:
    """Logits (batch, classes) of uint8 images, `streamed`; DivergedError where one is not finite.

    ValueError for a student and images of another size: some networks would take them, and be right less often.
    """
    size = getattr(model, "size", images.shape[-1])
    if images.shape[-2:] != (size, size):
        raise ValueError(f"the student is for {size} px, the images are {images.shape[-1]}x{images.shape[-2]}")
    for found in streamed(model, model, images, device, batch):
        if not torch.isfinite(found).all():
            raise DivergedError
        yield found


def check_targets(images: Tensor, targets: Tensor, num_classes: int) -> None:
    """Raise ValueError unless these are images with hard labels (`check_labelled`) or soft ones (`check_soft`)."""
    if targets.ndim == 2 and targets.is_floating_point():
        check_images(images)
        check_soft(targets, len(images), num_classes)
    else:
        check_labelled(images, targets, num_classes)


def check_labelled(images: Tensor, labels: Tensor, num_classes: int) -> None:
    """Raise ValueError unless these are labelled images with at least one of every class."""
    check_images(images)
    n = len(images)
    if labels.dtype != torch.int64 or labels.shape != (n,):
        raise ValueError(f"labels must be int64 ({n},), not {labels.dtype} {tuple(labels.shape)}")
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if len(outside):
        raise ValueError(f"label {int(outside[0])} is outside the classes 0..{num_classes - 1}")
    missing = (torch.bincount(labels, minlength=num_classes) == 0).nonzero().flatten().tolist()
    if missing:
        raise ValueError(f"no image of class {', '.join(map(str, missing))} (classes are 0..{num_classes - 1})")


def check_images(images: Tensor) -> None:
    """Raise ValueError unless these are square colour images, at least one."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise ValueError(f"images must be uint8 (n, 3, size, size), not {images.dtype} {tuple(images.shape)}")
    if len(images) == 0:
        raise ValueError("there is no image")


def check_soft(labels: Tensor, n: int, num_classes: int) -> None:
    """Raise ValueError unless `labels` are probabilities (n, num_classes), naming the first image that is off."""
    if labels.dtype != torch.float32 or labels.shape != (n, num_classes):
        raise ValueError(f"soft labels must be float32 ({n}, {num_classes}), not {labels.dtype} {tuple(labels.shape)}")
    right = (labels >= 0).all(1) & ((labels.sum(1) - 1).abs() < 1e-3)  # a number that is not finite is neither
    if not right.all():
        first = int((~right).nonzero()[0])
        raise ValueError(f"soft labels of image {first} are not probabilities that sum to 1: {labels[first].tolist()}")


def as_trained(targets: Tensor, recipe: Recipe, num_classes: int) -> Tensor:
    """Targets as the loss takes them: soft ones softened by the temperature, hard ones as a row each where needed."""
    if targets.is_floating_point():
        return (targets.log() / recipe.temperature).softmax(1) if recipe.temperature else targets
    return F.one_hot(targets, num_classes).float() if recipe.temperature or recipe.augment.cutmix else targets


def batches(images: Tensor, targets: Tensor, recipe: Recipe, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless augmented batches: float 0..1 (batch, 3, h, w) and targets, on the device that `images` lie on.

    targets: as `as_trained` gives them.
    """
    numbers = generator(seed, "augment")
    for index in _indices(len(images), recipe, generator(seed, "order")):
        index = index.to(images.device, non_blocking=True)
        drawn = augment.draw(len(index), recipe.augment, numbers).to(images.device)
        pictures = augment.apply(images[index].float() / 255, drawn, recipe.augment)
        yield augment.mix(pictures, targets[index], drawn) if recipe.augment.cutmix else (pictures, targets[index])


def _indices(n: int, recipe: Recipe, order: torch.Generator) -> Iterator[Tensor]:
    """Endless batches: of each permutation of 0..n-1 by itself (whole epochs), or of all of them in a chain."""
    left = torch.empty(0, dtype=torch.int64)
    while True:
        if recipe.whole_epochs:
            yield from torch.randperm(n, generator=order).split(recipe.batch)
            continue
        while len(left) < recipe.batch:
            left = torch.cat([left, torch.randperm(n, generator=order)])
        yield left[: recipe.batch]
        left = left[recipe.batch :]


@contextmanager
def compiling() -> Iterator[None]:
    """What cannot be compiled runs as it is, and torch says so in a line; dropout draws as without the compiler.

    The limit is of shapes per process, all students' together: a few students with a last batch of their own reach
    torch's 8.
    """
    import torch._inductor.config

    said = logging.getLogger("torch._dynamo.convert_frame")
    said.addFilter(_shortened)
    try:
        with (
            torch._dynamo.config.patch(suppress_errors=True, recompile_limit=256),
            torch._inductor.config.patch(fallback_random=True),
        ):
            yield
    finally:
        said.removeFilter(_shortened)


def _shortened(record: logging.LogRecord) -> bool:
    """Of why something was not compiled the reason, instead of pages of traceback."""
    if record.levelno >= logging.WARNING and record.exc_info and record.exc_info[1]:
        error = record.exc_info[1]
        reason = str(error).strip().splitlines() or [""]
        record.msg = f"not compiled, so it runs as it is, slower: {type(error).__name__}: {reason[0]}"
        record.args, record.exc_info, record.exc_text = (), None, None
    return True


@contextmanager
def _dropout(seed: int, device: torch.device | str) -> Iterator[None]:
    """Dropout and stochastic depth draw from torch's global generators: from the seed, and those are put back."""
    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed_of(seed, "dropout"))  # torch.manual_seed would move every GPU's
        if devices:
            with torch.cuda.device(devices[0]):
                torch.cuda.manual_seed(seed_of(seed, "dropout"))
        yield


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Of one of the steps 0..steps-1.

    By milestones: a drop at share m of the steps comes before step round(m * steps). Else taken at the middle of the
    step: linear from 0 to recipe.lr, then half a cosine to 0.
    """
    if recipe.milestones:
        return recipe.lr * recipe.gamma ** sum(step >= round(m * steps) for m in recipe.milestones)
    done = (step + 0.5) / steps
    if done < recipe.warmup:
        return recipe.lr * done / recipe.warmup
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * (done - recipe.warmup) / (1 - recipe.warmup)))


def _fit(network: nn.Module, stream: Iterator[tuple[Tensor, Tensor]], recipe: Recipe, rates: Iterable[float]) -> None:
    """One step per learning rate, in place."""
    optimizer = _optimizer(network, recipe)  # made once: its momentum survives every change of the learning rate
    losses: list[Tensor] = []
    done = 0
    for rate, (images, targets) in zip(rates, stream, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = rate
        losses.append(_step(network, optimizer, recipe, images, targets))
        if len(losses) == CHECK_EVERY:
            done, losses = _require_finite(losses, done), []
    _require_finite(losses, done)


def _step(
    network: nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe, images: Tensor, targets: Tensor
) -> Tensor:
    """One step of the optimizer; the loss, left on the device."""
    half = precision(images.device) == "bf16"
    with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
        logits = network(images)
    loss = _loss(logits.float(), targets, recipe)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if recipe.clip:
        nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
    optimizer.step()
    return loss.detach()


def _loss(logits: Tensor, targets: Tensor, recipe: Recipe) -> Tensor:
    if recipe.temperature:
        return F.kl_div(F.log_softmax(logits / recipe.temperature, 1), targets, reduction="batchmean")
    return F.cross_entropy(logits, targets, label_smoothing=recipe.label_smoothing)


def _require_finite(losses: list[Tensor], done: int) -> int:
    """The steps done with these losses, `done` before them; DivergedError for the first that is not finite."""
    bad = (~torch.isfinite(torch.stack(losses))).nonzero().flatten().tolist() if losses else []
    if bad:
        raise DivergedError(done + bad[0])
    return done + len(losses)


def _layout(compiled: bool, device: torch.device | str) -> torch.memory_format:
    """Channels last, but for compiled code on a CPU, which chooses for itself and was slower with them."""
    plain = compiled and torch.device(device).type == "cpu"
    return torch.contiguous_format if plain else torch.channels_last


def _optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Weight decay only on weights of two or more dimensions, not on biases and norms, unless decay_all."""
    parameters = list(network.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": recipe.weight_decay * recipe.decay_all},
    ]
    if recipe.optimizer != "sgd":
        kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
        return kind(groups, lr=recipe.lr, betas=(recipe.momentum, recipe.beta2), fused=True)
    nesterov = recipe.nesterov and recipe.momentum > 0
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov, fused=True)
