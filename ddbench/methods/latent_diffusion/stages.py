"""What is made once and shared between runs and methods: latents, encoded prompts, the fine-tuned weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddbench.context import Context
from ddbench.methods.latent_diffusion.finetune import (
    ExtraLoss,
    FinetuneConfig,
    FinetuneData,
    finetune,
    finetune_loss,
    load_finetuned,
)
from ddbench.methods.latent_diffusion.latents import Latents, load_latents, save_latents
from ddbench.methods.latent_diffusion.model import LatentModel
from ddbench.methods.latent_diffusion.prompts import Prompts
from ddbench.methods.shared.device import in_batches
from ddbench.types import ImageSet
from ddbench.utils.files import digest

SHARED = "latent-diffusion@1"  # in the stages' keys for a method; goes up when what they hold may change
FEW_PROMPTS = 2048  # prompts whose words are encoded anew by every run; more of them are a stage


@dataclass(frozen=True)
class Stages:
    """The stages of one base model on one training split. batch: images at once.

    Each is keyed by no more than it needs: what is made of latents alone is shared by all bases with that autoencoder,
    and all of it by every method that samples a latent diffusion model.
    """

    model: LatentModel
    train: ImageSet
    ctx: Context
    batch: int

    @property
    def shared(self) -> Context:
        """The context whose stages all methods share that sample a latent diffusion model."""
        return replace(self.ctx, method=SHARED)

    def latents(self) -> Latents:
        """The training split, encoded."""
        return self._encoded("latents", 1)

    def views(self, latents: Latents, count: int) -> Latents:
        """The training split in `count` views, one after the other; those of one view are there already."""
        return latents if count == 1 else self._encoded("views", count)

    def _encoded(self, name: str, count: int) -> Latents:
        model, progress = self.model, partial(self.ctx.progress, desc=name)

        def make(folder: Path) -> None:
            save_latents(model, self.train.images, folder, views=count, progress=progress, batch=self.batch)

        folder = self.shared.stage(name, make, vae=model.vae_identity, count=count)
        return load_latents(folder, self.train.labels.repeat(count), model.vae.config.scaling_factor)

    def finetune(
        self, latents: Latents, prompts: Prompts, how: FinetuneConfig, addition: ExtraLoss | None = None
    ) -> None:
        """Put the fine-tuned weights, made once for every IPC and seed, into the model."""
        model, processes, progress = self.model, self.ctx.processes, partial(self.ctx.progress, desc="fine-tuning")

        def make(folder: Path) -> dict[str, float]:
            lesson = FinetuneData(latents, self._words(prompts), prompts.of)
            loss_at = finetune_loss(model, lesson, how, addition, processes.shard)
            return finetune(model, how, loss_at, folder=folder, progress=progress, processes=processes)

        key = {"prompts": digest([prompts.texts, prompts.of.tolist()]), **how.key()}
        key |= addition.key if addition else {}
        folder = self.shared.stage("finetune", make, together=True, base=model.identity, **key)
        load_finetuned(model, folder, how)

    def _words(self, prompts: Prompts) -> Tensor:
        """Conditions of the prompts, the empty one last; of many in float16, on disk, memory-mapped."""
        texts, labels = [*prompts.texts, ""], [*prompts.labels, -1]
        if len(texts) <= FEW_PROMPTS:
            return self.model.encode_prompts(texts, labels)

        def some(part: slice) -> Tensor:
            return self.model.encode_prompts(texts[part], labels[part]).half().cpu()

        def make(folder: Path) -> None:
            found = in_batches(some, len(texts), 256, partial(self.ctx.progress, desc="prompts"))
            save_file({"words": torch.cat(list(found))}, folder / "words.safetensors")

        folder = self.shared.stage("words", make, base=self.model.identity, prompts=digest([texts, labels]))
        return load_file(folder / "words.safetensors")["words"]
