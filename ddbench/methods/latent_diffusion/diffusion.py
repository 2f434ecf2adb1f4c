"""Latent text-to-image diffusion: one clean-estimate algebra, one loss, one sampler, for every diffusion method.

Notation: z a scaled latent; abar_t the cumulative alpha of time t; z_t = sqrt(abar_t) z + sqrt(1 - abar_t) eps.
A network predicts eps, v = sqrt(abar_t) eps - sqrt(1 - abar_t) z, or z itself ("sample").
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
    snr = (abar / (1 - abar)).clamp(min=1e-8)  # some schedules end at abar 0
    clipped = snr.clamp(max=gamma)
    return clipped / {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones_like(snr)}[_known(prediction)]


def v_weight(abar: Tensor, prediction: str, most: float = 400.0) -> Tensor:
    """Loss weight per image that makes the loss that of v-prediction, whatever the network outputs; at most `most`.

    v's error is that of the clean latent / sqrt(1 - abar), and that of the noise / sqrt(abar).
    """
    share = {"epsilon": abar, "v_prediction": torch.ones_like(abar), "sample": 1 - abar}[_known(prediction)]
    return 1 / share.clamp(min=1 / most)


def even_weight(abar: Tensor, prediction: str) -> Tensor:
    """One for every time: with v-prediction, snr + 1 in the clean latent, so that layout is learned too."""
    return torch.ones_like(abar)


@dataclass(frozen=True)
class Objective:
    """What a diffusion training minimises.

    abars: cumulative alphas (T,) of the scheduler. prediction: what the network outputs. weight(abar, prediction): of
    each image's squared error. extra(z0_hat, abar), when given: an addition (n,) per image, seen through the clean
    estimate z0_hat (n, c, h, w).
    """

    abars: Tensor
    prediction: str = "v_prediction"
    weight: Callable[[Tensor, str], Tensor] = min_snr_weight
    extra: Callable[[Tensor, Tensor], Tensor] | None = None


def diffusion_loss(
    network: Callable[[Tensor, Tensor], Tensor], z: Tensor, goal: Objective, generator: torch.Generator,
    part: slice = slice(None),
) -> Tensor:  # fmt: skip
    """The loss of one batch of clean scaled latents z (n, c, h, w), at times drawn evenly.

    network(z_t, times) is u. All randomness comes from `generator`: one on the CPU repeats a step on any device. With
    `part` only those images are computed (`goal.extra` sees them alone) and the sum of their losses over n is returned:
    the parts of a batch add up to the whole.
    """
    device = generator.device
    times = torch.randint(len(goal.abars), (len(z),), generator=generator, device=device)
    eps = torch.randn(z.shape, generator=generator, device=device).to(z)[part]
    abar, clean = goal.abars.to(times.device)[times].to(z)[part], z[part]
    z_t = add_noise(clean, eps, abar)
    u = network(z_t, times[part].to(z.device)).float()
    errors = (u - target(clean, eps, abar, goal.prediction)).square().mean((1, 2, 3))
    errors = errors * goal.weight(abar, goal.prediction)
    if goal.extra:
        errors = errors + goal.extra(clean_estimate(z_t, u, abar, goal.prediction), abar)
    return errors.sum() / len(z)


@dataclass(frozen=True)
class SamplerConfig:
    """How the sampler runs.

    steps: scheduler steps. strength: 1 starts from pure noise, less starts from the
    prototype noised to that share of the steps, at least to one step. pull: size of the step towards the prototype
    (g), 0 for none. pull_until: the pull acts while progress i / (steps - 1) is at most this.
    """

    steps: int
    strength: float = 1.0
    pull: float = 0.0
    pull_until: float = 0.8


@torch.no_grad()
def sample(
    denoise: Callable[[Tensor, Tensor], Tensor],
    scheduler: Any,
    prototypes: Tensor,
    how: SamplerConfig,
    generators: list[torch.Generator],
    shift: Callable[[int, Tensor, Tensor | None], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Latents (n, c, h, w) from noise under the pull of `prototypes` (n, c, h, w), and (n,) pulls that fell back.

    denoise(z_t, t) is the guided network output u. shift(i, t, next t, None after the last), when given, is added to
    what step i gives. One CPU generator per image draws all of its noise, so an image does
    not depend on what else is in the batch. The scheduler must be variance preserving (DDIM, DDPM, DPM++ ...). Below
    strength 1, PNDM loses its doubled second step and stays one noise level behind, as in diffusers' own
    image-to-image: prefer DDIM there.
    """
    scheduler.set_timesteps(how.steps)
    times = scheduler.timesteps[_first_step(len(scheduler.timesteps), how.strength) :]
    z = _start(scheduler, prototypes, times, how.strength, generators)
    fallen = torch.zeros(len(z), dtype=torch.long, device=z.device)
    extra = {"generator": generators} if "generator" in inspect.signature(scheduler.step).parameters else {}
    for i, t in enumerate(times):
        u = denoise(z, t)
        if how.pull and i <= how.pull_until * (len(times) - 1):
            z, failed = prototype_guidance(
                z, u, prototypes, scheduler.alphas_cumprod[t], how.pull, scheduler.config.prediction_type
            )
            fallen += failed
        z = scheduler.step(u, t, z, **extra).prev_sample
        if shift:
            z = z + shift(i, t, times[i + 1] if i + 1 < len(times) else None)
    return z, fallen


def posterior_std(abar: Tensor, later: Tensor) -> Tensor:
    """Of z at a later time of sampling, given z_t and z0; 0 at the end (Ho et al., arXiv 2006.11239, eq. 7)."""
    return ((1 - later) / (1 - abar) * (1 - abar / later)).clamp(min=0).sqrt()


def prototype_guidance(
    z: Tensor, u: Tensor, prototypes: Tensor, abar: Tensor, g: float, prediction: str
) -> tuple[Tensor, Tensor]:
    """z_t + g sqrt(1 - abar_t) (z_p - z0_hat) / ||z_p - z0_hat||, the norm over one image's latent, in float32.

    The DPD release's prototype guidance. An image whose result is not finite keeps its z_t; which did, (n,), is said.
    """
    away = prototypes.float() - clean_estimate(z.float(), u.float(), abar.to(z.device), prediction)
    moved = z + g * (1 - abar).sqrt() * away / away.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    fine = torch.isfinite(moved).flatten(1).all(1)
    return torch.where(fine.view(-1, 1, 1, 1), moved.to(z), z), ~fine


def guided(network: Callable[..., Tensor], words: Tensor, empty: Tensor, scale: float) -> Callable:
    """The classifier-free guided output u = u_empty + scale (u_words - u_empty) (Ho and Salimans, arXiv 2207.12598)."""
    both = guided_and_conditional(network, words, empty, scale)
    return lambda z, t: both(z, t)[0]


def guided_and_conditional(network: Callable[..., Tensor], words: Tensor, empty: Tensor, scale: float) -> Callable:
    """A function of (z, t): the guided output, and u_words that it is made of.

    network(z, t, words) is called once on both guided_and_conditional stacked; at scale 1 on the worded half alone.
    """

    def denoise(z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        if scale == 1:
            return (u := network(z, t, words)), u
        without, with_words = network(torch.cat([z, z]), t, torch.cat([empty, words])).chunk(2)
        return without + scale * (with_words - without), with_words

    return denoise


def _first_step(steps: int, strength: float) -> int:
    return steps - max(1, int(steps * strength))  # whole steps, as in diffusers' image-to-image


def _start(scheduler: Any, prototypes: Tensor, times: Tensor, strength: float, generators: list) -> Tensor:
    eps = torch.stack([torch.randn(prototypes.shape[1:], generator=g) for g in generators]).to(prototypes)
    if strength == 1:
        return eps
    return add_noise(prototypes, eps, scheduler.alphas_cumprod[times[0]].to(prototypes).expand(len(prototypes)))


def _known(prediction: str) -> str:
    if prediction not in PREDICTIONS:
        raise ValueError(f"prediction type {prediction!r} is not one of {', '.join(PREDICTIONS)}")
    return prediction


def require_finite(z: Tensor) -> None:
    """FloatingPointError when latents (n, c, h, w) are not finite."""
    if bad := int((~torch.isfinite(z)).flatten(1).any(1).sum()):
        raise FloatingPointError(f"{bad} of {len(z)} latents are not finite: try precision=fp32, or less guidance")
