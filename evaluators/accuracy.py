"""How often a network is right. Fractions throughout; a table may multiply by 100."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from evaluators.train import check_labelled, logits

BINS = 15


@dataclass(frozen=True)
class Scores:
    """Of one network on one test set. Fractions in 0..1, but kappa, which may be below 0.

    overall: share of images that are right (sum of the diagonal / n). average: mean over classes of `per_class`, which
    is each class's share of right images (recall). kappa: Cohen's, agreement beyond chance (0 where chance is 1).
    macro_f1: mean over classes of the harmonic mean of precision and recall (0 for a class never right).
    calibration: expected calibration error (Guo et al. 2017, arXiv:1706.04599, eq. 3), `BINS` equal bins of the highest
    probability. confusion[true][predicted]: numbers of images. n: images.
    """

    overall: float
    average: float
    kappa: float
    macro_f1: float
    calibration: float
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
    set, a label outside the classes, a class without a test image, or a model of another number of classes.
    """
    check_labelled(images, labels, num_classes)
    found = torch.cat(list(logits(model, images, device, batch))).cpu()
    if found.shape != (len(labels), num_classes):
        raise ValueError(f"the model's output is {tuple(found.shape)}, not {(len(labels), num_classes)}")
    return scores(labels, found)


def scores(labels: Tensor, found: Tensor) -> Scores:
    """Scores of logits (`found`, n x classes) against int64 labels (n,), every class among the labels."""
    num_classes = found.shape[1]
    pairs = torch.bincount(labels * num_classes + found.argmax(1), minlength=num_classes**2)
    confusion = pairs.view(num_classes, num_classes)
    table = confusion.double()
    right, true, predicted = table.diagonal(), table.sum(1), table.sum(0)
    per_class = right / true
    return Scores(
        overall=float(right.sum() / len(labels)),
        average=float(per_class.mean()),
        kappa=_kappa(right, true, predicted),
        macro_f1=float((2 * right / (true + predicted)).mean()),
        calibration=calibration_error(labels, found),
        per_class=tuple(per_class.tolist()),
        confusion=tuple(map(tuple, confusion.tolist())),
        n=len(labels),
    )


def calibration_error(labels: Tensor, found: Tensor, bins: int = BINS) -> float:
    """Mean over images of |accuracy - confidence| of their bin, from logits (`found`).

    `bins` are of equal width over 0..1, their upper ends included.
    """
    confidence, predicted = found.double().softmax(1).max(1)
    bin_of = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)
    surplus = (predicted == labels).double() - confidence
    sums = torch.zeros(bins, dtype=torch.float64).index_add(0, bin_of, surplus)
    return float(sums.abs().sum() / len(labels))


def _kappa(right: Tensor, true: Tensor, predicted: Tensor) -> float:
    n = true.sum()
    chance = (true * predicted).sum() / n**2
    return float((right.sum() / n - chance) / (1 - chance)) if chance < 1 else 0.0
