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
from ddbench.methods.shared.checkpoint import Loss, optimise_with_checkpoints
from ddbench.methods.shared.device import resident, to_device
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
WIDTH = 128  # channels of the ConvNet
MANY_SATURATED = 0.2  # share of all values
SHARED = "whitening@1"  # replaces the method in the stage's key; raise it when its content changes


@dataclass(frozen=True)
class RealImages:
    """Real training images, drawn class by class.

    rows: indices of each class's images in `train`.
    normalisation: of the images, on `device`.
    images: all, uint8, or float32 if they are whitened; on the GPU if they fit, else copied as they are drawn.
    """

    train: ImageSet
    device: torch.device
    rows: tuple[Tensor, ...]
    normalisation: Normalisation
    images: Tensor

    @classmethod
    def of(cls, train: ImageSet, ctx: Context, normalise: str) -> RealImages:
        rows = tuple(train.of_class(label) for label in range(len(train.classes)))
        if normalise != "zca":
            normalisation = normalisation_of(train.images, normalise).to(ctx.device)
            return cls(train, ctx.device, rows, normalisation, resident(train.images, ctx.device))
        zca = fit_whitening(train, ctx).to(ctx.device)
        whitened = torch.cat([zca.apply(part.to(ctx.device)).cpu() for part in train.images.split(1024)])
        return cls(train, ctx.device, rows, zca, resident(whitened, ctx.device))

    def draw(self, label: int, count: int, generator: torch.Generator) -> Tensor:
        """Draw `count` different images of a class, or all if it has fewer; normalised (n, 3, h, w)."""
        return self.normalised(self.draw_rows(label, count, generator))

    def draw_rows(self, label: int, count: int, generator: torch.Generator) -> Tensor:
        """Draw the indices of `count` different images of a class, or of all if it has fewer."""
        rows = self.rows[label]
        return rows[torch.randperm(len(rows), generator=generator)[:count]]

    def normalised(self, rows: Tensor) -> Tensor:
        """Return the images at `rows`, int64 (n,): normalised float32 (n, 3, h, w) on the device."""
        return self.normalise(self.stored(rows).to(self.device))

    def stored(self, rows: Tensor) -> Tensor:
        """Return the images at `rows`, int64 (n,), as they are in `images`; the host does not wait for a GPU."""
        return self.images[to_device(rows, self.images.device)]

    def normalise(self, stored: Tensor) -> Tensor:
        """Normalise images of `stored` that are on the device; whitened ones are so already."""
        return self.normalisation.apply(stored) if stored.dtype == torch.uint8 else stored


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

    def passes(self, batch: int) -> list[slice]:
        """Cut the classes into those that a pass takes together, with `batch` real images of each.

        One on a CPU. On a GPU as many as its memory allows: the features of the first layer, 128 channels, take at most
        a thirty-second of it. So the sums of a class do not depend on what else uses the GPU.
        """
        at_once, classes = 1, len(self.real.rows)
        if self.ctx.device.type == "cuda":
            features = 4 * WIDTH * batch * self.real.images[0, 0].numel()
            at_once = max(1, torch.cuda.get_device_properties(self.ctx.device).total_memory // 32 // features)
        return [slice(first, min(first + at_once, classes)) for first in range(0, classes, at_once)]


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
        self.move(gradient)

    def move(self, gradient: Tensor) -> None:
        """Take one step without a look at the gradient, which would wait for a GPU."""
        self.values.grad = gradient
        self._optimizer.step()
        if self.bounds:
            self.bounds.clamp_(self.values)


def optimise_pixels(
    setup: MatchingSetup, sgd: MomentumSGD, step: Callable[[int], Loss], iterations: int, floats: bool, init: str
) -> DistilledSet:
    """Call `step(i)` for every iteration, with checkpoints; it moves the pixels by `sgd` and returns the loss.

    floats: see `to_distilled_set`. init: of `initial_pixels`, to name the images that the pixels started from.
    """
    with eager_fallback():
        state = {"pixels": sgd.values, "velocity": sgd.velocity}
        loss = optimise_with_checkpoints(state, step, iterations, setup.ctx).loss
    starts = start_names(setup.real, sgd.values.shape[1], init, setup.ctx)
    return to_distilled_set(sgd.values, setup.real.train, setup.real.normalisation, floats, loss=loss, **starts)


class PixelMethod:
    """Methods that optimise pixels (not a method by itself).

    init: "real" training images, or "noise".
    """

    init: str

    @property
    def needs_ipc_images(self) -> bool:
        """True if the pixels start from real images."""
        return self.init == "real"


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


def dsa_groups(enabled: bool, operations: Tensor, numbers: Tensor) -> Callable[..., Tensor]:
    """Return draws of DSA, one of each class, as a function of images and `sizes`, their number in each class."""
    return (lambda x, sizes: dsa.apply_groups(x, operations, numbers, sizes)) if enabled else (lambda x, sizes: x)


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
