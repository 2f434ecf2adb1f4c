"""How far a reconstruction is from its image: what the base's autoencoder is trained on."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddbench.methods.latent_diffusion.model import posterior

KL_WEIGHT = 1e-6
JITTER = 0.05  # least noise on the latents in training, as a share of their deviation
SCALES = 3
WINDOW = 8


def pixel_distance(made: Tensor, real: Tensor) -> Tensor:
    """Mean absolute error of pixels and of differences between neighbours; (n, 3, h, w) in [-1, 1]."""
    return (made - real).abs().mean() + sum((made.diff(dim=d) - real.diff(dim=d)).abs().mean() for d in (2, 3))


def contrast_distance(made: Tensor, real: Tensor) -> Tensor:
    """Mean absolute error of local contrast, in both directions at three scales; (n, 3, h, w) in [-1, 1].

    Pixels alone reward blur wherever detail cannot be kept, and a classifier then mistakes houses for fields; this asks
    that as much texture be there, even where it is not the same (measured in docs/base-model.md).
    """
    pairs = zip(_differences(made), _differences(real), strict=True)
    return sum((_contrast(a) - _contrast(b)).abs().mean() for a, b in pairs)


def reconstruction_loss(vae: nn.Module, real: Tensor, noise: Tensor) -> Tensor:
    """Pixels, local contrast and a trace of KL of one batch (n, 3, h, w) in [-1, 1].

    noise: standard normal, of the latents' shape. Posteriors narrower than JITTER (all of a deterministic autoencoder)
    are widened to it: a decoder that has seen exact latents only is thrown off by what a U-Net makes.
    """
    mean, std = posterior(vae, real)
    std = std.clamp(min=JITTER / vae.config.scaling_factor)
    made = vae.decode(mean + std * noise.to(mean)).sample.float()
    return pixel_distance(made, real) + contrast_distance(made, real) + kl_term(mean.float(), std.float())


def kl_term(mean: Tensor, std: Tensor) -> Tensor:
    """A trace of the divergence of N(mean, std^2) from a normal one: it keeps latents in bounds and costs no detail."""
    kl = (mean.square() + std.square() - 1 - 2 * std.log()).flatten(1).sum(1) / 2
    return KL_WEIGHT * kl.mean()


def _differences(images: Tensor) -> Iterator[Tensor]:
    """Differences between horizontal and vertical neighbours at full, half and quarter size."""
    for _ in range(SCALES):
        yield from (images.diff(dim=2), images.diff(dim=3))
        images = F.avg_pool2d(images, 2)


def _contrast(band: Tensor) -> Tensor:
    """Root mean square in windows that overlap by half."""
    return torch.sqrt(F.avg_pool2d(band.square(), WINDOW, WINDOW // 2, WINDOW // 2) + 1e-5)
