"""Train one student. The loop waits for the device once in 20 steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluators.batches import batches
from evaluators.compilation import compiler_fallback
from evaluators.cuda_graph import GraphedStep, Step
from evaluators.normalisation import CONSTANT, Normalisation
from evaluators.protocols import protocol as named
from evaluators.recipes import Protocol, Recipe
from evaluators.resume import TrainingState, changing_tensors, restore
from evaluators.seeds import seed_of, seeded_dropout
from evaluators.students import Student, apply_in_batches, build
from evaluators.targets import check_targets, check_weights, prepare_targets, prepare_teacher, view_labels, weigh

CHECK_EVERY = 20  # steps between checks of the loss: a check waits for the device
Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]


class DivergedError(ArithmeticError):
    """The loss, or the output of the trained network, is not finite. Record a failure, not an accuracy.

    step: the first such step, from 0; None for the output, as no loss follows the last update.
    """

    def __init__(self, step: int | None = None) -> None:
        reason = "the network's output is not finite" if step is None else f"the loss is not finite at step {step}"
        super().__init__(f"training diverged: {reason}")
        self.step = step


def train_student(  # noqa: PLR0913  public and keyword-only; every argument changes the result
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
    graphs: bool = True,
    state: TrainingState | None = None,
    normalisation: Normalisation = CONSTANT,
    observe: Callable[[Student], None] | None = None,
    teacher: nn.Module | None = None,
    weights: Tensor | None = None,
) -> Student:
    """Train a fresh student; return it after the last step, in eval mode, on `device`.

    images: uint8 (n, 3, s, s), may be memory-mapped; or float32, grey values / 255, if the protocol has `float_images`.
    targets: int64 (n,), every class present, or soft labels, float32 (n, num_classes), each row probabilities.
    protocol: a Protocol or its name.
    progress: called as progress(steps, description, total), returns the steps.
    compiled: train through torch.compile (docs/protocols.md). Rounding differs a little. Without a compiler it warns.
    graphs: on a GPU, run a step as a CUDA graph (evaluators.cuda_graph): the same kernels, so the same weights.
    state: storage from which a training that was interrupted continues, to the same weights.
    normalisation: `normalisation_of(real training images, recipe.normalise)`.
    teacher: gives the labels of every augmented view (`view_labels`) in place of `targets`; None for no such labels. A
        protocol with labels = "views" needs it.
    weights: of the images in the loss, float32 (n,), at least 0; their mean counts as 1. None for equal weights. Only a
        protocol with `image_weights` takes them.
    observe: called with the network, in eval mode, recipe.tests times during training, before the `state` of that step
        is saved. It cannot change the training.

    The same seed gives the same weights on the same machine with the same number of threads; on CUDA only up to
    rounding where torch has no deterministic backward (vgg16's adaptive pooling, attention). fp32 on a CPU; bf16
    autocast on CUDA, unless the recipe says fp32. Raises ValueError for bad input before any training, DivergedError
    for a loss that is not finite.
    """
    protocol = named(protocol) if isinstance(protocol, str) else protocol
    recipe = protocol.recipe(student).for_set(len(images), num_classes)
    check_targets(images, targets, num_classes, protocol.float_images)
    if recipe.learned_rate:
        raise ValueError(f"{protocol.title} takes a set's learned rate: pass protocol.at_rate({student!r}, rate)")
    if weights is not None:
        check_weights(weights, len(images))
        if not protocol.image_weights:
            raise ValueError(f"{protocol.title} has no image_weights: leave out the weights")
    if (protocol.labels == "views") != (teacher is not None):
        raise ValueError(
            f"{protocol.title} has labels {protocol.labels!r}; a teacher of views is needed for 'views' only"
        )
    if normalisation.kind != recipe.normalise:
        raise ValueError(f"the recipe normalises by {recipe.normalise!r}, the normalisation is {normalisation.kind!r}")
    model = build(student, images.shape[-1], num_classes, seed_of(seed, "weights"), protocol.init, normalisation)
    # channels last, except for compiled code on a CPU, which is slower with them
    plain = compiled and torch.device(device).type == "cpu"
    layout = torch.contiguous_format if plain else torch.channels_last
    model.to(torch.device(device)).to(memory_format=layout).train()
    steps = recipe.steps(len(images))
    recipe = replace(recipe, label_smoothing=0.0) if targets.is_floating_point() else recipe
    targets = prepare_targets(targets, recipe, num_classes)
    if weights is not None:
        targets, recipe = weigh(targets, weights, recipe, num_classes), replace(recipe, label_smoothing=0.0)
    targets = targets.to(device)
    flags = {"enabled": True, "benchmark": False, "deterministic": True, "allow_tf32": recipe.precision != "fp32"}
    with torch.backends.cudnn.flags(**flags), seeded_dropout(seed, device):
        optimizer = _make_optimizer(model, recipe)
        start, tensors = state.load() if state else (0, {})
        if tensors:
            restore(tensors, model, optimizer)
        rates: Iterable[tuple[int, float]] = [(i, learning_rate(recipe, i, steps)) for i in range(start, steps)]
        rates = progress(rates, f"training {student}", steps - start) if progress else rates
        images = images.to(device)
        stream = batches(images, targets, recipe, seed, start, normalisation.to(device))
        stream = ((x.contiguous(memory_format=layout), y) for x, y in stream)
        if labeller := teacher and prepare_teacher(teacher, protocol.teacher_statistics).to(device).eval():
            stream = ((x, view_labels(labeller, x, recipe)) for x, _ in stream)
        every = max(1, steps // recipe.tests) if observe and recipe.tests else 0

        def after_step(step: int) -> None:
            """Observe, then save: a saved state of `step` steps implies the observations of these steps."""
            if observe and every and step % every == 0:
                observe(model.eval())
                model.train()
            if state and step % CHECK_EVERY == 0:
                state.save(step, changing_tensors(model, optimizer))

        with compiler_fallback() if compiled else nullcontext():
            network = cast(nn.Module, torch.compile(model, dynamic=False)) if compiled else model
            step: Step = partial(_step, network, optimizer, recipe)
            step = GraphedStep(step) if graphs and images.device.type == "cuda" else step
            _fit(step, optimizer, zip(rates, stream, strict=False), recipe, after_step, _drops(recipe, steps))
    return model.eval()


def precision(recipe: Recipe, device: torch.device | str) -> str:
    """Return the precision of training on a device: "fp32", or "bf16" (autocast) on a GPU."""
    return "bf16" if torch.device(device).type == "cuda" and recipe.precision == "auto" else "fp32"


def probabilities(model: nn.Module, images: Tensor, device: torch.device | str, batch: int = 256) -> Tensor:
    """Compute class probabilities, float32 (n, classes) on the device, of uint8 (n, 3, s, s) images."""
    return torch.cat(list(logits(model, images, device, batch))).softmax(1)


def logits(model: nn.Module, images: Tensor, device: torch.device | str, batch: int = 256) -> Iterator[Tensor]:
    """Compute logits (batch, classes) of uint8 images, batch by batch (`apply_in_batches`).

    Raises DivergedError for logits that are not finite, and ValueError for images of another size than the student's:
    some networks would accept them and be less accurate.
    """
    size = getattr(model, "size", images.shape[-1])
    if images.shape[-2:] != (size, size):
        raise ValueError(f"the student is for {size} px, the images are {images.shape[-1]}x{images.shape[-2]}")
    for outputs in apply_in_batches(model, model, images, device, batch):
        if not torch.isfinite(outputs).all():
            raise DivergedError
        yield outputs


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Return the learning rate of a step in 0..steps-1.

    With milestones: a drop at share m of the steps comes before step round(m * steps). Else the value at the middle of
    the step: linear from 0 to recipe.lr, then half a cosine to 0, or the first `cosine_share` of it.
    """
    if recipe.milestones:
        return recipe.lr * recipe.gamma ** sum(step >= drop for drop in _drops(recipe, steps))
    done = (step + 0.5) / steps
    if done < recipe.warmup:
        return recipe.lr * done / recipe.warmup
    fallen = recipe.cosine_share * (done - recipe.warmup) / (1 - recipe.warmup)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * fallen))


def _drops(recipe: Recipe, steps: int) -> list[int]:
    """Return the first step after each milestone."""
    return [round(milestone * steps) for milestone in recipe.milestones]


def _fit(
    step: Step,
    optimizer: torch.optim.Optimizer,
    work: Iterable[tuple[tuple[int, float], tuple[Tensor, Tensor]]],
    recipe: Recipe,
    after_step: Callable[[int], None],
    drops: Container[int],
) -> None:
    """Take the steps of a training; call after_step(steps done) after each. Raises DivergedError.

    work: ((number of the step, learning rate), (images, targets)) of every step.
    drops: steps at which the optimizer begins anew if the recipe says so; else it keeps its momentum throughout.
    """
    losses: list[Tensor] = []  # of the steps since the last check; they stay on the device until then
    i = -1
    for (i, rate), (images, targets) in work:
        if recipe.new_optimizer and i in drops:
            optimizer.state.clear()
            if isinstance(step, GraphedStep):
                step.forget()
        for group in optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        losses.append(step(images, targets))
        if len(losses) == CHECK_EVERY:
            _require_finite(losses, i + 1 - len(losses))
            losses = []
        after_step(i + 1)
    _require_finite(losses, i + 1 - len(losses))


def _step(
    network: nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe, images: Tensor, targets: Tensor
) -> Tensor:
    """Change the weights of a network in place by one step; return the loss, a scalar."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision(recipe, images.device) == "bf16"):
        outputs = network(images)
    loss = _loss(outputs.float(), targets, recipe)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if recipe.clip:
        nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
    optimizer.step()
    return loss.detach()


def _loss(outputs: Tensor, targets: Tensor, recipe: Recipe) -> Tensor:
    if recipe.temperature:
        factor = recipe.temperature**2 if recipe.temperature_squared else 1
        return factor * F.kl_div(F.log_softmax(outputs / recipe.temperature, 1), targets, reduction="batchmean")
    return F.cross_entropy(outputs, targets, label_smoothing=recipe.label_smoothing)


def _require_finite(losses: list[Tensor], first: int) -> None:
    """Raise DivergedError for the first loss that is not finite. first: step of the first of the losses."""
    wrong = (~torch.isfinite(torch.stack(losses))).nonzero().flatten().tolist() if losses else []
    if wrong:
        raise DivergedError(first + wrong[0])


def _make_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Make the optimizer; only weights of two or more dimensions decay, not biases and norms, unless decay_all.

    On a GPU the learning rate is a tensor, which a CUDA graph can read anew in every step.
    """
    parameters = list(network.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": recipe.weight_decay * recipe.decay_all},
    ]
    device = parameters[0].device
    on_gpu = device.type == "cuda"
    rate = torch.tensor(recipe.lr, device=device) if on_gpu else recipe.lr
    if recipe.optimizer != "sgd":
        kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
        return kind(groups, lr=rate, betas=(recipe.momentum, recipe.beta2), fused=True, capturable=on_gpu)
    nesterov = recipe.nesterov and recipe.momentum > 0
    return torch.optim.SGD(groups, lr=rate, momentum=recipe.momentum, nesterov=nesterov, fused=True)
