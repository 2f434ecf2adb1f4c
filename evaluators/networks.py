"""The bodies of the students: torchvision's networks without their last layer, the ConvNet, and ResNetAP.

Each builder returns (body, width); a body maps normalised float images (n, 3, size, size) to features (n, width).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models

from evaluators.catalog import CATALOG, INSTANCE_STEM, PRETRAINED_PATCH, SMALL_STEM, convnet_depth, vit_patch

WIDTH = 128  # channels of the ConvNet
Body = tuple[nn.Module, int]
Weights = Mapping[str, Tensor]


def build_body(student: str, size: int, weights: Weights | None) -> Body:
    """Build the body of a student, initialised from torch's global generator or with torchvision's `weights`."""
    kind, *arguments = CATALOG[student].builder
    return _BUILDERS[str(kind)](*arguments, size, weights)


def _instance_norm(channels: int) -> nn.GroupNorm:
    """As many groups as channels: no running statistics, so train and eval mode are the same function."""
    return nn.GroupNorm(channels, channels)


def _convnet(norm: str, depth: int, size: int, weights: None) -> Body:
    """Blocks of 3x3 convolution, norm, ReLU, 2x2 average pooling.

    norm: "instance" or "batch". depth: number of blocks, 0 for as many as the image size has.
    """
    depth = depth or convnet_depth(size)
    blocks: list[nn.Module] = []
    for i in range(depth):
        normalise = _instance_norm(WIDTH) if norm == "instance" else nn.BatchNorm2d(WIDTH)
        conv = nn.Conv2d(WIDTH if i else 3, WIDTH, 3, padding=1)
        blocks.append(nn.Sequential(conv, normalise, nn.ReLU(inplace=True), nn.AvgPool2d(2)))
    return nn.Sequential(*blocks, nn.Flatten()), WIDTH * (size >> depth) ** 2


def _resnet(name: str, size: int, weights: Weights | None) -> Body:
    """ResNets; from scratch and for small images with a 3x3 stem."""
    net = _load(models.get_model(name, weights=None), weights)
    if weights is None and size < SMALL_STEM:
        _use_small_stem(net, pooling=size >= SMALL_STEM // 2)
    return _without_head(net, "fc")


def _resnet_instance(name: str, size: int, weights: None) -> Body:
    """ResNets with instance norm; for small images with a 3x3 stem."""
    net = models.get_model(name, weights=None, norm_layer=_instance_norm)
    if size <= INSTANCE_STEM:
        _use_small_stem(net, pooling=size > INSTANCE_STEM // 2)
    return _without_head(net, "fc")


def _use_small_stem(net: nn.Module, pooling: bool) -> None:
    """Let a ResNet begin with a 3x3 convolution of stride 1. pooling: keep the max-pool after it."""
    net.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's stem
    if not pooling:
        net.maxpool = nn.Identity()


class _PooledBlock(nn.Module):
    """The residual block of ResNetAP: a basic block that pools averages where ResNet has strides."""

    def __init__(self, inputs: int, outputs: int, pool: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *_convolution(inputs, outputs, 3),
            nn.ReLU(inplace=True),
            nn.AvgPool2d(pool),
            *_convolution(outputs, outputs, 3),
        )
        self.shortcut: nn.Module = nn.Identity()
        if pool > 1 or inputs != outputs:
            conv, norm = _convolution(inputs, outputs, 1)
            self.shortcut = nn.Sequential(conv, nn.AvgPool2d(pool), norm)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.residual(x) + self.shortcut(x))


def _convolution(inputs: int, outputs: int, kernel: int) -> tuple[nn.Conv2d, nn.GroupNorm]:
    """Return a convolution of stride 1 without bias, initialised as in ResNets, and an instance norm."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv, _instance_norm(outputs)


def _resnet_ap10(size: int, weights: None) -> Body:
    """ResNetAP-10: a stem and one block of 64, 128, 256 and 512 channels each."""
    kernel, pool = (7, 4) if size > INSTANCE_STEM else (3, 2 if size > INSTANCE_STEM // 2 else 1)
    stem = (*_convolution(3, 64, kernel), nn.ReLU(inplace=True), nn.AvgPool2d(pool))
    blocks = (_PooledBlock(64, 64, 1), *(_PooledBlock(width, 2 * width, 2) for width in (64, 128, 256)))
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten()), 512


def _vit(layers: int, heads: int, width: int, size: int, weights: Weights | None) -> Body:
    """Vision transformers without their heads."""
    patch = vit_patch(size) if weights is None else PRETRAINED_PATCH
    shape = {"num_layers": layers, "num_heads": heads, "hidden_dim": width, "mlp_dim": 4 * width}
    if weights is not None:
        weights = models.vision_transformer.interpolate_embeddings(size, patch, weights)
    net = _load(models.VisionTransformer(size, patch, **shape), weights)
    net.heads = nn.Identity()
    return net, width


def _inception(size: int, weights: Weights | None) -> Body:
    """Inception v3 without its auxiliary classifier and without its own normalisation."""
    net: Any = models.inception_v3(weights=None, aux_logits=weights is not None, init_weights=weights is None)
    net = _load(net, weights)
    net.aux_logits, net.AuxLogits, net.transform_input = False, None, False
    return _without_head(net, "fc")


def _torchvision(name: str, size: int, weights: Weights | None) -> Body:
    """Networks of torchvision whose classifier is `head` or `classifier`."""
    net = _load(models.get_model(name, weights=None), weights)
    return _without_head(net, "head" if hasattr(net, "head") else "classifier")


def _without_head(net: nn.Module, name: str) -> Body:
    """Replace the last linear layer, which is `name` or the last of its layers, by the identity; return its width."""
    layers = getattr(net, name)
    if isinstance(layers, nn.Linear):
        setattr(net, name, nn.Identity())
        return net, layers.in_features
    width = layers[-1].in_features
    layers[-1] = nn.Identity()
    return net, width


def _load(net: nn.Module, weights: Weights | None) -> nn.Module:
    """Load weights into a network, if there are any."""
    if weights is not None:
        net.load_state_dict(weights)
    return net


_BUILDERS: dict[str, Callable[..., Body]] = {
    "convnet": _convnet,
    "resnet": _resnet,
    "resnet_instance": _resnet_instance,
    "resnet_ap10": _resnet_ap10,
    "vit": _vit,
    "torchvision": _torchvision,
    "inception": _inception,
}
