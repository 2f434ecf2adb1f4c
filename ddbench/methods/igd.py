"""IGD: sampling guided to images whose gradients are those of a class, and away from the images so far; no training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ddbench.config import param
from ddbench.methods.latent_diffusion.base_method import Denoise, LatentDiffusionBaseline, Outputs, Shift
from ddbench.methods.latent_diffusion.diffusion import clean_estimate
from ddbench.methods.latent_diffusion.latents import Latents
from ddbench.methods.latent_diffusion.rounds import SamplingBatch, is_guided
from ddbench.methods.latent_diffusion.stages import Stages
from ddbench.methods.latent_diffusion.starts import StartLatents
from ddbench.methods.shared.surrogates import (
    SurrogateConfig,
    TargetConfig,
    cosine,
    image_gradients,
    load_surrogate,
)
from ddbench.methods.shared.validation import at_least

UNIT = 0.0015  # of rho_t


@dataclass(frozen=True)
class Guidance:
    """A guidance of steps: -k rho_t dG/dx_t, and deviation's.

    dG_dx0: x0_hat -> the gradient dG/dx0_hat of the lowered quantity, both (n, c, h, w); None for none.
    k, gamma: weights of the two.
    start, end: shares of the steps before the first guided one, and after which none is.
    """

    dG_dx0: Callable[[Tensor], Tensor] | None
    k: float
    gamma: float
    start: float
    end: float


@dataclass(frozen=True)
class IGD(LatentDiffusionBaseline):
    """Influence-guided diffusion (Chen et al., ICLR 2025).

    Influence guidance: a surrogate is trained on the real images. At snapshots e of its weights theta,
    G_I = mean_e 1 - cos(grad_theta l(theta_e; x0_hat, c), g_{c,e}) compares the gradient of an image of class c with g,
    the mean gradient of real images of the class. Deviation guidance: G_D = cos(x_t, m), m the nearest to x_t of the
    latents of the class's finished images. With s the sampler's step, guided steps are

    x_{t-1} = s(x_t, t, eps) - k rho_t dG_I/dx_t - gamma dG_D/dx_t,

    rho_t = 0.0015 sqrt(1 - abar_t) RMS(eps) / RMS(dG_I/dx_t). dG_I/dx_t runs through surrogate, decoder and denoiser.
    The equations are those of the public code: the paper's text was not at hand.
    """

    name: ClassVar[str] = "igd"
    citation: ClassVar[str] = "Chen et al., Influence-Guided Diffusion for Dataset Distillation, ICLR 2025"
    check_params: ClassVar[dict[str, Any]] = {
        **LatentDiffusionBaseline.check_params, "steps": 4, "surrogate_epochs": 2, "target_images": 4,
        "choice_images": 4,
    }  # fmt: skip
    moving: ClassVar[tuple[str, ...]] = ("influence", "deviation")
    windows: ClassVar[tuple[tuple[str, str], ...]] = (("guided_from", "guided_until"),)

    weights: Literal["lora", "all", "difffit", "none"] = "none"
    guidance: float = 4.0
    influence: float = param(5.0, "k: weight of influence guidance, 0 for none")
    deviation: float = param(120.0, "gamma: weight of deviation guidance, 0 for none")
    guided_from: float = param(0.08, "share of the steps before the first that is guided", "0 to 1")
    guided_until: float = param(0.4, "share of the steps after which none is guided", "0 to 1")
    backprop: Literal["denoiser", "decoder"] = param(
        "denoiser",
        "influence's gradient runs through decoder and denoiser, as published (denoiser), or through the decoder "
        "alone: the predicted noise counts as constant, which is cheaper and ours (decoder)",
    )
    memory: int = param(64, "finished latents of a class, the last ones, that deviation guidance looks at", "1 or more")
    surrogate: Literal["convnet", "convnet6", "resnet_ap10", "resnet18_in"] = param(
        "convnet", "network whose gradients are compared; convnet has six blocks at 224 and 256 px, as published"
    )
    surrogate_epochs: int = param(50, "passes of the surrogate over the real images", "1 or more")
    surrogate_rate: float = param(0.01, "learning rate of the surrogate, constant", "above 0")
    surrogate_decay: float = param(5e-4, "weight decay of the surrogate")
    surrogate_batch: int = param(64, "images in a step of the surrogate", "1 or more")
    surrogate_images: int = param(0, "images per class that the surrogate is trained on, drawn at random; 0 for all")
    similarity: float = param(
        0.7,
        "a snapshot guides if the mean cosine of its class gradients with those of the last guiding one is below this; "
        "the first, before training, always guides",
    )
    choice_images: int = param(80, "real images per class whose gradients choose the snapshots", "1 or more")
    target_images: int = param(200, "real images per class whose mean gradient is g", "1 or more")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, influence=0, deviation=0, memory=1, surrogate_epochs=1, surrogate_batch=1, surrogate_decay=0)
        at_least(self, surrogate_images=0, choice_images=1, target_images=1)
        if not self.surrogate_rate > 0:
            raise ValueError("surrogate_rate must be above 0")

    def _in_rounds(self) -> bool:
        return self.deviation > 0

    def _start_latents(self, stages: Stages, latents: Latents, ipc: int) -> StartLatents:
        """Return starts in pure noise; the target is the surrogate, one for every IPC, seed and base."""
        starts = super()._start_latents(stages, latents, ipc)
        if not self.influence:
            return starts
        target = TargetConfig(self.similarity, self.choice_images, self.target_images)
        return replace(starts, targets=load_surrogate(stages.train, stages.ctx, self._surrogate_config(), target))

    def _surrogate_config(self) -> SurrogateConfig:
        return SurrogateConfig(
            self.surrogate, self.surrogate_epochs, self.surrogate_rate, self.surrogate_decay, self.surrogate_batch,
            self.surrogate_images,
        )  # fmt: skip

    def _guidance(self, batch: SamplingBatch) -> Guidance:
        """Return the guidance of a batch."""
        dG_dx0 = influence_gradient(batch) if self.influence else None
        return Guidance(dG_dx0, self.influence, self.deviation, self.guided_from, self.guided_until)

    def _guided_denoiser(self, outputs: Outputs, batch: SamplingBatch, scheduler: Any) -> tuple[Denoise, Shift | None]:
        guidance = self._guidance(batch)
        dG_dx0, k, gamma = guidance.dG_dx0, guidance.k, guidance.gamma
        if not (dG_dx0 or gamma):
            return super()._guided_denoiser(outputs, batch, scheduler)
        abars, prediction = scheduler.alphas_cumprod.to(batch.starts), scheduler.config.prediction_type
        m = batch.finished[:, -self.memory :] if gamma else batch.finished[:, :0]
        exact = bool(dG_dx0) and self.backprop == "denoiser"
        numbers, move = count(), torch.zeros_like(batch.starts)  # steps; the shift that follows the step under way

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            nonlocal move
            move, abar = torch.zeros_like(x_t), abars[t]
            if not is_guided(next(numbers), len(scheduler.timesteps), guidance.start, guidance.end):
                return outputs(x_t, t)[0]
            with torch.set_grad_enabled(exact):
                x = x_t.detach().requires_grad_(exact)
                u = outputs(x, t)[0]
                x0_hat = clean_estimate(x, u[:, : x.shape[1]], abar, prediction)
            if dG_dx0:
                direction = dG_dx0(x0_hat.detach())
                direction = direction / rms(direction)  # rho_t ignores its size; at size 1 half precision is enough
                direction = torch.autograd.grad(x0_hat, x, direction)[0] if exact else direction
                eps = (x_t - abar.sqrt() * x0_hat.detach()) / (1 - abar).sqrt()
                rho = UNIT * (1 - abar).sqrt() * rms(eps) / rms(direction)
                move = move - k * rho * direction
            if m.shape[1]:
                move = move - gamma * nearest_cosine_gradient(x_t, m)
            return u.detach()

        def shift(i: int, t: Tensor, next_t: Tensor | None) -> Tensor:
            return torch.zeros_like(move) if next_t is None else move

        return denoise, shift


def influence_gradient(batch: SamplingBatch) -> Callable[[Tensor], Tensor]:
    """Return x0_hat -> dG_I/dx0_hat, both (n, c, h, w), for the images of a batch, whose target is a `Surrogate`."""
    surrogate, c = batch.targets, batch.labels.to(batch.starts.device)
    g = surrogate.targets(batch.labels.tolist())

    def dG_dx0(x0_hat: Tensor) -> Tensor:
        with torch.enable_grad():
            z = x0_hat.detach().requires_grad_()
            images = (batch.model.pixels(z, surrogate.network.size) + 1) / 2
            x = images.detach().requires_grad_()
            dG_dx = torch.zeros_like(x)
            for e, theta in enumerate(surrogate.weights):  # one graph at a time
                losses = 1 - cosine(image_gradients(surrogate.network, theta, x, c), g[:, e])
                dG_dx += torch.autograd.grad(losses.sum(), x)[0] / len(g[0])  # the images have separate terms
            return torch.autograd.grad(images, z, dG_dx)[0]

    return dG_dx0


def nearest_cosine_gradient(x: Tensor, m: Tensor) -> Tensor:
    """Return the gradient (n, c, h, w) in x of cos(x, m*), m* the latent of m (n, k, c, h, w) of the largest cosine."""
    length = x.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    unit, units = x / length, F.normalize(m.flatten(2), dim=2)
    cosines = torch.einsum("nd,nkd->nk", unit.flatten(1), units)
    best, nearest = cosines.max(1)
    m_unit = units[torch.arange(len(x), device=x.device), nearest].view_as(x)
    return (m_unit - best.view(-1, 1, 1, 1) * unit) / length


def rms(x: Tensor) -> Tensor:
    """Return the root mean square of each image's values, (n, 1, 1, 1), at least 1e-30."""
    return x.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-30)
