"""A small classifier of our own, and the distance between images in its features.

Pixel losses alone blur the texture that tells land cover apart. The distance follows the idea of LPIPS (Zhang et al.,
arXiv 1801.03924): channel-normalised features of every level, squared difference, mean over positions, sum over levels.
No published weights are used: the classifier is trained here, on the base model's own training images.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FeatureNet(nn.Module):
    """Five convolution levels, (n, 3, 64, 64) in [-1, 1] -> logits; `levels` gives the features of each."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        widths = [(3, 32, 1), (32, 64, 2), (64, 128, 2), (128, 128, 1), (128, 256, 2)]
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3, s, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU()) for i, o, s in widths
        )
        self.head = nn.Linear(widths[-1][1], classes)

    def levels(self, x: Tensor) -> list[Tensor]:
        """Features after every block, finest first."""
        found = []
        for block in self.blocks:
            x = block(x)
            found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.dropout(self.levels(x)[-1].mean((2, 3)), 0.2, self.training))


def perceptual_distance(net: FeatureNet, made: Tensor, real: Tensor) -> Tensor:
    """Mean distance between two batches (n, 3, h, w) in [-1, 1]; gradients reach `made` only."""
    with torch.no_grad():
        wanted = [_unit(level) for level in net.levels(real)]
    pairs = zip(net.levels(made), wanted, strict=True)
    return torch.stack([(_unit(a) - b).square().sum(1).mean() for a, b in pairs]).sum()


def _unit(features: Tensor) -> Tensor:
    features = features.float()
    return features / (features.square().sum(1, keepdim=True) + 1e-6).sqrt()
