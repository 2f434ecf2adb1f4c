"""MGD3: sampling guided to the modes of a class, without training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ddbench.config import param
from ddbench.methods.latent_diffusion.base_method import Denoise, Outputs, Shift
from ddbench.methods.latent_diffusion.cluster_method import ClusterCentreMethod
from ddbench.methods.latent_diffusion.diffusion import clean_estimate
from ddbench.methods.latent_diffusion.rounds import SamplingBatch
from ddbench.methods.latent_diffusion.variance import step_std
from ddbench.methods.shared.validation import at_least, shares


@dataclass(frozen=True)
class MGD3(ClusterCentreMethod):
    """Mode-guided dataset distillation (Chan-Santiago et al., ICML 2025, arXiv:2505.18963).

    Each image is guided to a mode m, the centre of a cluster of latents:
    x_{t-1} = mu_t + sigma_t eps + lambda (m - x0_hat) sigma_t. x0_hat is the clean estimate of the network under the
    condition c, eps_theta(x_t, t, c), so without classifier-free guidance. (`estimate=guided` takes the guided output,
    as other public code does.) sigma_t is the deviation of DDPM's noise, for any sampler; the paper's model learned it
    (`variance=learned`). Nothing is fine-tuned unless asked for.
    """

    name: ClassVar[str] = "mgd3"
    citation: ClassVar[str] = (
        "Chan-Santiago et al., MGD3: Mode-Guided Dataset Distillation using Diffusion Models, ICML 2025"
    )

    version: ClassVar[int] = 3

    weights: Literal["lora", "all", "difffit", "none"] = "none"
    guidance: float = 4.0
    pull: float = param(0.1, "lambda: weight of the guidance to the mode, the centre of a cluster")
    estimate: Literal["prompt", "guided"] = param(
        "prompt",
        "clean estimate that is compared with the mode: under the prompt alone, the paper's formula (prompt), or after "
        "classifier-free guidance (guided)",
        added_later=True,
    )
    free: float = param(0.5, "share of the steps, the last ones, that are not guided (stop guidance)", "0 to 1")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, pull=0)
        shares(self, "free")

    def _guided_denoiser(self, outputs: Outputs, batch: SamplingBatch, scheduler: Any) -> tuple[Denoise, Shift]:
        """Return the denoiser, and the shift lambda (m - x0_hat) sigma_t that follows each guided step."""
        modes, prediction = batch.starts, scheduler.config.prediction_type
        abars = scheduler.alphas_cumprod.to(modes)
        direction = v = torch.zeros_like(modes)  # m - x0_hat, and the output for the variance, of the step under way

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            nonlocal direction, v
            u, u_prompt = outputs(x_t, t)
            estimated = u if self.estimate == "guided" else u_prompt
            estimated, v = estimated.tensor_split((x_t.shape[1],), 1)
            direction = modes - clean_estimate(x_t, estimated, abars[t], prediction)
            return u

        def shift(i: int, t: Tensor, next_t: Tensor | None) -> Tensor:
            steps = len(scheduler.timesteps)
            countdown = steps - 1 - i  # from steps - 1 to 0; the paper guides 49 to 26 of 50 steps (t_stop = 25)
            if next_t is None or (self.free and countdown <= self.free * steps):
                return torch.zeros_like(direction)
            return self.pull * step_std(v, abars[t], abars[next_t]) * direction

        return denoise, shift
