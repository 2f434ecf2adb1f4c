"""Latent diffusion: one clean-estimate algebra, one loss, one sampler, for every diffusion method.

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

from ddbench.methods.latent_diffusion.schedulers import set_steps

PREDICTIONS = ("epsilon", "v_prediction", "sample")


def add_noise(z: Tensor, eps: Tensor, abar: Tensor) -> Tensor:
    """Return z_t for z, eps (n, c, h, w) and abar, (n,) or a scalar (Ho et al., arXiv 2006.11239, eq. 4)."""
    abar = abar.view(-1, 1, 1, 1)
    return abar.sqrt() * z + (1 - abar).sqrt() * eps


def target(z: Tensor, eps: Tensor, abar: Tensor, prediction: str) -> Tensor:
    """Return the output that the network should give for z_t (v: Salimans and Ho, arXiv 2202.00512, section 2.4)."""
    abar = abar.view(-1, 1, 1, 1)
    if prediction == "v_prediction":
        return abar.sqrt() * eps - (1 - abar).sqrt() * z
    return {"epsilon": eps, "sample": z}[_check_prediction(prediction)]


def clean_estimate(z_t: Tensor, u: Tensor, abar: Tensor, prediction: str) -> Tensor:
    """Return z0_hat, the clean latent that the network's output u implies for z_t; abar is (n,) or a scalar."""
    abar = abar.view(-1, 1, 1, 1)
    if prediction == "epsilon":
        return (z_t - (1 - abar).sqrt() * u) / abar.sqrt()
    if prediction == "v_prediction":
        return abar.sqrt() * z_t - (1 - abar).sqrt() * u
    return {"sample": u}[_check_prediction(prediction)]


def noise_estimate(z_t: Tensor, u: Tensor, abar: Tensor, prediction: str) -> Tensor:
    """Return eps_hat, the noise in z_t that the network's output u implies; abar is (n,) or a scalar."""
    if prediction == "epsilon":
        return u
    abar = abar.view(-1, 1, 1, 1)
    if prediction == "v_prediction":
        return (1 - abar).sqrt() * z_t + abar.sqrt() * u
    return (z_t - abar.sqrt() * clean_estimate(z_t, u, abar, prediction)) / (1 - abar).sqrt()


def _check_prediction(prediction: str) -> str:
    if prediction not in PREDICTIONS:
        raise ValueError(f"prediction type {prediction!r} is not one of {', '.join(PREDICTIONS)}")
    return prediction


def min_snr_weight(abar: Tensor, prediction: str, gamma: float = 5.0) -> Tensor:
    """Return loss weights (n,): min(snr, gamma) / snr for epsilon, / (snr + 1) for v, / 1 for sample.

    snr = abar / (1 - abar) (Hang et al., arXiv 2303.09556, section 3.4).
    """
    snr = (abar / (1 - abar)).clamp(min=1e-8)  # some schedules end at abar 0
    divisors = {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones_like(snr)}
    return snr.clamp(max=gamma) / divisors[_check_prediction(prediction)]


def even_weight(abar: Tensor, prediction: str) -> Tensor:
    """Return ones (n,). With v-prediction the error of the clean latent weighs snr + 1, so layout is learned too."""
    return torch.ones_like(abar)


@dataclass(frozen=True)
class Objective:
    """The loss of a diffusion training.

    abars: (T,), cumulative alphas of the scheduler.
    prediction: output of the network, one of PREDICTIONS.
    weight: (abar (n,), prediction) -> weights (n,) of the images' squared errors.
    extra: (z0_hat (n, c, h, w), abar (n,)) -> losses (n,) that are added, or None.
    bound: (z, z_t, z0_hat, v, times) -> losses (n,) of the learned variance that are added, or None
        (`variational_bound`).
    """

    abars: Tensor
    prediction: str = "v_prediction"
    weight: Callable[[Tensor, str], Tensor] = min_snr_weight
    extra: Callable[[Tensor, Tensor], Tensor] | None = None
    bound: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor] | None = None


def diffusion_loss(
    network: Callable[[Tensor, Tensor], Tensor], z: Tensor, objective: Objective, generator: torch.Generator,
    part: slice = slice(None),
) -> Tensor:  # fmt: skip
    """Return the loss of a batch of clean scaled latents z (n, c, h, w), at times drawn evenly.

    network: (z_t, times) -> u; with `bound` u and v, along the channels.
    generator: draws everything; one on the CPU repeats a step on any device.
    part: compute these images only, and return the sum of their losses over n: the parts add up to the whole batch.
    """
    device = generator.device
    times = torch.randint(len(objective.abars), (len(z),), generator=generator, device=device)
    eps = torch.randn(z.shape, generator=generator, device=device).to(z)[part]
    abar, clean = objective.abars.to(times.device)[times].to(z)[part], z[part]
    z_t = add_noise(clean, eps, abar)
    u, v = network(z_t, times[part].to(z.device)).float().tensor_split((z.shape[1],), 1)
    losses = (u - target(clean, eps, abar, objective.prediction)).square().mean((1, 2, 3))
    losses = losses * objective.weight(abar, objective.prediction)
    if objective.extra or objective.bound:
        z0_hat = clean_estimate(z_t, u, abar, objective.prediction)
    if objective.extra:
        losses = losses + objective.extra(z0_hat, abar)
    if objective.bound:
        losses = losses + objective.bound(clean, z_t, z0_hat.detach(), v, times[part].to(z.device))
    return losses.sum() / len(z)


@dataclass(frozen=True)
class SamplerConfig:
    """Settings of the sampler.

    steps: scheduler steps.
    strength: share of the steps that are taken, at least one; 1 starts from pure noise, less from noised prototypes.
    pull: g, length of the step towards the prototype, 0 for none.
    pull_until: the pull acts while the progress i / (steps - 1) is at most this.
    is_noised: the prototypes already have the noise of the first step that is taken.
    """

    steps: int
    strength: float = 1.0
    pull: float = 0.0
    pull_until: float = 0.8
    is_noised: bool = False


def sampling_times(scheduler: Any, config: SamplerConfig) -> Tensor:
    """Set the scheduler's steps; return the times of those that are taken, falling, int64 (steps,)."""
    set_steps(scheduler, config.steps)
    # as in diffusers: whole steps, counted in steps, not in times, of which PNDM has one more
    times: Tensor = scheduler.timesteps[config.steps - max(1, int(config.steps * config.strength)) :]
    return times


@torch.no_grad()
def sample(
    denoise: Callable[[Tensor, Tensor], Tensor],
    scheduler: Any,
    prototypes: Tensor,
    config: SamplerConfig,
    generators: list[torch.Generator],
    shift: Callable[[int, Tensor, Tensor | None], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return sampled latents (n, c, h, w), and per image the steps whose pull was not finite, int64 (n,).

    denoise: (z_t, t) -> u, the guided output.
    scheduler: of diffusers, variance preserving (DDIM, DDPM, DPM++ ...).
    prototypes: scaled latents (n, c, h, w); only their shape counts from pure noise without a pull. With `is_noised`
        latents at the first time.
    generators: one on the CPU per image; it draws all of the image's noise, whatever else is in the batch.
    shift: (step i, t, next t or None after the last step) -> (n, c, h, w), added after step i.

    Below strength 1, PNDM loses its doubled second step and stays one noise level behind, as in diffusers' own
    image-to-image: prefer DDIM there.
    """
    times = sampling_times(scheduler, config)
    z = torch.stack([torch.randn(prototypes.shape[1:], generator=g) for g in generators]).to(prototypes)
    if config.is_noised:
        z = prototypes
    elif config.strength < 1:
        z = add_noise(prototypes, z, scheduler.alphas_cumprod[times[0]].to(prototypes))
    fallbacks = torch.zeros(len(z), dtype=torch.long, device=z.device)
    noise = {"generator": generators} if "generator" in inspect.signature(scheduler.step).parameters else {}
    for i, t in enumerate(times):
        u = denoise(z, t)
        if config.pull and i <= config.pull_until * (len(times) - 1):
            abar, prediction = scheduler.alphas_cumprod[t], scheduler.config.prediction_type
            z, failed = prototype_guidance(z, u, prototypes, abar, config.pull, prediction)
            fallbacks += failed
        z = scheduler.step(u, t, z, **noise).prev_sample
        if shift:
            z = z + shift(i, t, times[i + 1] if i + 1 < len(times) else None)
    return z, fallbacks


def prototype_guidance(
    z: Tensor, u: Tensor, prototypes: Tensor, abar: Tensor, g: float, prediction: str
) -> tuple[Tensor, Tensor]:
    """Return z_t + g sqrt(1 - abar_t) (z_p - z0_hat) / ||z_p - z0_hat|| (DPD's release), and a mask (n,).

    The norm is over one image's latent, in float32. Images whose result is not finite keep z_t; the mask marks them.
    """
    difference = prototypes.float() - clean_estimate(z.float(), u.float(), abar.to(z.device), prediction)
    moved = z + g * (1 - abar).sqrt() * difference / difference.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    finite = torch.isfinite(moved).flatten(1).all(1)
    return torch.where(finite.view(-1, 1, 1, 1), moved.to(z), z), ~finite


def match_statistics(z: Tensor, prototypes: Tensor) -> Tensor:
    """Return z (n, c, h, w) with the mean and the deviation over h and w of each prototype's channels.

    Adaptive instance normalisation (Huang and Belongie, arXiv 1703.06868, eq. 8).
    """
    mean, std = z.mean((2, 3), keepdim=True), z.std((2, 3), keepdim=True)
    of_mean, of_std = prototypes.mean((2, 3), keepdim=True), prototypes.std((2, 3), keepdim=True)
    return (z - mean) / std.clamp(min=1e-6) * of_std + of_mean


def guided_denoiser(
    network: Callable[..., Tensor], condition: Tensor, negative: Tensor, scale: Callable[[Tensor], float]
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return (z, t) -> u by classifier-free guidance: `guided_and_conditional` without the second output."""
    outputs = guided_and_conditional(network, condition, negative, scale)
    return lambda z, t: outputs(z, t)[0]


def interval_scale(scale: float, low: float, high: float, times: int) -> Callable[[Tensor], float]:
    """Return t -> guidance scale: `scale` at times between the shares `low` and `high` of the `times`, else 1.

    Kynkäänniemi et al., arXiv 2404.07724.
    """
    return lambda t: scale if low <= float(t) / times <= high else 1.0


def guided_and_conditional(
    network: Callable[..., Tensor], condition: Tensor, negative: Tensor, scale: Callable[[Tensor], float],
    channels: int = 0,
) -> Callable[..., tuple[Tensor, Tensor]]:  # fmt: skip
    """Return (z, t) -> (u, u_c), where u = u_n + scale(t) (u_c - u_n) (Ho and Salimans, arXiv 2207.12598).

    u_c = network(z, t, condition) and u_n = network(z, t, negative) come from one call; scale 1 needs u_c alone.
    channels: first channels of the output that are guided, 0 for those of z; the others are u_c's.
    A third and a fourth argument of the function replace `condition` and `negative`.
    """

    def outputs(
        z: Tensor, t: Tensor, condition: Tensor = condition, negative: Tensor = negative
    ) -> tuple[Tensor, Tensor]:
        if (s := scale(t)) == 1:
            return (u := network(z, t, condition)), u
        u_n, u_c = network(torch.cat([z, z]), t, torch.cat([negative, condition])).chunk(2)
        k = channels or z.shape[1]
        return torch.cat([u_n[:, :k] + s * (u_c[:, :k] - u_n[:, :k]), u_c[:, k:]], 1), u_c

    return outputs
