"""The base class of methods that sample a latent diffusion model: shared settings, fine-tuning, sampling."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from ddbench.context import Context, global_seed, seed_of
from ddbench.errors import UserError
from ddbench.methods.latent_diffusion.class_numbers import class_numbers, read_class_numbers
from ddbench.methods.latent_diffusion.diffusion import (
    SamplerConfig,
    guided_and_conditional,
    interval_scale,
    sample,
    sampling_times,
)
from ddbench.methods.latent_diffusion.finetune import ExtraLoss, FinetuneConfig
from ddbench.methods.latent_diffusion.latents import Latents
from ddbench.methods.latent_diffusion.model import LatentModel, check_base, check_prompts, denoiser_of, load_model
from ddbench.methods.latent_diffusion.model_files import find_model, model_identity
from ddbench.methods.latent_diffusion.polishing import Polishing, low_noise, polish_set
from ddbench.methods.latent_diffusion.pools import Pool, choose
from ddbench.methods.latent_diffusion.prompts import Prompts, class_prompts
from ddbench.methods.latent_diffusion.rounds import SampleBatch, SamplingBatch, is_guided, sample_rounds
from ddbench.methods.latent_diffusion.schedulers import check_steps
from ddbench.methods.latent_diffusion.settings import BaselineSettings, DiffusionSettings
from ddbench.methods.latent_diffusion.stages import Stages
from ddbench.methods.latent_diffusion.starts import StartLatents, fixed_starts
from ddbench.methods.shared.device import resolve_precision
from ddbench.methods.shared.selection import cluster_weights
from ddbench.types import DistilledSet, ImageSet
from ddbench.utils.files import digest

log = logging.getLogger("ddbench")

Outputs = Callable[..., tuple[Tensor, Tensor]]  # `guided_and_conditional`'s
Denoise = Callable[[Tensor, Tensor], Tensor]
Shift = Callable[[int, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class LatentDiffusionMethod(DiffusionSettings):
    """The steps of every method that samples a latent diffusion model (not a method by itself)."""

    version: ClassVar[int] = 2
    check_params: ClassVar[dict[str, Any]] = {"base": "tiny", "tune_steps": 2, "tune_batch": 4, "steps": 2}

    def identity(self) -> str:
        """Return a digest of the base model's weights and of `base_classes`. Raises UserError for a missing file."""
        identity = model_identity(self.base, find_model(self.base))
        return digest([identity, read_class_numbers(self.base_classes)])[:16] if self.base_classes else identity

    def models(self) -> dict[str, str]:
        """Return the models that a run loads, by the setting that names them."""
        reads_captions = self.captioner not in ("template", "palette") and self.strength > 0
        return {"base": self.base} | ({"captioner": self.captioner} if reads_captions else {})

    def check_models(self, readable: Sequence[str]) -> None:
        """Raise UserError if the base is not whole, or has one condition for two classes."""
        check_base(self.base, self.prompt, readable)

    def distill(self, train: ImageSet, ipc: int, ctx: Context) -> DistilledSet:
        """Fine-tune the base, sample `ipc` latents per class, decode them."""
        with global_seed(seed_of(0, "generated"), ctx.device):  # loading and LoRA draw from the global generators
            model = load_model(self.base, ctx.device)
            if self.base_classes or self.base_size:
                numbers = class_numbers(self.base_classes, train.classes, train.readable) if self.base_classes else ()
                model = model.adapted(self.base_size, numbers)
            self._check(model, train, ctx)
            stages = Stages(model, train, ctx, self.batch)
            latents = stages.latents()
            starts = self._start_latents(stages, latents, ipc)
            weights = ""
            if self.weights != "none":
                extra_loss, prompts = self._extra_loss(stages, latents), self._image_prompts(stages)
                views = 2 if self.tune_mirror else 1
                of_views = replace(prompts, index=prompts.index.repeat(views))  # so it is part of the stage's key
                seen = stages.latents(views) if self.tune_mirror else latents
                config = self._finetune_config(ctx.device, len(train.labels), len(train.classes))
                weights = stages.finetune(seen, of_views, config, extra_loss)
            starts, z = self._draw_set(stages, latents, starts, weights)
            z = self._polish(model, z, starts.prompts, ctx)
            images = model.decode(z, self.batch, partial(ctx.progress, desc="decoding"), train.images.shape[-1])
        return train.distilled(images, weights=starts.weights)

    def _check(self, model: LatentModel, train: ImageSet, ctx: Context) -> None:
        """Raise UserError now for settings that would fail after the training."""
        model.check_size(train.images.shape[-1])
        moving = [name for name in self.moving if getattr(self, name) > 0]
        scheduler = model.make_scheduler(self.scheduler, moving, self.spacing, self.variance)
        check_steps(scheduler, self.steps)
        for first, end in self.windows if moving else ():
            steps, share = len(scheduler.timesteps), vars(self)
            if not any(is_guided(i, steps, share[first], share[end]) for i in range(steps - 1)):
                between = f"{first}={share[first]} and {end}={share[end]}"
                log.warning("no step is guided: none of the %d before the last lies between %s", steps - 1, between)
        if self.scheduler == "base" and type(scheduler) is not type(model.scheduler):
            names = (type(s).__name__ for s in (model.scheduler, scheduler))
            log.warning("the base's scheduler %s is not variance preserving: %s replaces it", *names)
        if self.weights == "difffit" and model.text is not None:
            raise UserError("weights=difffit: this base is conditioned by text, DiffFit is for a DiT; try weights=lora")
        if self.guidance_channels > (channels := model.denoiser.config.in_channels):
            problem = f"guidance_channels={self.guidance_channels}: latents of this base have {channels} channels"
            raise UserError(f"{problem}; set 0 to guide all of them")
        if self.tune_prompts and self.weights != "none" and model.text is None:
            raise UserError("tune_prompts: this base is conditioned by class, whose vectors are learned anyway; set 0")
        if self.weights != "none" and self.tune_batch < ctx.processes.size:
            problem = f"tune_batch={self.tune_batch} is too small for {ctx.processes.size} processes"
            raise UserError(f"{problem}: each needs one image")
        model.check_classes(len(train.classes), self.weights != "none")
        if model.text is not None:
            prompts = class_prompts(self.prompt, train.readable, train.labels).texts
            check_prompts(model.tokenizer, model.tokens_read, prompts, train.readable)

    def _start_latents(self, stages: Stages, latents: Latents, ipc: int) -> StartLatents:
        """Return the images' starts: by default zeros, of which only the shape counts at strength 1."""
        labels = stages.train.class_labels(ipc)
        zeros = torch.zeros(len(labels), *latents.mean.shape[1:])
        return fixed_starts(zeros, class_prompts(self.prompt, stages.train.readable, labels))

    def _starts_by_tuned(self, stages: Stages, latents: Latents, starts: StartLatents, weights: str) -> StartLatents:
        """Return the starts of a method that needs the fine-tuned base for them.

        weights: name of the stage of the fine-tuned weights, empty for the base's own.
        """
        return starts

    def _draw_set(
        self, stages: Stages, latents: Latents, starts: StartLatents, weights: str
    ) -> tuple[StartLatents, Tensor]:
        """Return the starts of the set's images, and their sampled latents (n, c, h, w)."""
        starts = self._starts_by_tuned(stages, latents, starts, weights)
        return starts, self.sample_latents(stages.model, starts, stages.ctx)[0]

    def _polish(self, model: LatentModel, z: Tensor, prompts: Prompts, ctx: Context) -> Tensor:
        """Return sampled latents z (n, c, h, w), polished as the settings ask. prompts: of each."""
        if not self.polish_steps:
            return z
        scheduler = model.make_scheduler(self.scheduler, spacing=self.spacing)
        times = sampling_times(scheduler, self._sampler_config())
        levels = low_noise(scheduler, times, self.polish_until, model.device)
        network = denoiser_of(model, self._training_precision(model.device))
        polishing = Polishing(network, *levels, model.prediction, self.polish_steps, self.polish_rate)
        conditions, rows = model.encode_prompts(prompts.texts, prompts.labels), prompts.index
        if self.polish_condition == "empty":
            conditions, rows = model.encode_prompts([""], [-1]), torch.zeros_like(rows)
        labels = [prompts.labels[row] for row in prompts.index.tolist()]
        return polish_set(
            polishing, z, labels, lambda images: conditions[rows[images].to(model.device)], self.batch, ctx
        )

    def _image_prompts(self, stages: Stages) -> Prompts:
        """Return the prompts of the training images for fine-tuning: by default those of their classes."""
        return class_prompts(self.prompt, stages.train.readable, stages.train.labels)

    def _extra_loss(self, stages: Stages, latents: Latents) -> ExtraLoss | None:
        """Return the term that is added to the diffusion loss of fine-tuning, by default none."""
        return None

    def _in_rounds(self) -> bool:
        """Return True if image j of a class needs its images 1 to j - 1 (`SamplingBatch.finished`)."""
        return False

    def _guided_denoiser(self, outputs: Outputs, batch: SamplingBatch, scheduler: Any) -> tuple[Denoise, Shift | None]:
        """Return `denoise` and `shift` of `sample` for the images of a batch, by default no shift."""
        return (lambda z, t: outputs(z, t)[0]), None

    def _network(self, model: LatentModel) -> Callable[..., Tensor]:
        """Return the denoiser in the precision of the settings, with the learned variance if they ask for it."""
        return denoiser_of(model, resolve_precision(self.precision, model.device), self.variance == "learned")

    def _guided_outputs(self, network: Callable, condition: Tensor, negative: Tensor, scheduler: Any) -> Outputs:
        """Return the network under classifier-free guidance by the settings, for the images of a batch."""
        times = len(scheduler.alphas_cumprod)
        scale = interval_scale(self.guidance, self.guidance_low, self.guidance_high, times)
        return guided_and_conditional(network, condition, negative, scale, self.guidance_channels)

    def _training_precision(self, device: torch.device) -> str:
        """Return the precision of gradients, which fp16 would let underflow."""
        return "fp32" if self.precision == "fp16" else resolve_precision(self.precision, device)

    def _sampler_config(self) -> SamplerConfig:
        return SamplerConfig(self.steps, self.strength)

    def _finetune_config(self, device: torch.device, images: int = 0, classes: int = 0) -> FinetuneConfig:
        """Return the settings of fine-tuning on so many images and classes."""
        by_epochs = self.tune_epochs * -(-images // self.tune_batch)
        steps = by_epochs or self.tune_steps + self.tune_class_steps * classes
        return FinetuneConfig(
            self.weights, self.rank, steps, self.tune_batch, self.tune_rate, self.tune_warmup, self.tune_empty,
            self.tune_ema, self._training_precision(device), self.tune_decay, self.tune_weight, self.tune_average,
            self.variance, self.tune_parts, self.tune_prompts, self.tune_cosine,
        )  # fmt: skip

    def _batch_sampler(self, model: LatentModel, starts: StartLatents, ctx: Context) -> SampleBatch:
        """Return (images, the finished latents of the class of each) -> their samples; each has its own generator."""
        prompts, labels = starts.prompts, starts.labels
        conditions = model.encode_prompts([*prompts.texts, self.negative], [*prompts.labels, -1])
        network = self._network(model)

        def sample_batch(images: Sequence[int], finished: Sequence[Sequence[Tensor]]) -> list[tuple[Tensor, int]]:
            draws = lambda name: [ctx.generator(name, *starts.names[i]) for i in images]  # noqa: E731
            generators, rows = draws("sample"), prompts.index[list(images)]
            z = torch.stack([starts.latent(i, g) for i, g in zip(images, generators, strict=True)]).to(model.device)
            memory = torch.stack([torch.stack([*past]) if past else z.new_empty(0, *z.shape[1:]) for past in finished])
            of_images = torch.tensor([labels[i] for i in images])
            batch = SamplingBatch(model, z, of_images, conditions, rows, memory.to(z), draws, starts.targets)
            scheduler = model.make_scheduler(self.scheduler, spacing=self.spacing, variance=self.variance)
            outputs = self._guided_outputs(network, batch.condition, batch.negative, scheduler)
            denoise, shift = self._guided_denoiser(outputs, batch, scheduler)
            z, fallbacks = sample(denoise, scheduler, z, self._sampler_config(), generators, shift)
            # clones: a view would be sent to other processes with the whole of its batch
            return [(image.clone(), n) for image, n in zip(z.cpu(), fallbacks.tolist(), strict=True)]

        return sample_batch

    def sample_latents(self, model: LatentModel, starts: StartLatents, ctx: Context) -> tuple[Tensor, int]:
        """Sample one latent per start: float32 (n, c, h, w) on the CPU. Also return the number of fallbacks.

        Each image draws from a generator of its own, so neither the batch size nor the number of processes moves it.
        Raises FloatingPointError for a latent that is not finite.
        """
        sample_batch = self._batch_sampler(model, starts, ctx)
        with ctx.measure("sampling") as figures:
            samples = sample_rounds(sample_batch, starts.labels, self._in_rounds(), self.batch, ctx)
            z, fallbacks = torch.stack([image for image, _ in samples]), sum(n for _, n in samples)
            figures |= {"steps": self.steps, "images": len(z)}
        if bad := int((~torch.isfinite(z)).flatten(1).any(1).sum()):
            raise FloatingPointError(
                f"{bad} of {len(z)} latents are not finite: try precision=fp32 or a smaller guidance"
            )
        return z, fallbacks


@dataclass(frozen=True)
class LatentDiffusionBaseline(BaselineSettings, LatentDiffusionMethod):
    """The methods that DPD is compared with, which may change more of the shared steps (not a method by itself)."""

    def _draw_set(
        self, stages: Stages, latents: Latents, starts: StartLatents, weights: str
    ) -> tuple[StartLatents, Tensor]:
        """Return starts and latents of the images that are chosen from `pool` draws; the first has the run's seed."""
        model, train, ctx, draws = stages.model, stages.train, stages.ctx, []
        for k in range(self.pool):
            of_draw = replace(ctx, seed=seed_of(ctx.seed, "pool", k) if k else ctx.seed)
            set_starts, z = super()._draw_set(replace(stages, ctx=of_draw), latents, starts, weights)
            draws.append(z)
        if self.pool == 1:
            return set_starts, z
        classes, ipc = len(train.classes), len(z) // len(train.classes)
        of_class = torch.stack(draws).unflatten(1, (classes, ipc)).transpose(0, 1).flatten(1, 2)
        decode = lambda y: model.decode(of_class[y], self.batch, size=train.images.shape[-1])  # noqa: E731
        with ctx.measure("choosing"):
            chosen = choose(Pool(decode, ipc, train, ctx, self.pool_network, self.pool_epochs), self.pool_choice)
        rows = (ipc * torch.arange(classes)[:, None] + chosen % ipc).flatten()
        prompts = replace(set_starts.prompts, index=set_starts.prompts.index[rows])
        sizes = set_starts.weights
        image_weights = None if sizes is None else cluster_weights(sizes[rows].tolist(), ipc)  # of the chosen ones
        z = of_class[torch.arange(classes)[:, None], chosen].flatten(0, 1)
        return replace(set_starts, prompts=prompts, weights=image_weights), z
