"""RDED: pieces of real images that a teacher is sure of, put together to images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddbench.context import Context
from ddbench.methods.shared.teachers import opinions, taught
from ddbench.methods.shared.validation import at_least, shares
from ddbench.types import DistilledSet, ImageSet


@dataclass(frozen=True)
class RDED:
    """Realistic, diverse and efficient dataset distillation (Sun et al., CVPR 2024, arXiv:2312.03526).

    images: of a class that are looked at, all where it has fewer. crops: pieces tried of each, of which the one that
    the teacher is surest of is kept. factor: an image is factor x factor pieces (0: 2 from 128 px on, else 1, as in the
    public code). smallest: share of an image's area that a piece has at least. soft: keep what the teacher says of each
    image as its soft label, else hard labels. teacher: the student that judges. epochs: passes over the training split
    that it is trained for. least, most: steps, of 32 images, that it is trained at least and at most (0: any number).
    batch: pieces that it looks at at once.
    """

    name: ClassVar[str] = "rded"
    citation: ClassVar[str] = "Sun et al., On the Diversity and Realism of Distilled Dataset, CVPR 2024"
    version: ClassVar[int] = 1
    check_params: ClassVar[dict[str, Any]] = {"crops": 2, "factor": 1, "teacher": "convnet", "epochs": 1, "least": 2}

    images: int = 300
    crops: int = 5
    factor: int = 0
    smallest: float = 0.08
    soft: bool = True
    teacher: Literal["convnet", "resnet18"] = "resnet18"
    epochs: int = 10
    least: int = 1000
    most: int = 0
    batch: int = 256

    def __post_init__(self) -> None:
        at_least(self, images=1, crops=1, factor=0, epochs=1, least=1, most=0, batch=1)
        shares(self, "smallest")

    def distill(self, train: ImageSet, ipc: int, ctx: Context) -> DistilledSet:
        """`ipc` images per class. Raises ValueError naming the classes that have too few images for their pieces."""
        factor = self._factor(train.images.shape[-1])
        wanted = ipc * factor**2
        if few := train.fewer_than(wanted):
            raise ValueError(f"{ipc} images of {factor**2} pieces need {wanted} images per class: {', '.join(few)}")
        if wanted > self.images:
            raise ValueError(f"{ipc} images of {factor**2} pieces need {wanted} images of a class: set images={wanted}")
        model = taught(train, ctx, self.teacher, (self.epochs, self.least, self.most))
        labels = ctx.progress(range(len(train.classes)), "looking at pieces", len(train.classes))
        made = torch.cat([tiled(self._best(train, label, wanted, factor, model, ctx), factor) for label in labels])
        soft = opinions(model, made, ctx) if self.soft else None
        of = torch.arange(len(train.classes)).repeat_interleave(ipc)
        return DistilledSet(made, of, train.classes, train.readable, soft_labels=soft)

    def _factor(self, side: int) -> int:
        factor = self.factor or (2 if side >= 128 else 1)
        if side % factor:
            near = side - side % factor
            raise ValueError(f"{side} px cannot be tiled by {factor} x {factor} pieces: try --size {near}")
        return factor

    def _best(self, train: ImageSet, label: int, wanted: int, factor: int, model: nn.Module, ctx: Context) -> Tensor:
        """The pieces (wanted, 3, h/factor, w/factor) of a class that the teacher is surest of, the surest first."""
        numbers = ctx.generator("rded", train.classes[label])
        rows = train.of_class(label)
        rows = rows[torch.randperm(len(rows), generator=numbers)[: self.images]]
        pieces = torch.stack(
            [cropped(train.images[rows], factor, self.smallest, numbers) for _ in range(self.crops)], 1
        )
        doubt = doubts(model, pieces.flatten(0, 1), label, train.images.shape[-1], self.batch)
        least, which = doubt.view(len(rows), self.crops).min(1)
        kept = pieces[torch.arange(len(rows)), which]
        return kept[least.argsort(stable=True)[:wanted]]


def cropped(images: Tensor, factor: int, smallest: float, numbers: torch.Generator) -> Tensor:
    """One square piece of each uint8 image, of a share of its area from U[smallest, 1], at 1/factor of its side."""
    n, side = len(images), images.shape[-1]
    share = smallest + (1 - smallest) * torch.rand(n, generator=numbers)
    edges = (share.sqrt() * side).round().long().clamp(1, side)
    corners = (torch.rand(n, 2, generator=numbers) * (side - edges + 1)[:, None]).long()
    target = side // factor
    return torch.stack([
        _resized(image[:, y : y + edge, x : x + edge], target)
        for image, edge, (y, x) in zip(images, edges.tolist(), corners.tolist(), strict=True)
    ])  # fmt: skip


def _resized(image: Tensor, side: int) -> Tensor:
    found = F.interpolate(image[None].float(), (side, side), mode="bilinear", antialias=True, align_corners=False)[0]
    return found.round().clamp(0, 255).to(torch.uint8)


@torch.no_grad()
def doubts(model: nn.Module, pieces: Tensor, label: int, side: int, batch: int = 256) -> Tensor:
    """Cross-entropy (n,) of the label for pieces in the middle of a mid-grey image, as the public code has it."""
    where, room = next(model.parameters()).device, side - pieces.shape[-1]
    around = (room // 2, room - room // 2)
    found = []
    for part in pieces.split(batch):
        whole = F.pad(part.to(where).float() / 255 - 0.5, (*around, *around)) + 0.5
        found.append(
            F.cross_entropy(model(whole).float(), torch.full((len(part),), label, device=where), reduction="none")
        )
    return torch.cat(found).cpu()


def tiled(pieces: Tensor, factor: int) -> Tensor:
    """Images of factor x factor pieces, row by row: the first n pieces go to the first cells, the next to others."""
    cells = pieces.unflatten(0, (factor, factor, -1))
    return torch.cat([torch.cat(list(row), -1) for row in cells], -2)
