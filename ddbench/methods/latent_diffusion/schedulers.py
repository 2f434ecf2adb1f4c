"""Schedulers of diffusers with the noise levels of a base."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ddbench.errors import UserError, unknown

MULTISTEP_SCHEDULERS = {"DPMSolverSinglestepScheduler", "SASolverScheduler", "UniPCMultistepScheduler"}
ANY_TIMES = ("DEISMultistepScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler")  # take any times


def choose_scheduler(own: Any, name: str, moving: Sequence[str], spacing: str, variance: str) -> Any:
    """Build the base's own scheduler `own` (name "base") or another of diffusers, with the base's noise levels.

    DDIM replaces a base's own scheduler that scales its noise (Euler's), which the sampler does not support. PNDM
    starts without its Runge-Kutta steps, which restart from latents of their own, as in the configurations of
    Stable Diffusion (its second step still repeats the first from the latents before it, and with them before the
    first pull). No scheduler clips: that default is for pixels in [-1, 1].

    moving: settings above 0 whose guidances move the latents between steps. spacing: of the times of sampling, "base"
    for the base's own; "beta" stands in the scheduler's configuration for `set_steps`. variance: "learned" for DDPM's
    noise as the base learned it, else "fixed".

    Raises UserError for an unknown name, for a scheduler that scales its noise, with `moving` for one that continues
    from its own copy of the latents, and for a spacing or variance that the scheduler does not have.
    """
    kinds = {kind.__name__: kind for kind in (type(own), *own.compatibles)}
    kinds = {"base": type(own)} | dict(sorted(kinds.items()))
    if name not in kinds:
        raise unknown("scheduler", name, kinds)
    config = dict(own.config)
    config |= {"timestep_spacing": spacing} if spacing not in ("base", "beta") else {}
    config |= {"variance_type": "learned_range"} if variance == "learned" else {}
    kind = kinds[name].__name__
    if spacing == "beta" and kind not in ANY_TIMES:
        raise UserError(f"scheduler {kind} has times of its own: spacing=beta needs scheduler={' or '.join(ANY_TIMES)}")
    if spacing != "base" and "timestep_spacing" not in inspect.signature(kinds[name]).parameters:
        raise UserError(f"scheduler {kind} knows no spacing: set spacing=base")
    scheduler = build_scheduler(kinds[name], config)
    if spacing == "beta":
        scheduler.register_to_config(ddbench_spacing=spacing)
    if variance == "learned" and kind != "DDPMScheduler":
        raise UserError(f"variance=learned: scheduler {kind} draws no such noise: set scheduler=DDPMScheduler")
    if moving and kind in MULTISTEP_SCHEDULERS:
        way_out = " and ".join(f"{setting}=0" for setting in moving)
        raise UserError(f"scheduler {kind} keeps its own latents, which undoes the guidance: set {way_out}")
    if float(scheduler.init_noise_sigma) == 1:
        return scheduler
    if name != "base":
        raise UserError(f"scheduler {name} is not variance preserving: use DDIMScheduler, for example")
    from diffusers import DDIMScheduler

    return build_scheduler(DDIMScheduler, config)


def set_steps(scheduler: Any, steps: int) -> None:
    """Set the sampling steps; without NumPy's warning that UniPC's `set_timesteps` gives it a tensor.

    With spacing "beta" (`choose_scheduler`) the times are T sin^2(pi i / (2 steps)) - 1, i from `steps` down to 1:
    quantiles of Beta(1/2, 1/2), close together at much and at little noise (Lee et al., arXiv 2407.12173, with 0.6 in
    place of 1/2).
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        scheduler.set_timesteps(steps)
    if _has_beta_times(scheduler):
        abars = scheduler.alphas_cumprod
        quantiles = torch.arange(steps, 0, -1, dtype=torch.float64).mul(math.pi / 2 / steps).sin().square()
        scheduler.timesteps = (len(abars) * quantiles - 1).round().long().clamp(min=0)
        abar = abars[scheduler.timesteps]
        scheduler.sigmas = torch.cat([((1 - abar) / abar).sqrt(), scheduler.sigmas[-1:]])


def _has_beta_times(scheduler: Any) -> bool:
    return scheduler.config.get("ddbench_spacing") == "beta"


def check_steps(scheduler: Any, steps: int) -> None:
    """Raise UserError when the scheduler does not have so many steps: now, not after the training."""
    try:
        set_steps(scheduler, steps)
    except ValueError as error:
        raise UserError(f"steps={steps}: {error}") from None
    if _has_beta_times(scheduler) and len(scheduler.timesteps.unique()) < steps:
        raise UserError(f"steps={steps}: two of them have one time with spacing=beta: set fewer steps, or spacing=base")


def check_schedule(folder: Path, scheduler: Any) -> None:
    """Raise UserError unless the scheduler has a share of signal in (0, 1] for each time, falling over time.

    The last may be 0 (zero terminal signal-to-noise ratio).
    """
    signal, times = scheduler.alphas_cumprod, scheduler.config.num_train_timesteps
    falling = bool((signal.diff() <= 0).all()) and bool((signal[:-1] > 0).all()) and float(signal[-1]) >= 0
    if len(signal) != times or not falling or float(signal[0]) > 1:
        raise UserError(
            f"{folder / 'scheduler_config.json'} describes no noise that grows over {times} times: copy or download it "
            "again"
        )


def build_scheduler(kind: Any, config: Any) -> Any:
    """Build a scheduler with the noise levels of `config`, without clipping. Raises UserError without its package."""
    settings = {"clip_sample": False, "thresholding": False, "skip_prk_steps": True}
    accepted = {name: value for name, value in settings.items() if name in inspect.signature(kind).parameters}
    try:
        return kind.from_config(config, **accepted)
    except ImportError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"scheduler {kind.__name__} cannot be built: {reason}; DDIMScheduler works without further packages"
        ) from None
