"""The networks that judge. Each takes images as they are stored; normalisation is part of the network.

`catalog` has a row for each of them.

From scratch, images are normalised by constants; with ImageNet weights as those were trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from evaluators import pretrained
from evaluators.augment import MEAN, STD
from evaluators.catalog import STUDENTS, check_size
from evaluators.networks import body
from evaluators.recipes import INITS, unknown

Channels = tuple[float, float, float]


class Student(nn.Module):
    """body: normalised float (n, 3, h, w) -> features (n, d). head: features -> logits (n, classes).

    size: side of the images, in pixels, that it is made for. mean, std: of the normalisation, one per channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, body: nn.Module, head: nn.Linear, size: int, mean: Channels = (MEAN,) * 3, std: Channels = (STD,) * 3
    ) -> None:
        super().__init__()
        self.size = size
        self.body = body
        self.head = head
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def embed(self, images: Tensor) -> Tensor:
        """Penultimate features (n, d) of uint8 images 0..255, or of float images 0..1."""
        if images.dtype == torch.uint8:
            images = images.float() / 255
        features: Tensor = self.body((images - self.mean) / self.std)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes) of uint8 images 0..255, or of float images 0..1."""
        logits: Tensor = self.head(self.embed(images))
        return logits


def build(student: str, size: int, num_classes: int, seed: int, init: str = "scratch") -> Student:
    """A student for `size` x `size` images, its body fresh or with torchvision's ImageNet weights, its head fresh.

    The same seed gives the same weights; the global random state is left as it was. Raises ValueError for an unknown
    student or init, a size or number of classes it cannot have, and pretrained.WeightsError without the weights' file.
    """
    for kind, name, known in (("student", student, STUDENTS), ("init", init, INITS)):
        if name not in known:
            raise ValueError(unknown(kind, name, known))
    if num_classes < 2:
        raise ValueError(f"students need two classes, not {num_classes}")
    check_size(student, size, init)
    weights = pretrained.state(student) if init == "imagenet" else None
    mean, std = pretrained.look(student) if init == "imagenet" else ((MEAN,) * 3, (STD,) * 3)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also move the CUDA generators
        made, width = body(student, size, weights)
        return Student(made, nn.Linear(width, num_classes), size, mean, std)


def features(
    model: Student,
    images: Tensor,
    device: torch.device | str = "cpu",
    batch: int = 256,
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Penultimate features, float32 (n, d) on the CPU, of uint8 (n, 3, h, w) images streamed in batches.

    prepare: what each batch goes through first, on the device: `augment.resize`, say.
    """
    embed = (lambda part: model.embed(prepare(part))) if prepare else model.embed
    return torch.cat([found.cpu() for found in streamed(model, embed, images, device, batch)])


def streamed(
    model: nn.Module, call: Callable[[Tensor], Tensor], images: Tensor, device: torch.device | str, batch: int
) -> Iterator[Tensor]:
    """What `call`, the model or a part of it, gives of each batch of images, float32 on the device, in eval mode.

    fp32 everywhere, so that what is measured does not depend on how training was sped up.
    """
    model.to(device).eval()
    for part in images.split(batch):
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            found = call(part.to(device, non_blocking=True)).float()
        yield found
