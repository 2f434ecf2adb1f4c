"""Minimax diffusion: fine-tune a model to draw images close to all of a class and unlike its earlier ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddbench.config import param
from ddbench.methods.latent_diffusion.base_method import LatentDiffusionBaseline
from ddbench.methods.latent_diffusion.finetune import ExtraLoss
from ddbench.methods.latent_diffusion.latents import Latents
from ddbench.methods.latent_diffusion.stages import Stages
from ddbench.methods.shared.validation import at_least


@dataclass(frozen=True)
class Minimax(LatentDiffusionBaseline):
    """Efficient dataset distillation via minimax diffusion (Gu et al., CVPR 2024, arXiv:2311.15529).

    Defaults are the paper's for its base, facebook/DiT-XL-2-256, which takes 256 px and is downloaded; any other base
    of `diffusion` works. The paper trains biases, norms and scales of a DiT (`weights=difffit`); the default, LoRA, is
    for any base.
    """

    name: ClassVar[str] = "minimax"
    citation: ClassVar[str] = "Gu et al., Efficient Dataset Distillation via Minimax Diffusion, CVPR 2024"

    version: ClassVar[int] = 4

    base: str = "facebook/DiT-XL-2-256"
    weights: Literal["lora", "all", "difffit"] = "lora"
    tune_steps: int = 12_000
    tune_rate: float = 1e-3
    tune_warmup: int = 0
    tune_empty: float = 0.1
    tune_ema: float = 0.9999
    tune_decay: float = 0.0
    tune_weight: Literal["min-snr", "even"] = "even"
    guidance: float = 4.0
    alike: float = param(0.002, "lambda_r: weight of the least cosine with remembered real latents, which is raised")
    unlike: float = param(
        0.008, "lambda_d: weight of the largest cosine with remembered clean estimates, which is lowered"
    )
    memory: int = param(64, "real latents, and clean estimates, that are remembered of each class")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, alike=0, unlike=0, memory=1)

    def _extra_loss(self, stages: Stages, latents: Latents) -> ExtraLoss:
        """Return lambda_r L_r + lambda_d L_d, averaged over the classes of a batch, the same for each of its images.

        An image with the empty prompt keeps its class here, as in the public code.
        """
        size = (len(stages.train.classes), self.memory, latents.mean[0].numel())
        real = ClassMemory(stages.model.denoiser, "minimax_real", size, stages.model.device)
        past = ClassMemory(stages.model.denoiser, "minimax_own", size, stages.model.device)

        def loss(z0_hat: Tensor, abar: Tensor, labels: Tensor, z: Tensor) -> Tensor:
            total = z0_hat.new_zeros(())
            classes = labels.unique().tolist()
            for c in classes:
                z0_hat_c, z_c = z0_hat[labels == c].flatten(1), z[labels == c].flatten(1)
                term = minimax_loss(z0_hat_c, real.recall(c), past.recall(c), self.alike, self.unlike)
                total = total + term / len(classes)
                real.remember(c, z_c)
                past.remember(c, z0_hat_c.detach())
            return total.expand(len(z0_hat))

        key = {"alike": self.alike, "unlike": self.unlike, "memory": self.memory}
        return ExtraLoss(loss, {"minimax": key, "labels_of_empty": True}, labels_of_empty=True)


def minimax_loss(z0_hat: Tensor, real: Tensor, past: Tensor, lambda_r: float, lambda_d: float) -> Tensor:
    """Return lambda_r (1 - min cos(z0_hat_i, real_m)) + lambda_d max cos(z0_hat_i, past_m), over all pairs (i, m).

    L_r brings the least similar pair closer, L_d separates the most similar one. z0_hat (n, d) are clean estimates,
    real (m, d) and past (k, d) the memories of their class; an empty memory adds 0.
    """
    unit = F.normalize(z0_hat, dim=1)
    loss = z0_hat.new_zeros(())
    if len(real):
        loss = loss + lambda_r * (1 - (unit @ F.normalize(real, dim=1).T).min())
    if len(past):
        loss = loss + lambda_d * (unit @ F.normalize(past, dim=1).T).max()
    return loss


class ClassMemory:
    """The last latents of each class, first in, first out. Buffers of the denoiser, so that checkpoints hold them.

    size: (classes, latents of a class, values of a latent).
    """

    def __init__(self, denoiser: nn.Module, name: str, size: tuple[int, int, int], device: torch.device) -> None:
        denoiser.register_buffer(name, torch.zeros(size, device=device))
        denoiser.register_buffer(f"{name}_count", torch.zeros(size[0], dtype=torch.long))
        self.latents, self.count = denoiser.get_buffer(name), denoiser.get_buffer(f"{name}_count")

    def recall(self, label: int) -> Tensor:
        """Return the remembered latents of a class, (at most as many as fit, d)."""
        return self.latents[label, : min(int(self.count[label]), self.latents.shape[1])]

    @torch.no_grad()
    def remember(self, label: int, z: Tensor) -> None:
        """Add latents z (n, d) of a class, each in place of the oldest."""
        for latent in z:
            self.latents[label, int(self.count[label]) % self.latents.shape[1]] = latent
            self.count[label] += 1
