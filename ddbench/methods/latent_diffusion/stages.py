"""What DPD makes once and shares between runs: latents, prototypes, the latent classifier, the fine-tuned weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddbench.context import Context
from ddbench.methods.dpd.classifier import Course, LatentClassifier, load_classifier, train_classifier
from ddbench.methods.dpd.prototypes import Prototype, find_prototypes, save_images
from ddbench.methods.latent_diffusion.finetune import Addition, Lesson, Tuning, load_tuned, tune, tuning_loss
from ddbench.methods.latent_diffusion.latents import Latents, load_latents, save_latents
from ddbench.methods.latent_diffusion.model import LatentModel
from ddbench.methods.latent_diffusion.prompts import Prompts
from ddbench.methods.shared.device import in_batches
from ddbench.types import ImageSet
from ddbench.utils.files import digest, read_json, write_json

SHARED = "latent-diffusion@1"  # in the stages' keys for a method; goes up when what they hold may change
FEW = 2048  # prompts whose words are encoded anew by every run; more of them are a stage


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
    def _shared(self) -> Context:
        return replace(self.ctx, method=SHARED)

    def latents(self) -> Latents:
        """The training split, encoded."""
        return self._encoded("latents", 1)

    def prototypes(self, latents: Latents, ipc: int, alpha: float) -> tuple[list[Prototype], Tensor]:
        """The prototypes of this IPC, made once for every seed, and the cluster of every image, int64 (n,).

        The stage holds prototypes.json, clusters.json and an image of each prototype.
        """
        progress = partial(self.ctx.progress, desc="prototypes")

        def make(folder: Path) -> None:
            found, owner = find_prototypes(self.train, latents.means(), ipc, alpha, progress)
            write_json(folder / "prototypes.json", [p.record() for p in found])
            write_json(folder / "clusters.json", owner.tolist())
            save_images(found, self.train, folder / "images")

        folder = self._shared.stage("prototypes", make, vae=self.model.vae_identity, ipc=ipc, alpha=alpha)
        found = [Prototype(**record) for record in read_json(folder / "prototypes.json")]
        return found, torch.tensor(read_json(folder / "clusters.json"))

    def views(self, latents: Latents, count: int) -> Latents:
        """The training split in `count` views, one after the other; those of one view are there already."""
        return latents if count == 1 else self._encoded("views", count)

    def _encoded(self, name: str, count: int) -> Latents:
        model, progress = self.model, partial(self.ctx.progress, desc=name)

        def make(folder: Path) -> None:
            save_latents(model, self.train.images, folder, views=count, progress=progress, batch=self.batch)

        folder = self._shared.stage(name, make, vae=model.vae_identity, count=count)
        return load_latents(folder, self.train.labels.repeat(count), model.vae.config.scaling_factor)

    def classifier(self, latents: Latents, how: Course) -> LatentClassifier:
        """The latent classifier, made once for every IPC and seed."""
        device, progress = self.model.device, partial(self.ctx.progress, desc="latent classifier")

        def make(folder: Path) -> dict[str, Any]:
            seen = self.views(latents, how.views)  # a stage itself: all processes must come by
            if not self.ctx.team.lead:
                return {}
            return train_classifier(seen, len(self.train.classes), how, device, folder=folder, progress=progress)

        folder = self._shared.stage("classifier", make, together=True, vae=self.model.vae_identity, **how.key())
        return load_classifier(folder, device)

    def tuned(self, latents: Latents, prompts: Prompts, how: Tuning, addition: Addition | None = None) -> None:
        """Put the fine-tuned weights, made once for every IPC and seed, into the model."""
        model, team, progress = self.model, self.ctx.team, partial(self.ctx.progress, desc="fine-tuning")

        def make(folder: Path) -> dict[str, float]:
            lesson = Lesson(latents, self._words(prompts), prompts.of)
            loss_at = tuning_loss(model, lesson, how, addition, team.part)
            return tune(model, how, loss_at, folder=folder, progress=progress, team=team)

        key = {"prompts": digest([prompts.texts, prompts.of.tolist()]), **how.key()}
        key |= addition.key if addition else {}
        folder = self._shared.stage("finetune", make, together=True, base=model.identity, **key)
        load_tuned(model, folder, how)

    def _words(self, prompts: Prompts) -> Tensor:
        """Conditions of the prompts, the empty one last; of many in float16, on disk, memory-mapped."""
        texts, labels = [*prompts.texts, ""], [*prompts.labels, -1]
        if len(texts) <= FEW:
            return self.model.words(texts, labels)

        def some(part: slice) -> Tensor:
            return self.model.words(texts[part], labels[part]).half().cpu()

        def make(folder: Path) -> None:
            found = in_batches(some, len(texts), 256, partial(self.ctx.progress, desc="prompts"))
            save_file({"words": torch.cat(list(found))}, folder / "words.safetensors")

        folder = self._shared.stage("words", make, base=self.model.identity, prompts=digest([texts, labels]))
        return load_file(folder / "words.safetensors")["words"]
