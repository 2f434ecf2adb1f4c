"""The plain data that methods, datasets and the runner pass to one another."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ddbench.context import Context
    from evaluators.normalisation import Whitening

CHECKED_BYTES = 256 << 20  # of the training images are compared before and after; beyond that every k-th image


@dataclass(frozen=True)
class ImageSet:
    """Labelled images.

    images: uint8 (n, 3, h, w), 0..255, may be memory-mapped. labels: int64 (n,), indices into `classes`.
    classes: folder names in label order. readable: the same as words, for prompts ("dense residential area").
    names: where each image comes from ("beach/beach07.tif"), or empty when unknown.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    readable: tuple[str, ...]
    names: tuple[str, ...] = ()

    def of_class(self, label: int) -> Tensor:
        """Return the indices (int64, ascending) of the images of one class."""
        return torch.nonzero(self.labels == label).flatten()

    def rows(self, rows: Tensor) -> ImageSet:
        """Return the images at `rows`, int64 (k,), in their order, with their labels and names."""
        names = tuple(self.names[row] for row in rows.tolist()) if self.names else ()
        return ImageSet(self.images[rows], self.labels[rows], self.classes, self.readable, names)

    def counts(self) -> tuple[int, ...]:
        """Return the number of images per class, in label order."""
        return tuple(torch.bincount(self.labels, minlength=len(self.classes)).tolist())

    def class_labels(self, ipc: int) -> Tensor:
        """Return the labels of `ipc` images of every class, class after class, int64 (classes * ipc,)."""
        return torch.arange(len(self.classes)).repeat_interleave(ipc)

    def distilled(self, images: Tensor, labels: Tensor | None = None, **rest: Any) -> DistilledSet:
        """Return a distilled set of the same classes: uint8 images (n, 3, h, w), their labels int64 (n,).

        labels: None for images class after class, equally many each.
        rest: other fields of the set.
        """
        labels = self.class_labels(len(images) // len(self.classes)) if labels is None else labels
        return DistilledSet(images, labels, self.classes, self.readable, **rest)

    def fewer_than(self, count: int) -> list[str]:
        """Return "class number" for every class with fewer images than `count`, for an error message."""
        return [f"{name} {n}" for name, n in zip(self.classes, self.counts(), strict=True) if n < count]


@dataclass(frozen=True)
class DistilledSet(ImageSet):
    """The result of a method.

    soft_labels: float32 (n, classes), each row probabilities; only from a method that makes its own. Students learn
    from them unless the protocol has hard labels, and they count in the storage budget.
    extras: numbers or text to record (counted fallbacks, a loss), lists and dicts of them. No protocol reads them.
    float_images: float32 (n, 3, h, w), the images before they were rounded to `images`: grey values / 255, which may be
    below 0 and above 1. Protocols that say so train on them; they count in the storage budget.
    learning_rate: of the student, that the method learned with the images (MTT). Protocols that say so train at it.
    whitening: ZCA in which the images were optimised; protocols that whiten use it. It counts in the storage budget.
    weights: of the images in a loss, float32 (n,), at least 0; only their ratios count. Protocols that say so use them;
    they count in the storage budget.
    """

    soft_labels: Tensor | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)
    float_images: Tensor | None = None
    learning_rate: float | None = None
    whitening: Whitening | None = None
    weights: Tensor | None = None

    def check(self, ipc: int) -> None:
        """Raise ValueError unless shapes, types and the budget of `ipc` images per class (0: none) are kept."""
        n = len(self.labels)
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or self.images.shape[:2] != (n, 3):
            raise ValueError(f"images must be uint8 ({n}, 3, h, w), not {self.images.dtype} {tuple(self.images.shape)}")
        valid = (self.labels >= 0) & (self.labels < len(self.classes))
        if self.labels.dtype != torch.int64 or not valid.all():
            raise ValueError(f"labels must be int64 in 0..{len(self.classes) - 1}")
        wrong = [f"{c} {k}" for c, k in zip(self.classes, self.counts(), strict=True) if ipc and k != ipc]
        if wrong:
            raise ValueError(f"every class needs {ipc} images, but: {', '.join(wrong)}")
        if (soft := self.soft_labels) is not None:
            if soft.dtype != torch.float32 or soft.shape != (n, len(self.classes)):
                expected = f"float32 ({n}, {len(self.classes)})"
                raise ValueError(f"soft labels must be {expected}, not {soft.dtype} {tuple(soft.shape)}")
            valid = (soft >= 0).all(1) & ((soft.sum(1) - 1).abs() < 1e-3)
            if not valid.all():
                i = int((~valid).nonzero()[0])
                name = self.classes[int(self.labels[i])]
                raise ValueError(f"soft labels of image {i} (of {name}) are not probabilities: {soft[i].tolist()}")
        if (floats := self.float_images) is not None:
            if floats.dtype != torch.float32 or floats.shape != self.images.shape or not torch.isfinite(floats).all():
                expected = f"finite, float32 {tuple(self.images.shape)}"
                raise ValueError(f"float images must be {expected}, not {floats.dtype} {tuple(floats.shape)}")
            apart = float(((255 * floats).clamp(0, 255) - self.images).abs().max())
            if apart > 1:
                raise ValueError(f"images must be the float images in 8 bits, but differ by {apart:.0f} of 255")
        if self.learning_rate is not None and not math.isfinite(self.learning_rate):
            raise ValueError(f"the learned learning rate must be finite, not {self.learning_rate}")
        if self.whitening is not None and self.whitening.mean.shape != self.images.shape[1:]:
            raise ValueError(f"the whitening is of images {tuple(self.whitening.mean.shape)}")
        if (weights := self.weights) is not None:
            if weights.dtype != torch.float32 or weights.shape != (n,):
                raise ValueError(f"weights must be float32 ({n},), not {weights.dtype} {tuple(weights.shape)}")
            if not (torch.isfinite(weights) & (weights >= 0)).all() or not weights.any():
                raise ValueError("weights must be finite, at least 0, and not all 0")
        if wrong := [key for key, value in self.extras.items() if not _is_plain(value)]:
            raise ValueError(f"extras must be finite numbers, text, or lists and dicts of them; not {', '.join(wrong)}")


def _is_plain(value: Any) -> bool:
    if type(value) in (list, dict):
        return all(_is_plain(inner) for inner in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, str) or (type(value) in (bool, int, float) and math.isfinite(value))


@dataclass(frozen=True)
class Dataset:
    """A split dataset at one size.

    split: the rule in words.
    fingerprint: SHA-256 of the files on each side of the split.
    content: SHA-256 of the pixels of both sides.
    """

    name: str
    train: ImageSet
    test: ImageSet
    split: str
    fingerprint: str
    content: str


class Distiller(Protocol):
    """A method as its author writes it: a frozen dataclass whose fields are its hyper-parameters.

    name: the name in tables and on the command line.
    version: raise it when the numbers may change.
    """

    name: ClassVar[str]
    version: ClassVar[int]

    def distill(self, train: ImageSet, ipc: int, ctx: Context) -> DistilledSet:
        """Turn `train` into `ipc` images per class. Never sees a test image; never changes `train`."""
        ...


class Method(Distiller, Protocol):
    """A method as it is loaded: `registry.with_defaults` fills in what the author left out.

    whole: True for a method that takes every training image; it has no budget and gets ipc 0.
    parallel: True for a method that every process of a launch runs together.
    citation: the paper.
    """

    whole: ClassVar[bool]
    parallel: ClassVar[bool]
    citation: ClassVar[str]

    @property
    def needs_ipc_images(self) -> bool:
        """True if every class needs at least `ipc` training images: a plan refuses a larger number."""
        ...

    def identity(self) -> str:
        """Return what else decides the images, such as the digest of a base model's weights.

        It is called before anything is written, so a UserError (missing weights) comes at once.
        """
        ...

    def check_models(self, readable: Sequence[str]) -> None:
        """Raise UserError for a model that cannot be used for classes of these names (`ImageSet.readable`).

        It is called before the images are packed. Unlike `identity` it may load the model.
        """
        ...


def check_distilled_set(distilled: DistilledSet, train: ImageSet, ipc: int) -> None:
    """Raise ValueError unless the set keeps the classes, the size and the budget of `ipc` per class (0: none)."""
    if not isinstance(distilled, DistilledSet):
        raise ValueError(f"distill must return a DistilledSet, not {type(distilled).__name__}")
    if tuple(distilled.classes) != tuple(train.classes):
        raise ValueError(f"the classes were changed: {distilled.classes} instead of {train.classes}")
    if distilled.images.shape[2:] != train.images.shape[2:]:
        shapes = tuple(distilled.images.shape[2:]), tuple(train.images.shape[2:])
        raise ValueError(f"images are {shapes[0]} pixels, the training images {shapes[1]}")
    distilled.check(ipc)


def checksum(images: ImageSet) -> int:
    """Return the CRC-32 of labels and pixels, to find a method that writes to them; of many images, a part."""
    step = max(1, images.images.numel() // CHECKED_BYTES)
    crc = zlib.crc32(images.labels.numpy().tobytes())
    for part in images.images[::step].split(256):
        crc = zlib.crc32(part.contiguous().numpy().data, crc)
    return crc
