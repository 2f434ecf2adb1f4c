"""Minimax diffusion: a model fine-tuned to draw what is like all of a class, and unlike what it drew before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddbench.methods.latent_diffusion.base_method import LatentDiffusionMethod
from ddbench.methods.latent_diffusion.finetune import ExtraLoss
from ddbench.methods.latent_diffusion.latents import Latents
from ddbench.methods.latent_diffusion.stages import Stages
from ddbench.methods.shared.validation import at_least


@dataclass(frozen=True)
class Minimax(LatentDiffusionMethod):
    """Efficient dataset distillation via minimax diffusion (Gu et al., CVPR 2024, arXiv:2311.15529).

    alike: weight of the least cosine of clean estimates with remembered real latents of their class, raised. unlike:
    weight of the largest cosine with remembered estimates of the class, lowered. memory: latents of a class that are
    remembered, of both kinds.

    Defaults are the paper's for its base, facebook/DiT-XL-2-256, which takes 256 px and is downloaded; any other base
    of `diffusion` works. Where the paper trains biases, norms and scales (DiffFit), here it is LoRA layers, or all
    weights.
    """

    name: ClassVar[str] = "minimax"
    citation: ClassVar[str] = "Gu et al., Efficient Dataset Distillation via Minimax Diffusion, CVPR 2024"

    version: ClassVar[int] = 2

    base: str = "facebook/DiT-XL-2-256"
    weights: Literal["lora", "all"] = "lora"
    tune_steps: int = 12_000
    tune_rate: float = 1e-3
    tune_warmup: int = 0
    tune_empty: float = 0.1
    tune_ema: float = 0.9999
    tune_decay: float = 0.0
    tune_weight: Literal["min-snr", "even"] = "even"
    guidance: float = 4.0
    alike: float = 0.002
    unlike: float = 0.008
    memory: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, alike=0, unlike=0, memory=1)

    def _extra_loss(self, stages: Stages, latents: Latents) -> ExtraLoss:
        classes, shape = len(stages.train.classes), latents.mean.shape[1:]
        network = stages.model.denoiser
        for name in ("real", "own"):  # buffers, so that checkpoints hold what is remembered
            network.register_buffer(
                f"minimax_{name}", torch.zeros(classes, self.memory, shape.numel()).to(stages.model.device)
            )
            network.register_buffer(f"minimax_{name}_count", torch.zeros(classes, dtype=torch.long))
        key = {"alike": self.alike, "unlike": self.unlike, "memory": self.memory}
        return ExtraLoss(lambda labels, z: self._terms(network, labels, z), {"minimax": key})

    def _terms(self, network: nn.Module, labels: Tensor, z: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """The terms of a batch's classes, as an equal addition for each of its images; the batch is then remembered."""

        def extra(clean: Tensor, abar: Tensor) -> Tensor:
            found = clean.new_zeros(())
            classes = labels[labels >= 0].unique().tolist()
            for label in classes:
                drawn, real = (part[labels == label].flatten(1) for part in (clean, z))
                alike, unlike = (remembered(network, name, label) for name in ("real", "own"))
                found = found + terms(drawn, alike, unlike, self.alike, self.unlike) / len(classes)
                remember(network, "real", label, real)
                remember(network, "own", label, drawn.detach())
            return found.expand(len(clean))

        return extra


def terms(drawn: Tensor, real: Tensor, own: Tensor, alike: float, unlike: float) -> Tensor:
    """alike (1 - least cosine with `real`) + unlike (largest cosine with `own`), over all pairs; 0 of an empty memory.

    drawn (n, d), real (m, d), own (k, d).
    """
    unit = F.normalize(drawn, dim=1)
    found = drawn.new_zeros(())
    if len(real):
        found = found + alike * (1 - (unit @ F.normalize(real, dim=1).T).min())
    if len(own):
        found = found + unlike * (unit @ F.normalize(own, dim=1).T).max()
    return found


def remembered(network: nn.Module, name: str, label: int) -> Tensor:
    """What is remembered of a class, (at most `memory`, d)."""
    store, count = getattr(network, f"minimax_{name}"), getattr(network, f"minimax_{name}_count")
    return store[label, : min(int(count[label]), store.shape[1])]


@torch.no_grad()
def remember(network: nn.Module, name: str, label: int, some: Tensor) -> None:
    """Add latents (n, d) to what is remembered of a class; the oldest are forgotten."""
    store, count = getattr(network, f"minimax_{name}"), getattr(network, f"minimax_{name}_count")
    for one in some:
        store[label, int(count[label]) % store.shape[1]] = one
        count[label] += 1
