"""Build students and run them. `catalog` has a row for each student.

A student takes images as they are stored; normalisation is part of the network: by constants from scratch, and as the
weights were trained with ImageNet weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from evaluators import pretrained
from evaluators.catalog import STUDENTS, check_size
from evaluators.networks import build_body
from evaluators.normalisation import CONSTANT, Normalisation, Whitening
from evaluators.recipes import INITS, unknown_name


class Student(nn.Module):
    """A network: normalisation, body, linear head.

    body: normalised float (n, 3, h, w) -> features (n, d).
    head: features (n, d) -> logits (n, classes).
    size: px, side of the images that it is built for.
    mean, std: of the normalisation, one per channel in 0..1. matrix: of a whitening, whose mean is an image.
    """

    mean: Tensor
    std: Tensor
    matrix: Tensor | None

    def __init__(self, body: nn.Module, head: nn.Linear, size: int, normalisation: Normalisation = CONSTANT) -> None:
        super().__init__()
        self.size = size
        self.body = body
        self.head = head
        parts = {"mean": normalisation.mean, "std": normalisation.std}
        matrix = normalisation.matrix if isinstance(normalisation, Whitening) else None
        for name, part in (parts | {"matrix": matrix}).items():
            self.register_buffer(name, part, persistent=False)

    def embed(self, images: Tensor) -> Tensor:
        """Return penultimate features (n, d) of uint8 images 0..255, or of float images 0..1."""
        if images.dtype == torch.uint8:
            images = images.float() / 255
        if self.matrix is not None:
            features: Tensor = self.body(Whitening.of(self.mean, self.matrix).apply(images))
            return features
        features = self.body((images - self.mean) / self.std)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (n, classes) of uint8 images 0..255, or of float images 0..1."""
        logits: Tensor = self.head(self.embed(images))
        return logits


def build(
    student: str,
    size: int,
    num_classes: int,
    seed: int,
    init: str = "scratch",
    normalisation: Normalisation = CONSTANT,
) -> Student:
    """Build a student for `size` x `size` images: a body from scratch or with ImageNet weights, and a fresh head.

    normalisation: of a student from scratch; ImageNet weights have their own.
    The same seed gives the same weights; the global random state is unchanged. Raises ValueError for an unknown student
    or init and for a size or number of classes that it cannot have, and pretrained.WeightsError without the weights.
    """
    for kind, name, names in (("student", student, STUDENTS), ("init", init, INITS)):
        if name not in names:
            raise ValueError(unknown_name(kind, name, names))
    if num_classes < 2:
        raise ValueError(f"students need two classes, not {num_classes}")
    check_size(student, size, init)
    weights = pretrained.load_weights(student) if init == "imagenet" else None
    if init == "imagenet":
        mean, std = (torch.tensor(part)[:, None, None] for part in pretrained.normalisation(student))
        normalisation = Normalisation(init, mean, std)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also move the CUDA generators
        body, width = build_body(student, size, weights)
        return Student(body, nn.Linear(width, num_classes), size, normalisation)


def features(
    model: Student,
    images: Tensor,
    device: torch.device | str = "cpu",
    batch: int = 256,
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Compute penultimate features, float32 (n, d) on the CPU, of uint8 (n, 3, h, w) images in batches.

    prepare: applied to each batch on the device before the network, such as `augment.resize`.
    """
    return torch.cat(list(feature_batches(model, images, device, batch, prepare)))


def feature_batches(
    model: Student,
    images: Tensor,
    device: torch.device | str = "cpu",
    batch: int = 256,
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[Tensor]:
    """Yield what `features` returns, batch by batch: for more images than features fit into memory."""
    embed = (lambda part: model.embed(prepare(part))) if prepare else model.embed
    for part in apply_in_batches(model, embed, images, device, batch):
        yield part.cpu()


def apply_in_batches(
    model: nn.Module, call: Callable[[Tensor], Tensor], images: Tensor, device: torch.device | str, batch: int
) -> Iterator[Tensor]:
    """Apply `call`, the model or a part of it, to each batch of images; yield float32 on the device, in eval mode.

    fp32 everywhere, so that a measurement does not depend on the precision of training.
    """
    model.to(device).eval()
    for part in images.split(batch):
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            output = call(part.to(device, non_blocking=True)).float()
        yield output
