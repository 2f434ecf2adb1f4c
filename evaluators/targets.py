"""The labels that a student learns: checked, softened, or a teacher's of every view."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluators.recipes import Recipe


def check_targets(images: Tensor, targets: Tensor, num_classes: int, floats: bool = False) -> None:
    """Raise ValueError unless the targets are hard labels (`check_labelled`) of the images, or soft ones.

    Soft labels are probabilities, float32 (n, num_classes). floats: see `check_images`.
    """
    if targets.ndim != 2 or not targets.is_floating_point():
        check_labelled(images, targets, num_classes, floats)
        return
    check_images(images, floats)
    shape = len(images), num_classes
    if targets.dtype != torch.float32 or targets.shape != shape:
        raise ValueError(f"soft labels must be float32 {shape}, not {targets.dtype} {tuple(targets.shape)}")
    valid = (targets >= 0).all(1) & ((targets.sum(1) - 1).abs() < 1e-3)  # False for a number that is not finite
    if not valid.all():
        first = int((~valid).nonzero()[0])
        raise ValueError(f"soft labels of image {first} are not probabilities that sum to 1: {targets[first].tolist()}")


def check_labelled(images: Tensor, labels: Tensor, num_classes: int, floats: bool = False) -> None:
    """Raise ValueError unless `labels` are labels of the images, int64 (n,), and every class has an image."""
    check_images(images, floats)
    n = len(images)
    if labels.dtype != torch.int64 or labels.shape != (n,):
        raise ValueError(f"labels must be int64 ({n},), not {labels.dtype} {tuple(labels.shape)}")
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if len(outside):
        raise ValueError(f"label {int(outside[0])} is outside the classes 0..{num_classes - 1}")
    missing = (torch.bincount(labels, minlength=num_classes) == 0).nonzero().flatten().tolist()
    if missing:
        raise ValueError(f"no image of class {', '.join(map(str, missing))} (classes are 0..{num_classes - 1})")


def check_images(images: Tensor, floats: bool = False) -> None:
    """Raise ValueError unless `images` are square colour images, uint8 (n, 3, size, size), n at least 1.

    floats: finite float32 will do too.
    """
    square = images.ndim == 4 and images.shape[1] == 3 and images.shape[2] == images.shape[3]
    if not square or images.dtype not in ((torch.uint8, torch.float32) if floats else (torch.uint8,)):
        kinds = "uint8 or float32" if floats else "uint8"
        raise ValueError(f"images must be {kinds} (n, 3, size, size), not {images.dtype} {tuple(images.shape)}")
    if images.is_floating_point() and not torch.isfinite(images).all():
        raise ValueError("float images must be finite")
    if len(images) == 0:
        raise ValueError("there is no image")


def prepare_targets(targets: Tensor, recipe: Recipe, num_classes: int) -> Tensor:
    """Convert targets for the loss: soften soft labels by the temperature; make hard labels one-hot if needed."""
    if targets.is_floating_point():
        return (targets.log() / recipe.temperature).softmax(1) if recipe.temperature else targets
    return F.one_hot(targets, num_classes).float() if recipe.temperature or recipe.augment.mixes else targets


def check_weights(weights: Tensor, n: int) -> None:
    """Raise ValueError unless the weights of n images are float32 (n,), finite, at least 0 and not all 0."""
    if weights.dtype != torch.float32 or weights.shape != (n,):
        raise ValueError(f"weights must be float32 ({n},), not {weights.dtype} {tuple(weights.shape)}")
    valid = torch.isfinite(weights) & (weights >= 0)
    if not valid.all():
        first = int((~valid).nonzero()[0])
        raise ValueError(f"the weight of image {first} is {float(weights[first])}: it must be finite and at least 0")
    if not weights.any():
        raise ValueError("all weights are 0")


def weigh(targets: Tensor, weights: Tensor, recipe: Recipe, num_classes: int) -> Tensor:
    """Return targets times the images' weights, float32 (n, num_classes); the mean weight counts as 1.

    The cross-entropy is linear in the targets, so each image's loss is multiplied by its weight, in mixed images too.
    Label smoothing is part of the result.
    """
    dense = targets if targets.is_floating_point() else F.one_hot(targets, num_classes).float()
    smooth = (1 - recipe.label_smoothing) * dense + recipe.label_smoothing / num_classes
    return smooth * (weights / weights.mean())[:, None]


def prepare_teacher(teacher: nn.Module, statistics: str) -> nn.Module:
    """Return the network that labels views: the teacher, or a copy with the statistics of every batch.

    statistics: "running", or "batch" for batch norms that take the mean and the variance of each batch and keep none.
    """
    if statistics == "running":
        return teacher
    teacher = copy.deepcopy(teacher)
    for module in teacher.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats, module.running_mean, module.running_var = False, None, None
    return teacher


def view_labels(teacher: nn.Module, images: Tensor, recipe: Recipe) -> Tensor:
    """Return a teacher's probabilities (n, classes) of augmented images, float 0..1, softened by the temperature.

    Labels of every view as in FKD (Shen & Xing 2022, arXiv:2112.01528), computed while the student trains. fp32.
    """
    with torch.no_grad():
        logits: Tensor = teacher(images)
    return (logits / recipe.temperature).softmax(1)
