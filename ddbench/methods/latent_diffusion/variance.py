"""The variance of a denoising step: the posterior's, or the one that the denoiser learned (arXiv 2102.09672).

A DiT outputs v beside the mean, as many channels again. Notation: abar_t the cumulative alpha of z_t, abar_s that of
the step's result (t - 1 in training, the next time in sampling), beta = 1 - abar_t / abar_s.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def posterior_std(abar: Tensor, later: Tensor) -> Tensor:
    """Return the deviation of z at the next time, given z_t and z0; 0 at the end (Ho et al., 2006.11239, eq. 7).

    abar, later: cumulative alphas of this and of the next time of sampling.
    """
    return ((1 - later) / (1 - abar) * (1 - abar / later)).clamp(min=0).sqrt()


def log_variance(v: Tensor, abar: Tensor, later: Tensor) -> Tensor:
    """Return log Sigma = w log beta + (1 - w) log beta_tilde, w = (v + 1) / 2 (eq. 15), of v (n, c, h, w).

    abar, later: abar_t and abar_s, of shapes that broadcast with v. beta_tilde is the posterior's variance, above 0.
    """
    low, high = 2 * posterior_std(abar, later).log(), (1 - abar / later).log()
    return torch.lerp(low.expand_as(v), high.expand_as(v), (v + 1) / 2)


def step_std(v: Tensor, abar: Tensor, later: Tensor) -> Tensor:
    """Return sigma_t, the deviation of DDPM's noise in a step: learned, or the posterior's if v (n, 0, h, w) is empty.

    abar, later: cumulative alphas of this and of the next time of sampling.
    """
    return (0.5 * log_variance(v, abar, later)).exp() if v.shape[1] else posterior_std(abar, later)


def variational_bound(z: Tensor, z_t: Tensor, z0_hat: Tensor, v: Tensor, times: Tensor, abars: Tensor) -> Tensor:
    """Return the terms L_t of the variational bound (n,), in bits per value: they teach v (section 3.1).

    z, z_t, z0_hat: clean, noisy and estimated latents (n, c, h, w); the estimate should be detached, since it has its
    own loss. times: int64 (n,). abars: (T,), cumulative alphas. L_0 is the likelihood of values in [-1, 1] of 8 bits,
    as in DiT's public code, although latents are neither.
    """
    broadcast = times.view(-1, 1, 1, 1)
    abar = abars[broadcast]
    before = torch.where(broadcast > 0, abars[(broadcast - 1).clamp(min=0)], torch.ones_like(abar))
    clipped = broadcast.clamp(min=1)  # the posterior of time 0 has no variance: it takes that of time 1
    low = 2 * posterior_std(abars[clipped], abars[clipped - 1]).log()
    learned = torch.lerp(low.expand_as(v), (1 - abar / before).log().expand_as(v), (v + 1) / 2)

    def posterior_mean(z0: Tensor) -> Tensor:
        """Return E[z_{t-1} | z_t, z0] (Ho et al., arXiv 2006.11239, eq. 7)."""
        beta = 1 - abar / before
        return (before.sqrt() * beta * z0 + (abar / before).sqrt() * (1 - before) * z_t) / (1 - abar)

    mean = posterior_mean(z0_hat)
    distance = (posterior_mean(z) - mean).square()
    divergence = 0.5 * (learned - low - 1 + (low - learned).exp() + distance * (-learned).exp())
    nll = -discretized_log_likelihood(z, mean, learned)
    return torch.where(broadcast == 0, nll, divergence).mean((1, 2, 3)) / math.log(2)


def discretized_log_likelihood(x: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """Return the log-probability of the bin of width 2/255 around x under a normal distribution; the ends are open."""
    std = (0.5 * log_var).exp()
    above, below = (torch.special.ndtr((x - mean + edge) / std) for edge in (1 / 255, -1 / 255))
    share = torch.where(x < -0.999, above, torch.where(x > 0.999, 1 - below, above - below))
    return share.clamp(min=1e-12).log()
