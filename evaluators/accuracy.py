"""Test a network. Fractions throughout; a table may multiply by 100."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from evaluators.targets import check_labelled
from evaluators.train import logits

BINS = 15
ROWS = 65_536  # images whose probabilities are computed at once


@dataclass(frozen=True)
class Scores:
    """The scores of one network on one test set. Fractions in 0..1, except kappa, which may be below 0.

    overall: share of correct images (sum of the diagonal / n).
    average: mean of `per_class`.
    kappa: Cohen's kappa, agreement beyond chance (0 if chance is 1).
    macro_f1: mean over classes of the harmonic mean of precision and recall (0 for a class that is never correct).
    calibration: expected calibration error (Guo et al. 2017, arXiv:1706.04599, eq. 3), `BINS` equal bins of the highest
        probability.
    per_class: share of correct images of each class (recall).
    confusion: images by true class, then by predicted class.
    n: images.
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

    fp32 everywhere, so that a score does not depend on the precision of training. Raises ValueError for an empty
    set, a label outside the classes, a class without a test image, or a model of another number of classes.
    """
    check_labelled(images, labels, num_classes)
    outputs = torch.cat(list(logits(model, images, device, batch))).cpu()
    if outputs.shape != (len(labels), num_classes):
        raise ValueError(f"the model's output is {tuple(outputs.shape)}, not {(len(labels), num_classes)}")
    return scores(labels, outputs)


def scores(labels: Tensor, outputs: Tensor) -> Scores:
    """Compute the scores of logits (`outputs`, n x classes) for int64 labels (n,), which hold every class."""
    num_classes = outputs.shape[1]
    pairs = torch.bincount(labels * num_classes + outputs.argmax(1), minlength=num_classes**2)
    confusion = pairs.view(num_classes, num_classes)
    table = confusion.double()
    correct, true, predicted = table.diagonal(), table.sum(1), table.sum(0)
    per_class, n = correct / true, true.sum()
    chance = (true * predicted).sum() / n**2
    return Scores(
        overall=float(correct.sum() / len(labels)),
        average=float(per_class.mean()),
        kappa=float((correct.sum() / n - chance) / (1 - chance)) if chance < 1 else 0.0,
        macro_f1=float((2 * correct / (true + predicted)).mean()),
        calibration=calibration_error(labels, outputs),
        per_class=tuple(per_class.tolist()),
        confusion=tuple(map(tuple, confusion.tolist())),
        n=len(labels),
    )


def calibration_error(labels: Tensor, outputs: Tensor, bins: int = BINS) -> float:
    """Compute the mean over images of |accuracy - confidence| of their bin, from logits (`outputs`, n x classes).

    bins: number of intervals of equal width over 0..1, which include their upper ends.
    """
    parts = [part.double().softmax(1).max(1) for part in outputs.split(ROWS)]
    confidence, predicted = (torch.cat(values) for values in zip(*parts, strict=True))
    bin_of = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)
    surplus = (predicted == labels).double() - confidence
    sums = torch.zeros(bins, dtype=torch.float64).index_add(0, bin_of, surplus)
    return float(sums.abs().sum() / len(labels))
