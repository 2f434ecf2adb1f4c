"""The bodies of the students: torchvision's networks without their last layer, and the ConvNet.

Each builder returns (body, width); a body maps normalised float images (n, 3, size, size) to features (n, width).
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


def build_body(student: str, size: int, weights: Weights | None) -> Body:
    """Build the body of a student, initialised from torch's global generator or with torchvision's `weights`."""
    kind, *arguments = CATALOG[student].builder
    return _BUILDERS[str(kind)](*arguments, size, weights)


def _convnet(size: int, weights: None) -> Body:
    """Blocks of 3x3 convolution, instance norm, ReLU, 2x2 average pooling."""
    depth = convnet_depth(size)
    blocks: list[nn.Module] = []
    for i in range(depth):
        # As many groups as channels is instance norm: no running statistics, train and eval mode are the same function.
        norm = nn.GroupNorm(WIDTH, WIDTH)
        conv = nn.Conv2d(WIDTH if i else 3, WIDTH, 3, padding=1)
        blocks.append(nn.Sequential(conv, norm, nn.ReLU(inplace=True), nn.AvgPool2d(2)))
    return nn.Sequential(*blocks, nn.Flatten()), WIDTH * (size >> depth) ** 2


def _resnet(name: str, size: int, weights: Weights | None) -> Body:
    """ResNets; from scratch and for small images with a 3x3 stem."""
    net = _load(models.get_model(name, weights=None), weights)
    if weights is None and size < SMALL_STEM:
        net.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's stem
    if weights is None and size < SMALL_STEM // 2:
        net.maxpool = nn.Identity()
    return _without_head(net, "fc")


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
    "vit": _vit,
    "torchvision": _torchvision,
    "inception": _inception,
}
