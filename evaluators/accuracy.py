"""How often a network is right. Fractions throughout; a table may multiply by 100."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from evaluators.train import check_labelled


@dataclass(frozen=True)
class Scores:
    """Of one network on one test set; accuracies are fractions in 0..1.

    overall: share of images that are right (sum of the diagonal / n). average: mean over classes of `per_class`, which
    is each class's share of right images (recall). confusion[true][predicted]: numbers of images. n: images.
    """

    overall: float
    average: float
    per_class: tuple[float, ...]
    confusion: tuple[tuple[int, ...], ...]
    n: int


def evaluate(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    device: torch.device | str,
    batch: int = 256,
) -> Scores:
    """Test `model` (logits of uint8 images) on uint8 (n, 3, s, s), streamed in batches, with int64 labels (n,).

    fp32 everywhere, so that a test score does not depend on how training was sped up. Raises ValueError for an empty
    set, a label outside the classes, or a class without a test image.
    """
    check_labelled(images, labels, num_classes)
    model = model.to(device).eval()
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        parts = [model(part.to(device, non_blocking=True)).argmax(1) for part in images.split(batch)]
    return scores(labels, torch.cat(parts).cpu(), num_classes)


def scores(labels: Tensor, predicted: Tensor, num_classes: int) -> Scores:
    """Scores of int64 predictions (n,) against int64 labels (n,), every class among the labels."""
    pairs = torch.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    confusion = pairs.view(num_classes, num_classes)
    right = confusion.diagonal().double()
    per_class = right / confusion.sum(1)
    return Scores(
        overall=float(right.sum() / len(labels)),
        average=float(per_class.mean()),
        per_class=tuple(per_class.tolist()),
        confusion=tuple(map(tuple, confusion.tolist())),
        n=len(labels),
    )
