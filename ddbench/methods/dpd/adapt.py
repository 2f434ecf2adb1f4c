"""Adapt the base's autoencoder to the target's training split: a small base has never seen such images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddbench.context import Context, generator_of
from ddbench.methods.dpd.reconstruction import reconstruction_loss
from ddbench.methods.dpd.training import Schedule, checkpoints_beside, fit, mixed_precision
from ddbench.methods.latent_model import LatentModel
from ddbench.methods.pixels import draw_batch
from ddbench.types import ImageSet

BATCH = 32


def adapted(model: LatentModel, train: ImageSet, schedule: Schedule, precision: str, ctx: Context) -> LatentModel:
    """The model with its autoencoder trained on `train`, a stage shared by every IPC and seed."""
    progress = partial(ctx.progress, desc="adapting the autoencoder")
    folder = ctx.stage(
        "autoencoder", lambda into: adapt(model, train, schedule, precision, folder=into, progress=progress),
        base=model.identity, precision=precision, **asdict(schedule),
    )  # fmt: skip
    model.vae.load_state_dict(load_file(folder / "vae.safetensors", device=str(model.device)))
    model.vae.requires_grad_(False).eval()
    return replace(model, identity=folder.name)


def adapt(
    model: LatentModel, train: ImageSet, schedule: Schedule, precision: str,
    *, folder: Path, progress: Callable[[Iterable], Iterable],
) -> None:  # fmt: skip
    """Train encoder and decoder on `train`; write `vae.safetensors`. All draws follow from the step; see `tune`."""
    model.vae.requires_grad_(True)

    def loss_at(step: int) -> Tensor:
        real = draw_batch(train, BATCH, "adapt", step)[0].to(model.device)
        grid = (BATCH, model.vae.config.latent_channels, *(n // model.factor for n in real.shape[2:]))
        noise = torch.randn(grid, generator=generator_of(0, "posterior", step))
        with mixed_precision(model.device, precision):
            return reconstruction_loss(model.vae, real, noise)

    with checkpoints_beside(folder) as kept:
        fit(model.vae, loss_at, schedule, progress, kept)
        weights = {k: v.detach().cpu().contiguous() for k, v in model.vae.state_dict().items()}
        save_file(weights, folder / "vae.safetensors")
