"""What methods that sample a latent diffusion model share; `diffusion`, plain sampling, is DPD's control.

All stages (latents, fine-tuned weights) are DPD's, and shared with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from ddbench.context import Context, global_seed, seed_of
from ddbench.methods.latent_diffusion.diffusion import SamplerConfig, guided_and_conditional, require_finite, sample
from ddbench.methods.latent_diffusion.finetune import ExtraLoss, FinetuneConfig
from ddbench.methods.latent_diffusion.latents import Latents
from ddbench.methods.latent_diffusion.model import LatentModel, check_steps, denoiser_of, load_model
from ddbench.methods.latent_diffusion.model_files import find_model, identity_of
from ddbench.methods.latent_diffusion.prompts import Prompts, class_prompts
from ddbench.methods.latent_diffusion.stages import Stages
from ddbench.methods.shared.device import in_batches, resolve_precision
from ddbench.methods.shared.validation import at_least, check_sampled
from ddbench.types import DistilledSet, ImageSet

Denoise = Callable[[Tensor, Tensor], Tensor]
Shift = Callable[[int, Tensor, Tensor | None], Tensor]
Halves = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class StartLatents:
    """Where images come from: a scaled latent for each (n, c, h, w), class after class; and what is said of each."""

    z: Tensor
    prompts: Prompts


@dataclass(frozen=True)
class LatentDiffusionMethod:
    """Settings of every method that samples a latent diffusion model (not a method by itself).

    base: base model: a hub id or a pipeline folder of the Stable Diffusion family or of DiT, or tiny (embedded).
    prompt: template; {} becomes the readable class name. negative: what guidance leads away from, by text.
    weights: what is fine-tuned: LoRA layers (lora), every weight of the denoiser (all), or nothing (none).
    rank: rank and alpha of LoRA.
    tune_steps, tune_batch, tune_rate, tune_warmup: of fine-tuning by AdamW, constant rate after the warm-up.
    tune_empty: share of prompts replaced by the empty one. tune_ema: decay of the weight average, 0 for none.
    tune_decay: AdamW's weight decay. tune_weight: of the loss over time: min-SNR's (min-snr), or none (even).
    scheduler: the base's own (base), or a diffusers scheduler by class name. steps: sampling steps.
    guidance: classifier-free guidance scale.
    batch: images per sampling batch; changes speed and memory, not the images.
    precision: bf16 or fp16 (autocast; fine-tuning stays fp32 with fp16), fp32, or auto: bf16 on a GPU.
    """

    version: ClassVar[int] = 1
    check_params: ClassVar[dict[str, Any]] = {"base": "tiny", "tune_steps": 2, "tune_batch": 4, "steps": 2}
    strength: ClassVar[float] = 1.0

    base: str = "lcybuaa/Text2Earth"
    prompt: str = "A satellite image of {}"
    negative: str = ""
    weights: Literal["lora", "all", "none"] = "lora"
    rank: int = 4
    tune_steps: int = 20_000
    tune_batch: int = 8
    tune_rate: float = 5e-4
    tune_warmup: int = 200
    tune_empty: float = 0.0
    tune_ema: float = 0.0
    tune_decay: float = 1e-2
    tune_weight: Literal["min-snr", "even"] = "min-snr"
    scheduler: str = "base"
    steps: int = 50
    guidance: float = 7.5
    batch: int = 64
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"

    def __post_init__(self) -> None:
        check_sampled(self)
        at_least(self, tune_decay=0)

    def identity(self) -> str:
        """A digest of the base model's weights; UserError at once when there is no such model."""
        return identity_of(find_model(self.base))

    def distill(self, train: ImageSet, ipc: int, ctx: Context) -> DistilledSet:
        """`ipc` images per class, each sampled."""
        with global_seed(seed_of(0, "generated"), ctx.device):  # loading and LoRA draw from global generators
            model = load_model(self.base, ctx.device)
            self._check(model, train)
            stages = Stages(model, train, ctx, self.batch)
            latents = stages.latents()
            anchors = self._start_latents(stages, latents, ipc)
            if self.weights != "none":
                how = FinetuneConfig.of(self, ctx.device)
                stages.finetune(latents, self._image_prompts(stages), how, self._extra_loss(stages, latents))
            z = self._draw(model, anchors, ctx)
            images = model.decode(z, self.batch, partial(ctx.progress, desc="decoding"))
        labels = torch.arange(len(train.classes)).repeat_interleave(ipc)
        return DistilledSet(images, labels, train.classes, train.readable)

    def _start_latents(self, stages: Stages, latents: Latents, ipc: int) -> StartLatents:
        """No image has an anchor unless a method says so: zeros, which nothing looks at from pure noise."""
        train = stages.train
        labels = torch.arange(len(train.classes)).repeat_interleave(ipc)
        nowhere = torch.zeros(len(labels), *latents.mean.shape[1:])
        return StartLatents(nowhere, class_prompts(self.prompt, train.readable, labels))

    def _guided_denoiser(self, both: Halves, anchors: Tensor, scheduler: Any) -> tuple[Denoise, Shift | None]:
        """The denoiser and the shift that the sampler is given, for a batch of anchors; here the guided one, and none.

        both: the guided output, and that under the words alone.
        """
        return (lambda z, t: both(z, t)[0]), None

    def _image_prompts(self, stages: Stages) -> Prompts:
        """What is said of each training image while the base is fine-tuned; here its class."""
        return class_prompts(self.prompt, stages.train.readable, stages.train.labels)

    def _extra_loss(self, stages: Stages, latents: Latents) -> ExtraLoss | None:
        """What is added to the loss of fine-tuning; here nothing."""
        return None

    def _check(self, model: LatentModel, train: ImageSet) -> None:
        """UserError for what would fail after the training."""
        check_steps(model.scheduler_named(self.scheduler), self.steps)
        model.check_size(train.images.shape[-1])
        model.check_classes(len(train.classes), self.weights != "none")

    def _draw(self, model: LatentModel, anchors: StartLatents, ctx: Context) -> Tensor:
        """Latents (n, c, h, w) on the CPU; each image draws from a generator of its own."""
        prompts = anchors.prompts
        words = model.encode_prompts([*prompts.texts, self.negative], [*prompts.labels, -1])
        of, count = prompts.of, len(prompts.of)

        def some(part: slice) -> Tensor:
            return self._batch(model, anchors.z[part], (words[of[part].to(words.device)], words[-1:]),
                               [ctx.generator("sample", k) for k in range(count)[part]])  # fmt: skip

        with ctx.measure("sampling") as figures:
            z = torch.cat(list(in_batches(some, count, self.batch, partial(ctx.progress, desc="sampling"))))
            figures |= {"steps": self.steps, "images": count}
        require_finite(z)
        return z

    def _batch(
        self, model: LatentModel, anchors: Tensor, words: tuple[Tensor, Tensor], generators: Sequence[torch.Generator]
    ) -> Tensor:
        said, empty = words
        scheduler, anchors = model.scheduler_named(self.scheduler), anchors.to(model.device)
        network = denoiser_of(model, resolve_precision(self.precision, model.device))
        both = guided_and_conditional(network, said, empty.expand(len(anchors), *empty.shape[1:]), self.guidance)
        how = SamplerConfig(self.steps, self.strength)
        denoise, shift = self._guided_denoiser(both, anchors, scheduler)
        return sample(denoise, scheduler, anchors, how, list(generators), shift)[0].cpu()


@dataclass(frozen=True)
class ClusterCentreMethod(LatentDiffusionMethod):
    """Methods whose images come from the centres of a class's clusters of latents (not a method by itself)."""

    def _start_latents(self, stages: Stages, latents: Latents, ipc: int) -> StartLatents:
        return replace(super()._start_latents(stages, latents, ipc), z=centres(stages, latents, ipc))


def centres(stages: Stages, latents: Latents, ipc: int) -> Tensor:
    """k-means' centres of each class's scaled, flattened latents: (classes * ipc, c, h, w), class after class.

    ValueError for a class with fewer images than that.
    """
    train = stages.train
    check_clusters(train, ipc)
    found = []
    for label in stages.ctx.progress(range(len(train.classes)), "clusters", len(train.classes)):
        found.append(k_means(latents.means(train.of_class(label)).flatten(1).numpy(), ipc)[0])
    return torch.cat(found).view(-1, *latents.mean.shape[1:])


def check_clusters(train: ImageSet, ipc: int) -> None:
    """ValueError naming the classes with fewer than `ipc` images."""
    if few := train.fewer_than(ipc):
        raise ValueError(f"{ipc} clusters per class need {ipc} images per class, but: {', '.join(few)}")


def k_means(points: np.ndarray, count: int) -> tuple[Tensor, np.ndarray]:
    """Centres (count, d), float32, of points (n, d), and the cluster of each point."""
    from sklearn.cluster import KMeans

    fitted = KMeans(count, n_init=10, random_state=0).fit(points)
    return torch.from_numpy(fitted.cluster_centers_).float(), fitted.labels_
