"""RDED: pieces of real images that a teacher is sure of, put together to images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddbench.config import param
from ddbench.context import Context
from ddbench.methods.shared.teachers import TRAINING, TeacherConfig, Training, soft_labels, train_teacher
from ddbench.methods.shared.validation import at_least, shares
from ddbench.types import DistilledSet, ImageSet


@dataclass(frozen=True)
class RDED:
    """Realistic, diverse and efficient dataset distillation (Sun et al., CVPR 2024, arXiv:2312.03526)."""

    name: ClassVar[str] = "rded"
    citation: ClassVar[str] = "Sun et al., On the Diversity and Realism of Distilled Dataset, CVPR 2024"
    version: ClassVar[int] = 1
    needs_ipc_images: ClassVar[bool] = True
    check_params: ClassVar[dict[str, Any]] = {"crops": 2, "factor": 1, "teacher": "convnet", "epochs": 1, "least": 2}

    images: int = param(300, "images per class that are cut; all if a class has fewer", "1 or more")
    crops: int = param(5, "pieces cut from each image; the one with the lowest cross-entropy is kept", "1 or more")
    factor: int = param(0, "factor x factor pieces form an image; 0: 2 from 128 px on, else 1, as in the public code")
    smallest: float = param(0.08, "smallest area of a piece, as a share of the image", "0 to 1")
    soft: bool = param(True, "store the teacher's probabilities of each image as its soft label, else hard labels")
    teacher: Literal["convnet", "convnet_bn", "resnet18"] = param("resnet18", "architecture of the teacher")
    epochs: int = param(10, "teacher's passes over the training split", "1 or more")
    least: int = param(1000, "teacher's steps at least, of 32 images", "1 or more")
    most: int = param(0, "teacher's steps at most, of 32 images, 0 for any number")
    batch: int = param(256, "pieces that the teacher sees at once", "1 or more")
    training: Training = param("adamw", f"training of the teacher: {TRAINING}", added_later=True)

    def __post_init__(self) -> None:
        at_least(self, images=1, crops=1, factor=0, epochs=1, least=1, most=0, batch=1)
        shares(self, "smallest")

    def distill(self, train: ImageSet, ipc: int, ctx: Context) -> DistilledSet:
        """Compose `ipc` images per class. Raises ValueError naming the classes with too few images for their pieces."""
        side = train.images.shape[-1]
        factor = self.factor or (2 if side >= 128 else 1)
        pieces = ipc * factor**2  # per class
        if side % factor:
            size = side - side % factor
            raise ValueError(f"{side} px cannot be tiled by {factor} x {factor} pieces: try --size {size}")
        if few := train.fewer_than(pieces):
            raise ValueError(f"{ipc} images of {factor**2} pieces need {pieces} images per class: {', '.join(few)}")
        if pieces > self.images:
            raise ValueError(f"{ipc} images of {factor**2} pieces need {pieces} images of a class: set images={pieces}")
        config = TeacherConfig(self.teacher, self.epochs, self.least, self.most, self.training)
        teacher = train_teacher(train, ctx, config)
        classes = ctx.progress(range(len(train.classes)), "scoring pieces", len(train.classes))
        best = [self._best_pieces(train, c, pieces, factor, teacher, ctx) for c in classes]
        images = torch.cat([tile_pieces(of_class, factor) for of_class, _ in best])
        soft = soft_labels(teacher, images, ctx) if self.soft else None
        # of each image its cells' files, in the order of tile_pieces
        rows = torch.cat([of_class.unflatten(0, (factor**2, ipc)).T for _, of_class in best]).tolist()
        extras = {"pieces": [[train.names[row] for row in of_image] for of_image in rows]} if train.names else {}
        return train.distilled(images, soft_labels=soft, extras=extras)

    def _best_pieces(
        self, train: ImageSet, label: int, count: int, factor: int, teacher: nn.Module, ctx: Context
    ) -> tuple[Tensor, Tensor]:
        """Return a class's `count` pieces (count, 3, h/factor, w/factor) of lowest CE(teacher(piece), y), in order.

        Each image contributes one piece: the one of its `crops` with the lowest cross-entropy. Also returns the rows
        of these images in the training split, int64 (count,).
        """
        numbers, rows = ctx.generator("rded", train.classes[label]), train.of_class(label)
        rows = rows[torch.randperm(len(rows), generator=numbers)[: self.images]]
        crops = [crop_pieces(train.images[rows], factor, self.smallest, numbers) for _ in range(self.crops)]
        pieces = torch.stack(crops, 1)  # (n, crops, 3, h/factor, w/factor)
        scores = label_cross_entropy(teacher, pieces.flatten(0, 1), label, train.images.shape[-1], self.batch)
        lowest, best = scores.view(len(rows), self.crops).min(1)
        best_of_image = pieces[torch.arange(len(rows)), best]
        order = lowest.argsort(stable=True)[:count]
        return best_of_image[order], rows[order]


def crop_pieces(images: Tensor, factor: int, smallest: float, numbers: torch.Generator) -> Tensor:
    """Cut one square piece from each uint8 image and resize it to 1/factor of the image's side.

    The piece's share of the area is drawn from U[smallest, 1]. Returns uint8 (n, 3, h/factor, w/factor).
    """
    n, side = len(images), images.shape[-1]
    share = smallest + (1 - smallest) * torch.rand(n, generator=numbers)
    edges = (share.sqrt() * side).round().long().clamp(1, side)
    corners = (torch.rand(n, 2, generator=numbers) * (side - edges + 1)[:, None]).long()
    size, pieces = (side // factor, side // factor), []
    for image, edge, (y, x) in zip(images, edges.tolist(), corners.tolist(), strict=True):
        piece = image[None, :, y : y + edge, x : x + edge].float()
        piece = F.interpolate(piece, size, mode="bilinear", antialias=True, align_corners=False)[0]
        pieces.append(piece.round().clamp(0, 255).to(torch.uint8))
    return torch.stack(pieces)


@torch.no_grad()
def label_cross_entropy(teacher: nn.Module, pieces: Tensor, label: int, side: int, batch: int = 256) -> Tensor:
    """Return the cross-entropy (n,) of the label for pieces in the middle of a mid-grey image, as in the public code.

    pieces: uint8 (n, 3, h, w). side: of the image, in pixels. batch: pieces at once.
    """
    device, room, scores = next(teacher.parameters()).device, side - pieces.shape[-1], []
    margins = (room // 2, room - room // 2)
    for part in pieces.split(batch):
        images = F.pad(part.to(device).float() / 255 - 0.5, (*margins, *margins)) + 0.5
        labels = torch.full((len(part),), label, device=device)
        scores.append(F.cross_entropy(teacher(images).float(), labels, reduction="none"))
    return torch.cat(scores).cpu()


def tile_pieces(pieces: Tensor, factor: int) -> Tensor:
    """Compose images of factor x factor pieces, row by row.

    The first n of the n * factor^2 pieces form the first cells of the n images, the next n the second cells.
    """
    cells = pieces.unflatten(0, (factor, factor, -1))
    return torch.cat([torch.cat(list(row), -1) for row in cells], -2)
