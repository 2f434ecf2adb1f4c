"""The bodies of the students: torchvision's networks without their last layer, and the ConvNet.

Each function gives (body, width): normalised float images (n, 3, size, size) to features (n, width).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torchvision import models

from evaluators.catalog import CATALOG, PRETRAINED_PATCH, SMALL_STEM, convnet_depth, vit_patch

WIDTH = 128  # channels of the ConvNet
Body = tuple[nn.Module, int]
Weights = Mapping[str, Tensor]


def body(student: str, size: int, weights: Weights | None) -> Body:
    """The body of a student, freshly initialised from torch's global generator, or with torchvision's `weights`."""
    kind, *arguments = CATALOG[student].builder
    return _BUILDERS[str(kind)](*arguments, size, weights)


def _convnet(size: int, weights: None) -> Body:
    depth = convnet_depth(size)
    blocks = [_block(3 if i == 0 else WIDTH) for i in range(depth)]
    return nn.Sequential(*blocks, nn.Flatten()), WIDTH * (size >> depth) ** 2


def _block(channels: int) -> nn.Module:
    # As many groups as channels is instance norm: no running statistics, train and eval mode are the same function.
    norm = nn.GroupNorm(WIDTH, WIDTH)
    return nn.Sequential(nn.Conv2d(channels, WIDTH, 3, padding=1), norm, nn.ReLU(inplace=True), nn.AvgPool2d(2))


def _resnet(make: Callable[..., nn.Module], size: int, weights: Weights | None) -> Body:
    net = _loaded(make(weights=None), weights)
    if weights is None and size < SMALL_STEM:
        net.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's stem
    if weights is None and size < SMALL_STEM // 2:
        net.maxpool = nn.Identity()
    return _headless(net, "fc")


def _vit(layers: int, heads: int, width: int, size: int, weights: Weights | None) -> Body:
    patch = vit_patch(size) if weights is None else PRETRAINED_PATCH
    shape = {"num_layers": layers, "num_heads": heads, "hidden_dim": width, "mlp_dim": 4 * width}
    if weights is not None:
        weights = models.vision_transformer.interpolate_embeddings(size, patch, weights)
    net = _loaded(models.VisionTransformer(size, patch, **shape), weights)
    net.heads = nn.Identity()
    return net, width


def _inception(size: int, weights: Weights | None) -> Body:
    """Without the second classifier in the middle; our normalisation, not the one inside."""
    net: Any = models.inception_v3(weights=None, aux_logits=weights is not None, init_weights=weights is None)
    net = _loaded(net, weights)
    net.aux_logits, net.AuxLogits, net.transform_input = False, None, False
    return _headless(net, "fc")


def _classifier(make: Callable[..., nn.Module], size: int, weights: Weights | None) -> Body:
    """Networks that end in a Linear, or in layers of which the last is one."""
    net = _loaded(make(weights=None), weights)
    last = "head" if hasattr(net, "head") else "classifier"
    return _headless(net, last)


def _headless(net: nn.Module, name: str) -> Body:
    """The network without its last linear layer, and how many features that took."""
    layers = getattr(net, name)
    if isinstance(layers, nn.Linear):
        setattr(net, name, nn.Identity())
        return net, layers.in_features
    width = layers[-1].in_features
    layers[-1] = nn.Identity()
    return net, width


def _loaded(net: nn.Module, weights: Weights | None) -> nn.Module:
    if weights is not None:
        net.load_state_dict(weights)
    return net


_BUILDERS: dict[str, Callable[..., Body]] = {
    "convnet": _convnet,
    "resnet": lambda name, *how: _resnet(getattr(models, name), *how),
    "vit": _vit,
    "torchvision": lambda name, *how: _classifier(getattr(models, name), *how),
    "inception": _inception,
}
