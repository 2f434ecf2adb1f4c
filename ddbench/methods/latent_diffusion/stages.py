"""Stages that runs and methods share: latents, encoded prompts, fine-tuned weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file
from torch import Tensor

from ddbench.context import Context
from ddbench.methods.latent_diffusion.class_vectors import add_class_vectors
from ddbench.methods.latent_diffusion.decoder import DECODER_FILE, tune_decoder
from ddbench.methods.latent_diffusion.finetune import (
    ExtraLoss,
    FinetuneConfig,
    FinetuneData,
    finetune,
    finetune_loss,
    load_finetuned,
)
from ddbench.methods.latent_diffusion.latents import Latents, load_latents
from ddbench.methods.latent_diffusion.model import LatentModel
from ddbench.methods.latent_diffusion.prompts import Prompts
from ddbench.methods.shared.device import in_batches
from ddbench.types import ImageSet
from ddbench.utils.files import digest
from ddbench.utils.images import turn
from ddbench.utils.tensor_file import write_rows

SHARED = "latent-diffusion@1"  # replaces the method in the stages' keys; raise it when their content may change
BATCHES = 4  # of images that are encoded before they are written; one that does not fit is halved for the rest of them
FEW_PROMPTS = 2048  # every run encodes so many prompts anew; more of them are a stage


@dataclass(frozen=True)
class Stages:
    """The stages of one base model on one training split, shared by all methods that sample such a model.

    A key holds no more than the stage needs: bases with one autoencoder share what follows from latents alone.

    batch: images encoded at once.
    """

    model: LatentModel
    train: ImageSet
    ctx: Context
    batch: int

    @property
    def shared(self) -> Context:
        """The context with SHARED in place of the method."""
        return replace(self.ctx, method=SHARED)

    def latents(self, views: int = 1) -> Latents:
        """Encode the training split in the first `views` of the eight views of `turn`, view after view."""
        name, model = "latents" if views == 1 else "views", self.model

        def encoded() -> Iterator[dict[str, np.ndarray]]:
            for view in range(views):
                for part in self.ctx.progress(self.train.images.split(BATCHES * self.batch), desc=name):
                    mean, std = model.encode(turn(part, view), iter, self.batch)
                    yield {"mean": mean.numpy(), "std": std.numpy()}

        def make(folder: Path) -> None:
            write_rows(folder / "latents.safetensors", views * len(self.train.images), encoded())

        folder = self.shared.stage(name, make, vae=model.vae_identity, count=views)
        return load_latents(folder, self.train.labels.repeat(views), model.vae.config.scaling_factor)

    def finetune(
        self, latents: Latents, prompts: Prompts, config: FinetuneConfig, extra_loss: ExtraLoss | None = None
    ) -> str:
        """Put the fine-tuned weights, trained once for every IPC and seed, into the model; return the stage's name."""
        model, processes = self.model, self.ctx.processes
        if config.vector_rate:
            add_class_vectors(model.denoiser, len(self.train.classes), model.tokens_read)

        def make(folder: Path) -> dict[str, float]:
            data = FinetuneData(latents, self._conditions(prompts), prompts.index)
            shard = range(config.batch)[processes.shard]
            parts = [shard[k :: config.parts] for k in range(min(config.parts, len(shard)))]
            parts_of_step = [slice(part.start, part.stop, part.step) for part in parts]
            losses = [finetune_loss(model, data, config, extra_loss, part) for part in parts_of_step]
            progress = partial(self.ctx.progress, desc="fine-tuning")
            loss_at = lambda step: (loss(step) for loss in losses)  # noqa: E731
            return finetune(model, config, loss_at, folder=folder, progress=progress, processes=processes)

        key = {"prompts": digest([prompts.texts, prompts.index.tolist()]), **config.key()}
        key |= extra_loss.key if extra_loss else {}
        folder = self.shared.stage("finetune", make, together=True, base=model.identity, **key)
        load_finetuned(model, folder, config)
        return folder.name

    def tune_decoder(self, steps: int) -> None:
        """Put a decoder that was trained on the training images, once for every IPC and seed, into the model."""
        model, progress = self.model, partial(self.ctx.progress, desc="decoder")

        def make(folder: Path) -> dict[str, Any]:
            return tune_decoder(model, self.train.images, steps, folder=folder, progress=progress)

        folder = self.shared.stage("decoder", make, vae=model.vae_identity, steps=steps)
        model.vae.decoder.load_state_dict(load_file(folder / DECODER_FILE))

    def _conditions(self, prompts: Prompts) -> Tensor:
        """Encode the prompts and, last, the empty one; many of them in float16, memory-mapped from the disk."""
        texts, labels = [*prompts.texts, ""], [*prompts.labels, -1]
        if len(texts) <= FEW_PROMPTS:
            return self.model.encode_prompts(texts, labels)

        def make(folder: Path) -> None:
            batches = in_batches(
                lambda part: {"words": self.model.encode_prompts(texts[part], labels[part]).half().cpu().numpy()},
                len(texts), 256, partial(self.ctx.progress, desc="prompts"),
            )  # fmt: skip
            write_rows(folder / "words.safetensors", len(texts), batches)

        folder = self.shared.stage("words", make, base=self.model.identity, prompts=digest([texts, labels]))
        return load_file(folder / "words.safetensors")["words"]
