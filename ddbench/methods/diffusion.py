"""Latent text-to-image diffusion: one clean-estimate algebra, one loss, one sampler, for every diffusion method.

Notation: z a scaled latent; abar_t the cumulative alpha of time t; z_t = sqrt(abar_t) z + sqrt(1 - abar_t) eps.
A network predicts eps, v = sqrt(abar_t) eps - sqrt(1 - abar_t) z, or z itself ("sample").
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

PREDICTIONS = ("epsilon", "v_prediction", "sample")


def add_noise(z: Tensor, eps: Tensor, abar: Tensor) -> Tensor:
    """z_t from z, eps (n, c, h, w) and abar (n,) (Ho et al., arXiv 2006.11239, eq. 4)."""
    abar = abar.view(-1, 1, 1, 1)
    return abar.sqrt() * z + (1 - abar).sqrt() * eps


def target(z: Tensor, eps: Tensor, abar: Tensor, prediction: str) -> Tensor:
    """What the network should output for z_t (v: Salimans and Ho, arXiv 2202.00512, section 2.4)."""
    abar = abar.view(-1, 1, 1, 1)
    if prediction == "v_prediction":
        return abar.sqrt() * eps - (1 - abar).sqrt() * z
    return {"epsilon": eps, "sample": z}[_known(prediction)]


def clean_estimate(z_t: Tensor, u: Tensor, abar: Tensor, prediction: str) -> Tensor:
    """z0_hat, the latent that the network's output u implies for z_t; abar is (n,) or a scalar tensor."""
    abar = abar.view(-1, 1, 1, 1)
    if prediction == "epsilon":
        return (z_t - (1 - abar).sqrt() * u) / abar.sqrt()
    if prediction == "v_prediction":
        return abar.sqrt() * z_t - (1 - abar).sqrt() * u
    return {"sample": u}[_known(prediction)]


def min_snr_weight(abar: Tensor, prediction: str, gamma: float = 5.0) -> Tensor:
    """Loss weight per image: min(snr, gamma) / snr for epsilon, / (snr + 1) for v, plain min(snr, gamma) for sample.

    snr = abar / (1 - abar) (Hang et al., arXiv 2303.09556, section 3.4).
    """
    snr = abar / (1 - abar)
    clipped = snr.clamp(max=gamma)
    return clipped / {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones_like(snr)}[_known(prediction)]


def diffusion_loss(
    unet: Callable, z: Tensor, words: Tensor, abars: Tensor, generator: torch.Generator, **conditions: Tensor
) -> Tensor:
    """Min-SNR weighted loss of one batch: z (n, c, h, w) clean latents, words (n, tokens, d), abars (T,) of the scheduler.

    The prediction type is the network's (`unet.config.prediction_type`, v when it does not say). All randomness
    comes from `generator`, on the CPU, so that a step can be repeated on any device.
    """
    prediction = conditions.pop("prediction", "v_prediction")
    times = torch.randint(len(abars), (len(z),), generator=generator)
    eps = torch.randn(z.shape, generator=generator).to(z)
    abar = abars[times].to(z)
    times = times.to(z.device)
    u = unet(add_noise(z, eps, abar), times, encoder_hidden_states=words, **conditions).sample
    errors = (u.float() - target(z, eps, abar, prediction)).square().mean((1, 2, 3))
    return (errors * min_snr_weight(abar, prediction)).mean()


def _known(prediction: str) -> str:
    if prediction not in PREDICTIONS:
        raise ValueError(f"prediction type {prediction!r} is not one of {', '.join(PREDICTIONS)}")
    return prediction
