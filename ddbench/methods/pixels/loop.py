"""Images as parameters: start, augmentation, optimizer and result of methods that optimise distilled pixels.

The pixels S are float32 (classes, ipc, 3, h, w), normalised by the training images' statistics, by constants
or whitened (`evaluators.normalisation`). They are stored as 8-bit images at the end; values outside 0..255 are clipped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddbench.context import Context, log
from ddbench.methods.pixels.network import Network, eager_fallback
from ddbench.methods.shared.checkpoint import optimise_with_checkpoints
from ddbench.types import DistilledSet, ImageSet
from evaluators import dsa
from evaluators.normalisation import Normalisation, Whitening, normalisation_of

# settings that these methods share
Normalise = Literal["data", "constant", "zca", "cifar10", "cifar100", "imagenet"]
NORMALISE = (
    "of pixels: training images' mean and deviation (data), constants (0.5, 0.25), whitening (zca), or the constants "
    "that the literature has for a dataset"
)
STORE_FLOAT = "store the pixels also as floats, unrounded and unclipped (`float_images`)"
MANY_SATURATED = 0.2  # share of all values
SHARED = "whitening@1"  # replaces the method in the stage's key; raise it when its content changes


@dataclass(frozen=True)
class RealImages:
    """Real training images, drawn class by class and copied to `device` as they are drawn.

    rows: indices of each class's images in `train`.
    normalisation: of the images, on `device`.
    whitened: all images, float32 (n, 3, h, w) on the CPU, if they are whitened; else they are normalised as drawn.
    """

    train: ImageSet
    device: torch.device
    rows: tuple[Tensor, ...]
    normalisation: Normalisation
    whitened: Tensor | None = None

    @classmethod
    def of(cls, train: ImageSet, ctx: Context, normalise: str) -> RealImages:
        rows = tuple(train.of_class(label) for label in range(len(train.classes)))
        if normalise != "zca":
            return cls(train, ctx.device, rows, normalisation_of(train.images, normalise).to(ctx.device))
        zca = fit_whitening(train, ctx).to(ctx.device)
        whitened = torch.cat([zca.apply(part.to(ctx.device)).cpu() for part in train.images.split(1024)])
        return cls(train, ctx.device, rows, zca, whitened)

    def draw(self, label: int, count: int, generator: torch.Generator) -> Tensor:
        """Draw `count` different images of a class, or all if it has fewer; normalised (n, 3, h, w)."""
        return self.normalised(self.draw_rows(label, count, generator))

    def draw_rows(self, label: int, count: int, generator: torch.Generator) -> Tensor:
        """Draw the indices of `count` different images of a class, or of all if it has fewer."""
        rows = self.rows[label]
        return rows[torch.randperm(len(rows), generator=generator)[:count]]

    def normalised(self, rows: Tensor) -> Tensor:
        """Return the images at `rows`, int64 (n,): normalised float32 (n, 3, h, w) on the device."""
        if self.whitened is not None:
            return self.whitened[rows].to(self.device)
        return self.normalisation.apply(self.train.images[rows].to(self.device))


def fit_whitening(train: ImageSet, ctx: Context) -> Whitening:
    """Return the whitening (ZCA) of the training images, fitted once for all runs and methods."""

    def make(folder: Path) -> None:
        zca = Whitening.fit(train.images)
        save_file({"mean": zca.mean, "matrix": zca.matrix}, folder / "whitening.safetensors")

    folder = replace(ctx, method=SHARED).stage("whitening", make)
    return Whitening.of(**load_file(folder / "whitening.safetensors"))


@dataclass(frozen=True)
class MatchingSetup:
    """The inputs of a method that matches real images: the images, networks, the run's context."""

    real: RealImages
    network: Network
    ctx: Context

    @classmethod
    def of(cls, train: ImageSet, ctx: Context, student: str, compiled: bool, normalise: str) -> MatchingSetup:
        network = Network(student, train.images.shape[-1], len(train.classes), ctx.device, compiled)
        return cls(RealImages.of(train, ctx, normalise), network, ctx)


class MomentumSGD:
    """torch.optim.SGD on one tensor; its momentum starts at 0, so that every checkpoint can hold it.

    values: changed in place. velocity: the momentum, of the same shape. bounds: clamp pixels to grey values 0..255
    after every step, the range that can be stored; None for no bounds.
    """

    def __init__(self, values: Tensor, rate: float, momentum: float, bounds: Normalisation | None = None) -> None:
        self.values, self.bounds, self.velocity = values, bounds, torch.zeros_like(values)
        self._optimizer = torch.optim.SGD([values], rate, momentum)
        self._optimizer.state[values]["momentum_buffer"] = self.velocity

    def step(self, gradient: Tensor) -> None:
        """Take one step. Raises FloatingPointError for a gradient that is not finite, which clamping would hide."""
        if not torch.isfinite(gradient).all():
            raise FloatingPointError("a gradient of the images is not finite: try a smaller learning rate")
        self.values.grad = gradient
        self._optimizer.step()
        if self.bounds:
            self.bounds.clamp_(self.values)


def optimise_pixels(
    setup: MatchingSetup, sgd: MomentumSGD, step: Callable[[int], float], iterations: int, floats: bool, init: str
) -> DistilledSet:
    """Call `step(i)` for every iteration, with checkpoints; it moves the pixels by `sgd` and returns the loss.

    floats: see `to_distilled_set`. init: of `initial_pixels`, to name the images that the pixels started from.
    """
    with eager_fallback():
        state = {"pixels": sgd.values, "velocity": sgd.velocity}
        loss = optimise_with_checkpoints(state, step, iterations, setup.ctx).loss
    starts = start_names(setup.real, sgd.values.shape[1], init, setup.ctx)
    return to_distilled_set(sgd.values, setup.real.train, setup.real.normalisation, floats, loss=loss, **starts)


def initial_pixels(real: RealImages, ipc: int, init: str, ctx: Context) -> Tensor:
    """Return S (classes, ipc, 3, h, w): "real" training images, or "noise" from N(0, 1).

    Raises ValueError naming the classes that have fewer than `ipc` real images.
    """
    shape = (len(real.rows), ipc, *real.train.images.shape[1:])
    if init == "noise":
        return torch.randn(shape, generator=ctx.generator("start")).to(real.device)
    if few := real.train.fewer_than(ipc):
        raise ValueError(f"cannot start from {ipc} real images per class: {', '.join(few)}")
    return real.normalised(start_rows(real, ipc, ctx)).unflatten(0, shape[:2])


def start_rows(real: RealImages, ipc: int, ctx: Context) -> Tensor:
    """Return the indices of the real images that pixels start from, `ipc` per class, class after class."""
    names = enumerate(real.train.classes)
    return torch.cat([real.draw_rows(label, ipc, ctx.generator("start", name)) for label, name in names])


def start_names(real: RealImages, ipc: int, init: str, ctx: Context) -> dict[str, list[str]]:
    """Return the files of the real images that pixels started from as an extra `starts`; none for noise."""
    if init != "real" or not real.train.names:
        return {}
    return {"starts": [real.train.names[i] for i in start_rows(real, ipc, ctx).tolist()]}


def dsa_shared(enabled: bool, generator: torch.Generator, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return one draw of DSA as a function of images: the same operation and numbers for any batch (Siamese)."""
    draw = dsa.draw(1, generator).to(device)
    return (lambda images: dsa.apply(images, draw)) if enabled else (lambda images: images)


def dsa_per_image(images: Tensor, enabled: bool, generator: torch.Generator) -> Tensor:
    """Augment a batch by DSA, one operation for all, with numbers drawn for every image."""
    return dsa.apply(images, dsa.draw(len(images), generator).to(images.device)) if enabled else images


def to_distilled_set(
    pixels: Tensor, train: ImageSet, normalisation: Normalisation, floats: bool = False, **extras: Any
) -> DistilledSet:
    """Convert normalised pixels (classes, ipc, 3, h, w) to an 8-bit set.

    floats: the set also carries the images as they are before rounding and clipping.
    extras: recorded, with the normalisation and the shares of values that were cut off (clipped) and that are now 0 or
    255 (saturated).
    Raises FloatingPointError for a pixel that is not finite.
    """
    pixels = pixels.detach().cpu()
    if not torch.isfinite(pixels).all():
        raise FloatingPointError("a distilled pixel is not finite: try a smaller learning rate of the images")
    grey = normalisation.to("cpu").restore(pixels) * 255
    clipped = float(((grey < -0.5) | (grey > 255.5)).float().mean())
    images = grey.clamp(0, 255).round().to(torch.uint8).flatten(0, 1)
    saturated = float(((images == 0) | (images == 255)).float().mean())
    if saturated > MANY_SATURATED:
        log.warning("%.0f %% of the distilled values are 0 or 255: try a smaller learning rate", 100 * saturated)
    extras |= {"clipped": clipped, "saturated": saturated, "normalise": normalisation.record()}
    return train.distilled(
        images,
        extras=extras,
        float_images=(grey / 255).flatten(0, 1) if floats else None,
        whitening=normalisation.to("cpu") if isinstance(normalisation, Whitening) else None,
    )
