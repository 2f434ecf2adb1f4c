"""Images as parameters: what methods that optimise the distilled pixels themselves share.

The pixels are float32 (classes, ipc, 3, h, w), normalised by the judge's constants (mean 0.5, deviation 0.25), as the
literature keeps them normalised; they are stored as 8-bit at the end, values outside clipped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from ddbench.context import Context, log, show_loss
from ddbench.methods.pixels.network import Network, falling_back
from ddbench.types import DistilledSet, ImageSet
from ddbench.utils.files import Stopwatch, write_bytes
from evaluators import dsa
from evaluators.augment import MEAN, STD

BLACK, WHITE = (0 - MEAN) / STD, (1 - MEAN) / STD  # of normalised pixels
STATE = "pixels.safetensors"
MUCH = 0.2  # of all values at the ends of their range


def normalised(images: Tensor) -> Tensor:
    """uint8 0..255 to float32 as networks see it."""
    return (images.float() / 255 - MEAN) / STD


def stored(pixels: Tensor, train: ImageSet, **extras: Any) -> DistilledSet:
    """Normalised pixels (classes, ipc, 3, h, w) as the 8-bit set they become.

    extras: recorded, with the shares of values that were cut off (clipped) and that are now 0 or 255 (saturated).
    Raises FloatingPointError where a pixel is not finite.
    """
    pixels = pixels.detach().cpu()
    if not torch.isfinite(pixels).all():
        raise FloatingPointError("a distilled pixel is not finite: try a smaller learning rate of the images")
    grey = (pixels * STD + MEAN) * 255
    outside = float(((grey < -0.5) | (grey > 255.5)).float().mean())
    images = grey.clamp(0, 255).round().to(torch.uint8).flatten(0, 1)
    labels = torch.arange(len(train.classes)).repeat_interleave(pixels.shape[1])
    saturated = float(((images == 0) | (images == 255)).float().mean())
    if saturated > MUCH:
        log.warning("%.0f %% of the distilled values are 0 or 255: try a smaller learning rate", 100 * saturated)
    extras |= {"clipped": outside, "saturated": saturated}
    return DistilledSet(images, labels, train.classes, train.readable, extras=extras)


@dataclass(frozen=True)
class Real:
    """Real training images, drawn class by class; they stay where they are and go to `device` as they are drawn."""

    train: ImageSet
    device: torch.device
    rows: tuple[Tensor, ...]

    @classmethod
    def of(cls, train: ImageSet, device: torch.device) -> Real:
        return cls(train, device, tuple(train.of_class(label) for label in range(len(train.classes))))

    def draw(self, label: int, count: int, generator: torch.Generator) -> Tensor:
        """`count` different images of a class, all of them where it has fewer; normalised (n, 3, h, w)."""
        rows = self.rows[label]
        chosen = rows[torch.randperm(len(rows), generator=generator)[:count]]
        return normalised(self.train.images[chosen].to(self.device))


def siamese(wanted: bool, generator: torch.Generator, device: torch.device) -> Callable[[Tensor], Tensor]:
    """One draw of differentiable Siamese augmentation for whatever batch it is called with; or nothing at all."""
    draw = dsa.draw(1, generator).to(device)
    return (lambda images: dsa.apply(images, draw)) if wanted else (lambda images: images)


def through(
    look: Callable[[Tensor], Tensor], pixels: Tensor, slope: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """(gradient, value) in `pixels` of what `slope` gives (gradient, value) of in `look(pixels)`."""
    pixels = pixels.detach().requires_grad_()
    seen = look(pixels)
    gradient, value = slope(seen.detach())
    return torch.autograd.grad(seen, pixels, gradient)[0], value


def looked_at(images: Tensor, wanted: bool, generator: torch.Generator) -> Tensor:
    """A batch augmented by DSA's operations, the numbers drawn for every image; or as it is."""
    return dsa.apply(images, dsa.draw(len(images), generator).to(images.device)) if wanted else images


def start(real: Real, ipc: int, init: str, ctx: Context) -> Tensor:
    """The first pixels: "real" training images, or "noise" from N(0, 1). Raises ValueError for too few real ones."""
    shape = (len(real.rows), ipc, *real.train.images.shape[1:])
    if init == "noise":
        return torch.randn(shape, generator=ctx.generator("start")).to(real.device)
    if few := real.train.fewer_than(ipc):
        raise ValueError(f"cannot start from {ipc} real images per class: {', '.join(few)}")
    names = enumerate(real.train.classes)
    return torch.stack([real.draw(label, ipc, ctx.generator("start", name)) for label, name in names])


def descend(
    parameter: Tensor, gradient: Tensor, velocity: Tensor, rate: float, momentum: float, bounded: bool = False
) -> None:
    """A step of SGD with momentum in place, as torch's: the state that must outlive a kill is `velocity` alone.

    bounded: pixels are then brought back into 0..255, which is what can be stored. Raises FloatingPointError for a
    gradient that is not finite, which that would hide.
    """
    if not torch.isfinite(gradient).all():
        raise FloatingPointError("a gradient of the images is not finite: try a smaller learning rate")
    velocity.mul_(momentum).add_(gradient)
    parameter.sub_(velocity, alpha=rate)
    if bounded:
        parameter.clamp_(BLACK, WHITE)


def by_descent(
    bench: Bench, first: Tensor, move: Callable[[Tensor, Tensor, int], float], iterations: int
) -> DistilledSet:
    """The set that pixels become: `move(pixels, velocity, i)` moves both in place and gives the loss (`optimise`)."""
    velocity = torch.zeros_like(first)
    with falling_back():
        state = {"pixels": first, "velocity": velocity}
        loss = optimise(state, lambda i: move(first, velocity, i), iterations, bench.ctx)
    return stored(first, bench.real.train, loss=loss)


def optimise(
    state: Mapping[str, Tensor], step: Callable[[int], float], steps: int, ctx: Context, every: float = 60.0
) -> float:
    """Have `step(i)`, i = 0..steps-1, move the tensors of `state` in place; the mean loss of the last 100 steps.

    Whatever `step` draws must follow from i alone: every `every` seconds, and at the end, the state is written, and a
    run that was killed goes on from there to the same result. Raises FloatingPointError at the first loss or state that
    is not finite; the last state that was stays where it is.
    """
    path = ctx.workdir / STATE
    begin, recent = _resume(path, state)
    watch, saved = Stopwatch(), 0.0
    bar = ctx.progress(range(begin, steps), "distilling", steps - begin)
    for i in bar:
        recent = [*recent[-99:], step(i)]
        _check_finite(recent[-1], state, i)
        show_loss(bar, recent[-1])
        if watch.seconds - saved >= every or i + 1 == steps:
            _save(path, state, i + 1, recent)
            saved = watch.seconds
    return sum(recent) / max(len(recent), 1)


def _check_finite(loss: float, state: Mapping[str, Tensor], i: int) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss became {loss} at iteration {i}: try a smaller learning rate")
    if off := [name for name, part in state.items() if not torch.isfinite(part).all()]:
        raise FloatingPointError(f"{off[0]} became not finite at iteration {i}: try a smaller learning rate")


def _save(path: Path, state: Mapping[str, Tensor], done: int, recent: list[float]) -> None:
    kept = {name: part.detach().cpu().contiguous() for name, part in state.items()}
    kept |= {"done": torch.tensor(done), "recent": torch.tensor(recent, dtype=torch.float64)}
    write_bytes(path, save(kept))


def _resume(path: Path, state: Mapping[str, Tensor]) -> tuple[int, list[float]]:
    if not path.is_file():
        return 0, []
    kept = load_file(path)
    with torch.no_grad():
        for name, part in state.items():
            part.copy_(kept[name])
    return int(kept["done"]), kept["recent"].tolist()


@dataclass(frozen=True)
class Bench:
    """What a method that optimises pixels works with: real images, networks, the run's context."""

    real: Real
    network: Network
    ctx: Context

    @classmethod
    def of(cls, train: ImageSet, ctx: Context, student: str, compiled: bool) -> Bench:
        network = Network(student, train.images.shape[-1], len(train.classes), ctx.device, compiled)
        return cls(Real.of(train, ctx.device), network, ctx)
