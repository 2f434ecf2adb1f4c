"""DPD as a Distiller: fine-tune once, find prototypes, sample candidates for each, keep the best, decode."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ddbench.context import Context, global_seed, seed_of
from ddbench.errors import UserError
from ddbench.methods.dpd.classifier import ClassifierConfig, candidate_margins, stored_classifier
from ddbench.methods.dpd.sampling import SamplingConfig, SamplingInputs, draw
from ddbench.methods.latent_diffusion.captions import caption_all, captioner_identity
from ddbench.methods.latent_diffusion.diffusion import SamplerConfig, require_finite
from ddbench.methods.latent_diffusion.finetune import ExtraLoss, FinetuneConfig, consistency
from ddbench.methods.latent_diffusion.latents import Latents
from ddbench.methods.latent_diffusion.model import LatentModel, check_steps, load_model
from ddbench.methods.latent_diffusion.model_files import find_model, identity_of
from ddbench.methods.latent_diffusion.prompts import Prompts, class_prompts, own_prompts
from ddbench.methods.latent_diffusion.prototypes import (
    Prototype,
    check_enough,
    cluster_captions,
    rows_of,
    stored_prototypes,
)
from ddbench.methods.latent_diffusion.stages import Stages
from ddbench.methods.shared.device import resolve_precision
from ddbench.methods.shared.validation import at_least, check_sampled, shares
from ddbench.types import DistilledSet, ImageSet
from ddbench.utils.files import digest

log = logging.getLogger("ddbench")


@dataclass(frozen=True)
class DPD:
    """Discriminative Prototype-guided Diffusion (Xu, Ghamisi, Weng, arXiv 2601.15829, 2026).

    base: base model: a hub id or a pipeline folder of the Stable Diffusion family or of DiT, or tiny (embedded).
    prompt: template; {} becomes the readable class name.
    captioner: what is said in a second sentence: nothing (template), colours and texture measured in the pixels
        (palette), or what a vision-language model says (a hub id or folder of any AutoModelForImageTextToText).
    tune_captions: fine-tune with each image's own caption, else with the template alone.
    weights: what is fine-tuned: LoRA layers (lora), every weight of the denoiser (all), or nothing (none).
    rank: rank and alpha of LoRA.
    tune_steps: optimizer steps of fine-tuning.
    tune_batch: images per step.
    tune_rate: AdamW's learning rate, constant after warm-up.
    tune_warmup: steps of linear warm-up.
    tune_empty: share of prompts replaced by the empty one (keeps classifier-free guidance working).
    tune_ema: decay of the weight average that replaces the weights at the end, 0 for none.
    consistency: weight of the latent classifier's loss on clean estimates during fine-tuning, 0 for none.
    consistency_time: weight of that loss over time: the cumulative alpha (abar), or even.
    classifier_steps: training steps of the latent classifier, batches of 128; 0 for 200 epochs.
    classifier_flips: mirror latents while it trains; no where latents hold the inside of a cell in channels (tiny).
    classifier_views: turn and mirror training images for it and encode them, up to eight ways and this many; 0: none.
        Right where mirrored latents are wrong, at the price of encoding.
    alpha: weight of the distance to the own centre in the margin rule of the prototypes.
    scheduler: the base's own (base), or a diffusers scheduler by class name.
    steps: sampling steps.
    guidance: classifier-free guidance scale.
    strength: share of the noise schedule that is sampled: 1 from pure noise, less from the noised prototype (v1: 0.75).
        At 0 the images are the prototypes through the autoencoder: nothing is sampled, fine-tuned or captioned, and
        of the other settings only base and alpha count.
    pull: length of the step towards the prototype's latent (release: 1), 0 for none.
    pull_until: share of the sampling during which it acts.
    candidates: images sampled per prototype; the classifier keeps the one with the largest margin (release: 5).
    batch: images per sampling batch; changes speed and memory, not the images.
    precision: of fine-tuning and sampling: bf16 or fp16 (autocast), fp32, or auto: bf16 on a GPU. With fp16, for GPUs
        without bf16, fine-tuning stays in fp32: its gradients would underflow.
    """

    name: ClassVar[str] = "dpd"
    parallel: ClassVar[bool] = True
    citation: ClassVar[str] = "Xu, Ghamisi, Weng, arXiv 2601.15829, 2026"
    version: ClassVar[int] = 4
    check_params: ClassVar[dict[str, Any]] = {
        "base": "tiny", "captioner": "palette", "tune_steps": 2, "tune_batch": 4, "classifier_steps": 2, "steps": 2,
    }  # fmt: skip

    base: str = "lcybuaa/Text2Earth"
    prompt: str = "A satellite image of {}"
    captioner: str = "llava-hf/llava-1.5-7b-hf"
    tune_captions: bool = True
    weights: Literal["lora", "all", "none"] = "lora"
    rank: int = 4
    tune_steps: int = 20_000
    tune_batch: int = 8
    tune_rate: float = 5e-4
    tune_warmup: int = 200
    tune_empty: float = 0.0
    tune_ema: float = 0.0
    consistency: float = 0.01
    consistency_time: Literal["abar", "even"] = "abar"
    classifier_steps: int = 0
    classifier_flips: bool = True
    classifier_views: int = 0
    alpha: float = 1.0
    scheduler: str = "base"
    steps: int = 50
    guidance: float = 7.5
    strength: float = 0.75
    pull: float = 0.0
    pull_until: float = 0.8
    candidates: int = 1
    batch: int = 64
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"

    def __post_init__(self) -> None:
        check_sampled(self)
        at_least(self, candidates=1, classifier_steps=0, classifier_views=0, alpha=0, pull=0, consistency=0)
        shares(self, "pull_until")

    def identity(self) -> str:
        """A digest of the weights of base model and captioner; UserError at once when there is no such model."""
        own = identity_of(find_model(self.base))
        captionless = self.captioner == "template" or self.strength == 0
        return own if captionless else digest([own, captioner_identity(self.captioner)])[:16]

    def distill(self, train: ImageSet, ipc: int, ctx: Context) -> DistilledSet:
        """One image per prototype, `ipc` prototypes per class."""
        with global_seed(seed_of(0, "dpd"), ctx.device):  # loading and LoRA draw from the global generators
            return self._distill(train, ipc, ctx)

    def _distill(self, train: ImageSet, ipc: int, ctx: Context) -> DistilledSet:
        check_enough(train, ipc)  # what does not fit is refused before the hours, not after
        model = load_model(self.base, ctx.device)
        self._check(model, train, ctx.processes.size)
        stages = Stages(model, train, ctx, self.batch)
        latents = stages.latents()
        prototypes, owner = stored_prototypes(stages, latents, ipc, self.alpha)
        if self.strength == 0:
            return self._reconstruct(model, latents, prototypes, train, ctx)
        captions = None if self.captioner == "template" else caption_all(self.captioner, train, ctx, self.batch)
        course = ClassifierConfig(self.classifier_steps, self.classifier_flips, self._views(len(train.labels)))
        classifier = stored_classifier(stages, latents, course) if self._needs_classifier else None
        if self.weights != "none":
            prompts, how = self._image_prompts(train, captions), self._tuning(ctx)
            stages.finetune(latents, prompts, how, self._extra_loss(classifier, course, how))
        prompts = self._prototype_prompts(train, prototypes, owner, captions)
        z, fallen = self._draw(model, latents, prototypes, prompts, ctx)
        images, records = self._kept(model, z, prototypes, classifier, ctx)
        said = [{"prompt": prompts.texts[i]} for i in prompts.of.tolist()]
        extras = {"guidance_fallbacks": fallen, "prototypes": [a | b for a, b in zip(records, said, strict=True)]}
        labels = torch.tensor([p.label for p in prototypes])
        return DistilledSet(images, labels, train.classes, train.readable, extras=extras)

    def _reconstruct(
        self, model: LatentModel, latents: Latents, prototypes: list[Prototype], train: ImageSet, ctx: Context
    ) -> DistilledSet:
        """Return the prototypes through the autoencoder: the means of their latents, decoded; no seed changes them."""
        images = self._decode(model, latents.means(rows_of(prototypes)), ctx)
        extras = {"prototypes": [p.record() for p in prototypes]}
        labels = torch.tensor([p.label for p in prototypes])
        return DistilledSet(images, labels, train.classes, train.readable, extras=extras)

    def _check(self, model: LatentModel, train: ImageSet, processes: int) -> None:
        """UserError for what would fail after the training."""
        model.check_size(train.images.shape[-1])
        if self.strength == 0:  # only the autoencoder is used
            return
        scheduler = model.scheduler_named(self.scheduler, pulled=self.pull > 0)
        check_steps(scheduler, self.steps)
        if self.scheduler == "base" and type(scheduler) is not type(model.scheduler):
            own, taken = (type(s).__name__ for s in (model.scheduler, scheduler))
            log.warning("the base's %s is not variance preserving: %s takes its place", own, taken)
        if self.weights != "none" and self.tune_batch < processes:
            raise UserError(f"tune_batch={self.tune_batch} is too little for {processes} processes: one image for each")
        model.check_classes(len(train.classes), self.weights != "none")
        if model.text is None and self.captioner != "template":
            raise UserError(f"captioner={self.captioner}: this base is conditioned by class and reads no text")

    @property
    def _needs_classifier(self) -> bool:
        """Whether anything asks for the latent classifier."""
        return self.candidates > 1 or bool(self.consistency and self.weights != "none")

    def _views(self, count: int) -> int:
        """How many of the eight views of `count` images the latent classifier learns from."""
        return max(1, min(8, self.classifier_views // count))

    def _extra_loss(
        self, classifier: nn.Module | None, course: ClassifierConfig, how: FinetuneConfig
    ) -> ExtraLoss | None:
        """The consistency loss, where it is asked for."""
        if not self.consistency or classifier is None:
            return None
        return ExtraLoss(lambda labels, _: consistency(classifier, labels, how), {"classifier": course.key()})

    def _tuning(self, ctx: Context) -> FinetuneConfig:
        return FinetuneConfig.of(self, ctx.device, consistency=self.consistency, consistency_time=self.consistency_time)

    def _image_prompts(self, train: ImageSet, captions: list[str] | None) -> Prompts:
        if captions is None or not self.tune_captions:
            return class_prompts(self.prompt, train.readable, train.labels)
        return own_prompts(self.prompt, train.readable, train.labels, captions)

    def _prototype_prompts(
        self, train: ImageSet, prototypes: list[Prototype], owner: Tensor, captions: list[str] | None
    ) -> Prompts:
        labels = torch.tensor([p.label for p in prototypes])
        if captions is None:
            return class_prompts(self.prompt, train.readable, labels)
        of_clusters = cluster_captions(prototypes, owner, captions, train)
        return own_prompts(self.prompt, train.readable, labels, of_clusters)

    def sampling_config(self, ctx: Context) -> SamplingConfig:
        """How images are drawn with these settings, on the context's device."""
        how = SamplerConfig(self.steps, self.strength, self.pull, self.pull_until)
        precision = resolve_precision(self.precision, ctx.device)
        return SamplingConfig(how, self.scheduler, self.guidance, self.candidates, self.batch, precision)

    def _draw(
        self, model: LatentModel, latents: Latents, prototypes: list[Prototype], prompts: Prompts, ctx: Context
    ) -> tuple[Tensor, int]:
        words = model.encode_prompts([*prompts.texts, ""], [*prompts.labels, -1])
        subject = SamplingInputs(prototypes, latents, words[prompts.of.to(words.device)], words[-1:])
        with ctx.measure("sampling") as figures:
            z, fallen = draw(model, subject, self.sampling_config(ctx), ctx)
            figures |= {"steps": self.steps, "images": len(z)}
        require_finite(z)
        if fallen:
            log.warning("%d guided steps were not finite and went on unguided; a smaller pull may help", fallen)
        return z, fallen

    def _kept(
        self, model: LatentModel, z: Tensor, prototypes: list[Prototype], classifier: nn.Module | None, ctx: Context
    ) -> tuple[Tensor, list[dict[str, Any]]]:
        """The best candidate of every prototype as an image, and its record."""
        records = [p.record() for p in prototypes]
        if self.candidates > 1 and classifier is not None:
            scores = candidate_margins(classifier, z, [p.label for p in prototypes])
            best = scores.argmax(1)
            z = z.unflatten(0, scores.shape)[torch.arange(len(best)), best]
            finite = scores.nan_to_num(posinf=0.0).tolist()  # a single class has no margin
            records = [record | {"candidates": s} for record, s in zip(records, finite, strict=True)]
        return self._decode(model, z, ctx), records

    def _decode(self, model: LatentModel, z: Tensor, ctx: Context) -> Tensor:
        with ctx.measure("decoding"):
            return model.decode(z, self.batch, partial(ctx.progress, desc="decoding"))
