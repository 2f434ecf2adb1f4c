"""Latent polishing: sampled latents are moved until the base predicts the noise that is put on them (CaO2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ddbench.context import Context
from ddbench.methods.latent_diffusion.diffusion import add_noise, noise_estimate
from ddbench.methods.shared.device import in_batches

LARGEST = 10.0  # weight of the largest error of an image


@dataclass(frozen=True)
class Polishing:
    """Condition-aware latent optimisation (Wang et al., ICCV 2025, arXiv:2506.22637, by its public code).

    network: (z_t, times (n,), condition) -> u, the base without classifier-free guidance.
    times, abars: of the noise levels that are drawn from, int64 and float (k,), on the latents' device.
    prediction: output of the network.
    steps, rate: of Adam.
    """

    network: Callable[[Tensor, Tensor, Tensor], Tensor]
    times: Tensor
    abars: Tensor
    prediction: str
    steps: int
    rate: float

    def loss(self, z: Tensor, eps: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        """Return L (n,) = mean (eps - eps_hat(z_t))^2 + 10 max |eps - eps_hat(z_t)|, of each image.

        z, eps: (n, c, h, w). level: of each image, its index into `times`, int64 (n,).
        """
        abar = self.abars[level]
        z_t = add_noise(z, eps, abar)
        u = self.network(z_t, self.times[level], condition)
        error = (eps - noise_estimate(z_t, u, abar, self.prediction)).flatten(1)
        return error.square().mean(1) + LARGEST * error.abs().amax(1)

    @torch.enable_grad()
    def polish(self, z: Tensor, condition: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Return z (n, c, h, w) after `steps` steps of Adam on L: one eps for each image, a level for each step.

        generators: on the CPU, one per image; they draw both, so an image does not depend on the others.
        """
        eps = torch.stack([torch.randn(z.shape[1:], generator=g) for g in generators]).to(z)
        levels = [torch.randint(len(self.times), (self.steps,), generator=g) for g in generators]
        z = z.clone().requires_grad_()
        adam = torch.optim.Adam([z], self.rate)
        for level in torch.stack(levels, 1).to(z.device):
            L = self.loss(z, eps, level, condition)
            (z.grad,) = torch.autograd.grad(L.sum(), z)  # the images have separate terms
            adam.step()
        return z.detach()


def low_noise(scheduler: Any, times: Tensor, share: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return times and abars (k,) of the last `share` of the sampling times, but for the very last; at least one."""
    rising = times.unique()
    lowest = rising[1 : max(2, int(share * len(rising)))] if len(rising) > 1 else rising
    return lowest.to(device), scheduler.alphas_cumprod[lowest.to(scheduler.alphas_cumprod.device)].to(device)


def polish_set(
    polishing: Polishing, z: Tensor, labels: Sequence[int], condition: Callable[[list[int]], Tensor], batch: int,
    ctx: Context,
) -> Tensor:  # fmt: skip
    """Return the polished latents of a set, (n, c, h, w) on the CPU. The processes of a launch share the images.

    z: sampled latents. labels: class of each. condition: images' numbers -> their conditions. batch: images at once.
    Image j of class y draws by the name (y, j), whatever number of images a class has.
    """
    names, numbers = [], Counter[int]()
    for y in labels:
        names.append((y, numbers[y]))
        numbers[y] += 1
    shard = range(len(z))[ctx.processes.shard]

    def compute(part: slice) -> list[Tensor]:
        images = list(shard[part])
        c, generators = condition(images), [ctx.generator("polish", *names[i]) for i in images]
        # clones: a view would be sent to other processes with the whole of its batch
        return [latent.clone() for latent in polishing.polish(z[images].to(c.device), c, generators).cpu()]

    with ctx.measure("polishing") as figures:
        parts = in_batches(compute, len(shard), batch, partial(ctx.progress, desc="polishing"))
        polished = ctx.processes.all_gather([latent for part in parts for latent in part])
        figures |= {"steps": polishing.steps, "images": len(polished)}
    return torch.stack(polished)
