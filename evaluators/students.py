"""The networks that judge. Each takes images as they are stored; normalisation is part of the network.

convnet    the dataset-distillation literature's ConvNet (Gidaris & Komodakis 2018; Zhao et al. 2021, arXiv:2006.05929):
           blocks of 3x3 convolution to 128 channels, instance norm (affine), ReLU, 2x2 average pooling.
resnet18   torchvision's (He et al. 2016); below 96 px with a 3x3 stride-1 stem, below 48 px also without the max-pool.
vit_tiny   torchvision's VisionTransformer at DeiT-Ti's width (Touvron et al. 2021): 12 layers, width 192, 3 heads.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from torchvision.models import resnet18 as torchvision_resnet18

from evaluators.protocols import STUDENTS
from evaluators.sizes import check_size, convnet_depth, vit_patch

MEAN, STD = 0.5, 0.25  # of every channel; constants, so that no statistic of any data set travels with a network
WIDTH = 128


class Student(nn.Module):
    """body: normalised float (n, 3, h, w) -> features (n, d). head: features -> logits (n, classes)."""

    def __init__(self, body: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def embed(self, images: Tensor) -> Tensor:
        """Penultimate features (n, d) of uint8 images 0..255, or of float images 0..1."""
        if images.dtype == torch.uint8:
            images = images.float() / 255
        return self.body((images - MEAN) / STD)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes) of uint8 images 0..255, or of float images 0..1."""
        return self.head(self.embed(images))


def build(student: str, size: int, num_classes: int, seed: int) -> Student:
    """A freshly initialised student for `size` x `size` images; the same seed gives the same weights.

    The global random state is left as it was. Raises ValueError for an unknown student, size or number of classes.
    """
    if student not in _BODIES:
        raise ValueError(f"unknown student {student!r}. Known: {', '.join(STUDENTS)}")
    if num_classes < 2:
        raise ValueError(f"students need two classes, not {num_classes}")
    check_size(student, size)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also move the CUDA generators
        body, width = _BODIES[student](size)
        return Student(body, nn.Linear(width, num_classes))


def features(model: Student, images: Tensor, device: torch.device | str = "cpu", batch: int = 256) -> Tensor:
    """Penultimate features, float32 (n, d) on the CPU, of uint8 (n, 3, h, w) images streamed in batches."""
    model = model.to(device).eval()
    with torch.no_grad():
        parts = [model.embed(part.to(device)).float().cpu() for part in images.split(batch)]
    return torch.cat(parts)


def _convnet(size: int) -> tuple[nn.Module, int]:
    depth = convnet_depth(size)
    blocks = [_block(3 if i == 0 else WIDTH) for i in range(depth)]
    return nn.Sequential(*blocks, nn.Flatten()), WIDTH * (size >> depth) ** 2


def _block(channels: int) -> nn.Module:
    # As many groups as channels is instance norm: no running statistics, train and eval mode are the same function.
    norm = nn.GroupNorm(WIDTH, WIDTH)
    return nn.Sequential(nn.Conv2d(channels, WIDTH, 3, padding=1), norm, nn.ReLU(inplace=True), nn.AvgPool2d(2))


def _resnet18(size: int) -> tuple[nn.Module, int]:
    net = torchvision_resnet18(weights=None)
    if size < 96:
        net.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's stem
    if size < 48:
        net.maxpool = nn.Identity()
    return _headless(net, "fc"), 512


def _vit_tiny(size: int) -> tuple[nn.Module, int]:
    net = VisionTransformer(size, vit_patch(size), num_layers=12, num_heads=3, hidden_dim=192, mlp_dim=768)
    return _headless(net, "heads"), 192


def _headless(net: nn.Module, name: str) -> nn.Module:
    setattr(net, name, nn.Identity())
    return net


_BODIES: dict[str, Callable[[int], tuple[nn.Module, int]]] = {
    "convnet": _convnet,
    "resnet18": _resnet18,
    "vit_tiny": _vit_tiny,
}
