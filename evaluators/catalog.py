"""The students' names, which image sizes they take, and how they cut them. No torch: all is checked before any work."""

from __future__ import annotations

import math

# student -> the smallest image side it takes: what leaves its last batch norm more than one pixel
SMALLEST = {
    "convnet": 8,
    "resnet18": 16,
    "resnet34": 16,
    "resnet50": 16,
    "vit_tiny": 8,
    "vit_small": 8,
    "vit_base": 8,
    "vgg16": 32,
    "densenet121": 61,
    "inception_v3": 107,
    "efficientnet_b0": 33,
    "swin_t": 32,
}
STUDENTS = tuple(SMALLEST)
SMALLEST_LARGE_STEM = 33  # of a ResNet with the 7x7 stem that ImageNet weights are for
PRETRAINED_PATCH = 16  # of vit_base with ImageNet weights
SMALL_STEM = 96  # pixels below which a ResNet from scratch begins with a 3x3 convolution


def check_size(student: str, size: int, init: str = "scratch") -> None:
    """ValueError when `student`, from scratch or with ImageNet weights, cannot take `size` x `size` images."""
    least = SMALLEST_LARGE_STEM if student.startswith("resnet") and init == "imagenet" else SMALLEST[student]
    if size < least:
        raise ValueError(f"{student} needs at least {least} px, not {size}")
    if student == "vit_base" and init == "imagenet":
        if size % PRETRAINED_PATCH:
            raise ValueError(f"vit_base with ImageNet weights cuts patches of {PRETRAINED_PATCH} px: not {size} px")
    elif student.startswith("vit_"):
        vit_patch(size)


def convnet_depth(size: int) -> int:
    """Blocks of the ConvNet: round(log2(size)) - 2, so 3, 4, 5, 6 at 32, 64, 128, 256 px (and 6 at 224); at least 1."""
    return max(1, round(math.log2(size)) - 2)


def vit_patch(size: int) -> int:
    """Patch side: the divisor of `size` nearest to size / 8 (the smaller of two), so 64 patches where 8 divides it.

    ValueError where that leaves over a thousand patches (prime sizes).
    """
    side = min((d for d in range(1, size + 1) if size % d == 0), key=lambda d: (abs(d - size / 8), d))
    if (size // side) ** 2 > 1024:
        raise ValueError(f"a ViT would cut {size} px into {(size // side) ** 2} patches: use a multiple of 8")
    return side
