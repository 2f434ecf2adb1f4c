"""One row per student, and the image sizes that students take. No torch, so that sizes are checked early."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class CatalogRow:
    """The facts of a student.

    smallest: px, the least image side; smaller images would leave its last batch norm a single pixel.
    builder: name of a builder in `evaluators.networks`, then its arguments.
    weights: torchvision's name of its ImageNet weights; empty if there are none.
    text: one sentence for `ddbench show`.
    """

    smallest: int
    builder: tuple[str | int, ...]
    weights: str
    text: str


# To add a student: add a row here, and a builder to evaluators.networks if no builder there fits.
CATALOG: dict[str, CatalogRow] = {
    "convnet": CatalogRow(
        8,
        ("convnet", "instance", 0),
        "",
        "the dataset-distillation literature's ConvNet (Gidaris & Komodakis 2018; Zhao et al. 2021, arXiv:2006.05929):"
        " blocks of 3x3 convolution to 128 channels, instance norm (affine), ReLU, 2x2 average pooling; as many as"
        " leave 4x4 pixels: 3, 4, 5, 6 at 32, 64, 128, 256 px.",
    ),
    "convnet_bn": CatalogRow(
        8,
        ("convnet", "batch", 0),
        "",
        "convnet with batch norm in place of instance norm, as RDED and its successors have it.",
    ),
    "convnet6": CatalogRow(
        64,
        ("convnet", "instance", 6),
        "",
        "convnet with six blocks at every size, the ConvNet-6 of IDC and Minimax at 224 px; at least 64 px.",
    ),
    "resnet18": CatalogRow(
        16,
        ("resnet", "resnet18"),
        "ResNet18_Weights",
        "torchvision's (He et al. 2016); from scratch below 96 px with a 3x3 stride-1 stem, below 48 px also without"
        " the max-pool.",
    ),
    "resnet34": CatalogRow(
        16, ("resnet", "resnet34"), "ResNet34_Weights", "torchvision's, with the stems of resnet18."
    ),
    "resnet50": CatalogRow(
        16, ("resnet", "resnet50"), "ResNet50_Weights", "torchvision's, with the stems of resnet18."
    ),
    "resnet18_in": CatalogRow(
        16,
        ("resnet_instance", "resnet18"),
        "",
        "torchvision's resnet18 with instance norm (affine) in place of batch norm, as in IDC (Kim et al. 2022,"
        " arXiv:2205.14959) and Minimax; with a 3x3 stride-1 stem up to 128 px, up to 64 px also without the max-pool.",
    ),
    "resnet_ap10": CatalogRow(
        16,
        ("resnet_ap10",),
        "",
        "the ResNetAP-10 of IDC and Minimax: four basic blocks of 64 to 512 channels, instance norm (affine), average"
        " pooling in place of strides; the stem is a 7x7 convolution and 4x4 pooling, up to 128 px 3x3 and 2x2, up to"
        " 64 px 3x3 without pooling.",
    ),
    "vit_tiny": CatalogRow(
        8,
        ("vit", 12, 3, 192),
        "",
        "torchvision's VisionTransformer at DeiT-Ti's width (Touvron et al. 2021): 12 layers, width 192, 3 heads;"
        " patches of an eighth of the image's side, so 64 of them.",
    ),
    "vit_small": CatalogRow(8, ("vit", 12, 6, 384), "", "vit_tiny at DeiT-S's width: 384, 6 heads."),
    "vit_base": CatalogRow(
        8,
        ("vit", 12, 12, 768),
        "ViT_B_16_Weights",
        "vit_tiny at ViT-B's width: 768, 12 heads. With ImageNet weights: patches of 16 px, position embeddings"
        " interpolated (bicubic) to the image's size.",
    ),
    "vgg16": CatalogRow(
        32,
        ("torchvision", "vgg16"),
        "VGG16_Weights",
        "torchvision's, without batch norm (Simonyan & Zisserman 2015).",
    ),
    "densenet121": CatalogRow(
        61, ("torchvision", "densenet121"), "DenseNet121_Weights", "torchvision's (Huang et al. 2017)."
    ),
    "inception_v3": CatalogRow(
        107,
        ("inception",),
        "Inception_V3_Weights",
        "torchvision's (Szegedy et al. 2016) without the second classifier; at least 107 px.",
    ),
    "efficientnet_b0": CatalogRow(
        33, ("torchvision", "efficientnet_b0"), "EfficientNet_B0_Weights", "torchvision's (Tan & Le 2019)."
    ),
    "swin_t": CatalogRow(
        32,
        ("torchvision", "swin_t"),
        "Swin_T_Weights",
        "torchvision's (Liu et al. 2021): patches of 4 px, windows of 7.",
    ),
}
STUDENTS = tuple(CATALOG)
SMALLEST_LARGE_STEM = 33  # px, least image side of a ResNet with the 7x7 stem that ImageNet weights need
PRETRAINED_PATCH = 16  # px, patch side of vit_base with ImageNet weights
SMALL_STEM = 96  # px, image side below which a ResNet from scratch begins with a 3x3 convolution
INSTANCE_STEM = 128  # px, largest image side at which resnet18_in and resnet_ap10 begin with a 3x3 convolution


def check_size(student: str, size: int, init: str = "scratch") -> None:
    """Raise ValueError if `student`, from scratch or with ImageNet weights, cannot take `size` x `size` images."""
    least = SMALLEST_LARGE_STEM if student.startswith("resnet") and init == "imagenet" else CATALOG[student].smallest
    if size < least:
        raise ValueError(f"{student} needs at least {least} px, not {size}")
    if student == "vit_base" and init == "imagenet":
        if size % PRETRAINED_PATCH:
            raise ValueError(f"vit_base with ImageNet weights needs a multiple of {PRETRAINED_PATCH} px, not {size} px")
    elif student.startswith("vit_"):
        vit_patch(size)


def convnet_depth(size: int) -> int:
    """Return the number of blocks of the ConvNet: round(log2(size)) - 2, at least 1.

    That is 3, 4, 5, 6 at 32, 64, 128, 256 px, and 6 at 224.
    """
    return max(1, round(math.log2(size)) - 2)


def vit_patch(size: int) -> int:
    """Return the patch side: the divisor of `size` nearest to size / 8, the smaller of two.

    So there are 64 patches if 8 divides the size. Raises ValueError for more than 1024 patches (prime sizes).
    """
    side = min((d for d in range(1, size + 1) if size % d == 0), key=lambda d: (abs(d - size / 8), d))
    if (size // side) ** 2 > 1024:
        raise ValueError(f"a ViT would cut {size} px into {(size // side) ** 2} patches: use a multiple of 8")
    return side
