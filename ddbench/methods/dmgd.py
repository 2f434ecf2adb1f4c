"""DMGD: sampling matched to the distribution of a class, under a condition that is noisy at first; no training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddbench.config import param
from ddbench.methods.latent_diffusion.base_method import Denoise, LatentDiffusionBaseline, Outputs, Shift
from ddbench.methods.latent_diffusion.diffusion import clean_estimate
from ddbench.methods.latent_diffusion.latents import Latents
from ddbench.methods.latent_diffusion.rounds import SamplingBatch, is_guided
from ddbench.methods.latent_diffusion.stages import Stages
from ddbench.methods.latent_diffusion.starts import StartLatents, k_means
from ddbench.methods.latent_diffusion.variance import step_std
from ddbench.methods.shared.validation import at_least, rising
from ddbench.types import ImageSet

UNIT = 0.02  # deviation at which a DiT's class embeddings start: the paper's noise_weight is for vectors of that size


@dataclass(frozen=True)
class DMGD(LatentDiffusionBaseline):
    """Dual matching guided diffusion (Wang et al., CVPR 2026, arXiv:2605.03877).

    Distribution matching (section 4.3): image i of a class is made after images 1 to i - 1. In the guided steps it
    lowers L = <P, C>, the cost of the optimal transport from these and its own x0_hat to K points of the class's
    latents: x_{t-1} = mu_t + sigma_t eps - w sigma_t dL/dx_t. No gradient runs through the network.

    Semantic matching (section 4.2): at much noise the condition y is replaced by noise, then mixed with it.
    """

    name: ClassVar[str] = "dmgd"
    citation: ClassVar[str] = (
        "Wang et al., DMGD: Train-Free Dataset Distillation with Semantic-Distribution Matching in Diffusion Models, "
        "CVPR 2026"
    )
    check_params: ClassVar[dict[str, Any]] = {**LatentDiffusionBaseline.check_params, "steps": 4, "points": 3}

    windows: ClassVar[tuple[tuple[str, str], ...]] = (("pull_from", "pull_until"),)

    weights: Literal["lora", "all", "difffit", "none"] = "none"
    guidance: float = 4.0
    pull: float = param(0.05, "w: weight of distribution matching, 0 for none; the paper takes 0.05 to 0.5")
    pull_sigma: Literal["deviation", "variance"] = param(
        "deviation", "w is multiplied by sigma_t, as in the public code (deviation), or by its square, as in the paper"
    )
    pull_from: float = param(0.08, "share of the steps before the first that is matched to the distribution", "0 to 1")
    pull_until: float = param(0.4, "share of the steps after which none is matched to the distribution", "0 to 1")
    points: int = param(10, "K: clusters of a class's latents; a class of fewer images has one for each")
    epsilon: float = param(0.1, "weight of the entropy in the transport", "above 0")
    iterations: int = param(5, "Sinkhorn iterations")
    semantic: bool = param(True, "semantic matching: a condition that is noisy at much noise")
    noise_high: float = param(0.9, "share of the noise schedule above which the condition is noise alone", "0 to 1")
    noise_low: float = param(0.5, "share of the noise schedule below which the condition has no noise", "0 to 1")
    noise_weight: float = param(0.06, "weight of the noise in the condition", "above 0")
    label_weight: float = param(0.01, "weight of another class's condition in the condition")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, pull=0, points=1, iterations=1, label_weight=0)
        rising(self, "noise_low", "noise_high")
        if not (self.epsilon > 0 and self.noise_weight > 0):
            raise ValueError("epsilon and noise_weight must be above 0")

    def _in_rounds(self) -> bool:
        return self.pull > 0

    def _start_latents(self, stages: Stages, latents: Latents, ipc: int) -> StartLatents:
        """Return starts in pure noise; the targets are `class_points`, one stage for every IPC, seed and base."""
        starts = super()._start_latents(stages, latents, ipc)
        if not self.pull:
            return starts

        def make(folder: Path) -> None:
            progress = partial(stages.ctx.progress, desc="clusters")
            k, m = class_points(stages.train, latents, self.points, progress)
            save_file({"k": k, "m": m}, folder / "points.safetensors")

        folder = stages.shared.stage("points", make, vae=stages.model.vae_identity, count=self.points)
        points = load_file(folder / "points.safetensors")
        return replace(starts, targets=(points["k"], points["m"]))

    def _guided_denoiser(self, outputs: Outputs, batch: SamplingBatch, scheduler: Any) -> tuple[Denoise, Shift]:
        abars, prediction = scheduler.alphas_cumprod.to(batch.starts), scheduler.config.prediction_type
        x0_hat = v = torch.zeros_like(batch.starts)  # clean estimate, and the output for the variance, of this step
        conditions = condition_mixer(batch, self.noise_weight, self.label_weight) if self.semantic else None
        if self.pull:
            k, m = (of_classes[batch.labels].to(x0_hat) for of_classes in batch.targets)
            C_finished = distances(batch.finished.flatten(2), k)

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            """Return u under the mixed condition; lambda rises from 0 at noise_high to 1 at noise_low."""
            nonlocal x0_hat, v
            s = float(t) / len(abars)
            lam = min(max((self.noise_high - s) / (self.noise_high - self.noise_low), 0.0), 1.0)
            mixed = conditions(lam, s <= self.noise_high) if conditions and lam < 1 else ()
            u = outputs(x_t, t, *mixed)[0]
            eps, v = u.tensor_split((x_t.shape[1],), 1)
            x0_hat = clean_estimate(x_t, eps, abars[t], prediction)
            return u

        def shift(i: int, t: Tensor, next_t: Tensor | None) -> Tensor:
            """Return -w sigma_t dL/dx_t; x0_hat is (x_t - sqrt(1 - abar_t) eps) / sqrt(abar_t), with eps constant."""
            steps = len(scheduler.timesteps)
            if not self.pull or next_t is None or not is_guided(i, steps, self.pull_from, self.pull_until):
                return torch.zeros_like(x0_hat)
            with torch.enable_grad():
                x0 = x0_hat.detach().requires_grad_()
                C = torch.cat([C_finished, distances(x0.flatten(1).unsqueeze(1), k)], 1)
                L = transport_cost(C, m, self.epsilon, self.iterations)
                (dL_dx0,) = torch.autograd.grad(L.sum(), x0)  # the images of a batch have separate terms
            sigma = step_std(v, abars[t], abars[next_t])
            sigma = sigma.square() if self.pull_sigma == "variance" else sigma
            return -self.pull * sigma * dL_dx0 / abars[t].sqrt()

        return denoise, shift


def transport_cost(C: Tensor, m: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Return <P, C> (n,), the cost of the plan that Sinkhorn's iterations find for costs C (n, i, K) (eq. 12).

    P begins as exp(-C / epsilon). Each iteration scales its rows to 1 / i, then its columns to m (n, K), whose rows
    add up to 1. Computed with logarithms, so small epsilon do not underflow.
    """
    log_a, log_m = -torch.tensor(float(C.shape[1])).log(), m.clamp(min=1e-30).log().unsqueeze(1)
    log_P = (-C / epsilon).masked_fill(m.unsqueeze(1) == 0, -1e4)  # a point of share 0 takes part in no row
    for _ in range(iterations):
        log_P = log_P + log_a - log_P.logsumexp(2, keepdim=True)
        log_P = log_P + log_m - log_P.logsumexp(1, keepdim=True)
    return (log_P.exp() * C).sum((1, 2))


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Return the Euclidean distances (n, i, K) of vectors a (n, i, d) and b (n, K, d), scaled to unit length."""
    a, b = F.normalize(a, dim=2), F.normalize(b, dim=2)
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")  # the other mode rounds small distances


def class_points(train: ImageSet, latents: Latents, count: int, progress: Callable = iter) -> tuple[Tensor, Tensor]:
    """Return k (classes, count, d), k-means' centres of each class's scaled latents, and m, their shares (eq. 16).

    A class with fewer images than `count` has as many centres as images, and further points of share 0.
    """
    k, m = [], []
    for label in progress(range(len(train.classes))):
        points = latents.means(train.of_class(label)).flatten(1).numpy()
        centres, owner = k_means(points, min(count, len(points)))
        k.append(centres[torch.arange(count) % len(centres)])
        m.append(torch.bincount(torch.from_numpy(owner).long(), minlength=count) / len(points))
    return torch.stack(k), torch.stack(m)


def condition_mixer(
    batch: SamplingBatch, noise_weight: float, label_weight: float
) -> Callable[[float, bool], list[Tensor]]:
    """Return (lambda, with y') -> the mixed conditions of the images, and their mixed negative conditions.

    Both are mixed, as in the public code, with noise of their own. y' is the condition of another class, drawn once for
    each image. The noise u is drawn at each call; for a text, it is scaled to the size of its tokens (ours).
    """
    model, generators, classes = batch.model, batch.generators("semantic"), len(batch.conditions) - 1
    y, negative = model.embed(batch.condition), model.embed(batch.negative)
    steps = [int(torch.randint(1, max(classes, 2), (), generator=g)) for g in generators]
    rows = [(row + step) % classes for row, step in zip(batch.rows.tolist(), steps, strict=True)]
    other = model.embed(batch.conditions[rows])

    def mixed(lam: float, with_label: bool) -> list[Tensor]:
        # one noise for all blocks of a DiT, whose class has one vector; another for each token
        shape = (2, 1 if model.text is None else y.shape[1], y.shape[2])
        u = torch.stack([torch.rand(shape, generator=g) for g in generators], 1).to(y)
        weights = (lam, noise_weight, label_weight if with_label and classes > 1 else 0.0)
        sizes = [1.0 if model.text is None else vectors.std(2, keepdim=True) / UNIT for vectors in (y, negative)]
        return [
            mix_condition(vectors, size * noise, other, weights)
            for vectors, size, noise in zip((y, negative), sizes, u, strict=True)
        ]

    return mixed


def mix_condition(y: Tensor, u: Tensor, other: Tensor, weights: tuple[float, float, float]) -> Tensor:
    """Return sqrt(lambda) y + sqrt(1 - lambda) (noise_weight u + label_weight y'), with y's mean and deviation.

    y, u, other (y'): (n, k, d). weights: lambda, noise_weight, label_weight. Mean and deviation are of each vector.
    """
    lam, noise_weight, label_weight = weights
    mix = lam**0.5 * y + (1 - lam) ** 0.5 * (noise_weight * u + label_weight * other)
    mean, std = mix.mean(2, keepdim=True), mix.std(2, keepdim=True)
    return (mix - mean) / std * y.std(2, keepdim=True) + y.mean(2, keepdim=True)
