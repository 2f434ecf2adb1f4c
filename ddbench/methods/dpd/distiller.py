"""DPD: find prototypes, fine-tune the base once, sample candidates of each prototype, keep the best, decode."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddbench.config import param
from ddbench.context import Context, global_seed, seed_of
from ddbench.errors import UserError
from ddbench.methods.dpd.classifier import ClassifierConfig, candidate_margins, stored_classifier
from ddbench.methods.latent_diffusion.base_method import LatentDiffusionMethod
from ddbench.methods.latent_diffusion.captions import caption_all, captioner_identity, check_captioner
from ddbench.methods.latent_diffusion.diffusion import SamplerConfig, match_statistics
from ddbench.methods.latent_diffusion.finetune import ExtraLoss
from ddbench.methods.latent_diffusion.latents import Latents
from ddbench.methods.latent_diffusion.model import LatentModel, check_base, load_model
from ddbench.methods.latent_diffusion.prompts import Prompts, caption_prompts, class_prompts
from ddbench.methods.latent_diffusion.prototypes import (
    CHOICE,
    Choice,
    Prototype,
    as_points,
    check_choice,
    cluster_captions,
    distances_to_centres,
    embedding,
    prototypes_in_space,
    rows_of,
    stored_prototypes,
)
from ddbench.methods.latent_diffusion.settings import TUNE_WEIGHT
from ddbench.methods.latent_diffusion.stages import Stages
from ddbench.methods.latent_diffusion.starts import StartLatents
from ddbench.methods.shared.selection import IMAGE_WEIGHTS, cluster_weights
from ddbench.methods.shared.spaces import FEATURES, check_space, feature_space
from ddbench.methods.shared.validation import at_least, shares
from ddbench.types import DistilledSet, ImageSet
from ddbench.utils.files import digest

log = logging.getLogger("ddbench")


@dataclass(frozen=True)
class DPD(LatentDiffusionMethod):
    """Discriminative Prototype-guided Diffusion (Xu, Ghamisi, Weng, arXiv 2601.15829, 2026).

    v1 is the article's first version (`preset paper`), release the authors' later code (`preset tgrs`).
    Protocol dpd@1 is the release's. The article's tables could not be obtained: the accuracy to
    expect is not known here.
    """

    name: ClassVar[str] = "dpd"
    parallel: ClassVar[bool] = True
    citation: ClassVar[str] = "Xu, Ghamisi, Weng, arXiv 2601.15829, 2026"
    version: ClassVar[int] = 5
    needs_ipc_images: ClassVar[bool] = True
    check_params: ClassVar[dict[str, Any]] = {
        **LatentDiffusionMethod.check_params, "captioner": "palette", "classifier_steps": 2,
    }  # fmt: skip

    captioner: str = param(
        "llava-hf/llava-1.5-7b-hf",
        "second sentence of the prompts: none (template), colours and texture measured in the pixels (palette), or the "
        "caption of a vision-language model (a hub id or folder of any AutoModelForImageTextToText)",
    )
    tune_captions: bool = param(True, "fine-tune with each image's own caption, else with the template alone")
    tune_weight: Literal["min-snr", "even"] = param("min-snr", TUNE_WEIGHT, added_later=True)
    consistency: float = param(
        0.01, "lambda: weight of the latent classifier's loss on clean estimates during fine-tuning, 0 for none"
    )
    consistency_time: Literal["abar", "even"] = param(
        "abar", "w(t): weight of that loss over time, the cumulative alpha (abar) or the same for every time (even)"
    )
    classifier_steps: int = param(
        0, "training steps of the latent classifier, in batches of 128 latents; 0 for 200 epochs"
    )
    classifier_flips: bool = param(
        True, "mirror latents while it trains; false where channels hold the inside of a latent cell (tiny)"
    )
    classifier_views: int = param(
        0,
        "train it on so many views of the training images, turned and mirrored before they are encoded, up to eight "
        "each; 0 for none. Right where mirrored latents are wrong, at the price of encoding",
        "images",
    )
    features: Literal["latents", "network", "few-shot"] = param(
        "latents",
        f"space in which a class's prototypes are clustered: pooled latents (latents, the published rule), {FEATURES}",
        added_later=True,
    )
    choice: Choice = param("margin", CHOICE, added_later=True)
    alpha: float = param(1.0, "weight of the distance to the own centre in the margin rule of the prototypes")
    strength: float = param(
        0.75,
        "share of the noise schedule that is sampled: 1 from pure noise, less from the noised prototype (v1: 0.75). At "
        "0 the images are the prototypes through the autoencoder: nothing is sampled or captioned, no denoiser is "
        "fine-tuned, and of the other settings only base, those of prototypes and decoder_steps count",
        "0 to 1",
    )
    pull: float = param(0.0, "g: length of the step towards the prototype's latent (release: 1), 0 for none")
    pull_until: float = param(0.8, "share of the sampling during which it acts", "0 to 1")
    candidates: int = param(
        1, "images sampled per prototype; the classifier keeps the one with the largest margin (release: 5)"
    )
    select: Literal["margin", "centre"] = param(
        "margin",
        "rule that keeps one candidate per prototype: the largest margin (the release), or the one nearest the centre "
        "of the prototype's cluster, in the space of `features`",
        added_later=True,
    )
    decoder_steps: int = param(
        0,
        "steps in which the autoencoder's decoder learns the training images, in batches of 16; the encoder stays. 0 "
        "for none",
        added_later=True,
    )
    contrast: bool = param(
        False,
        "give each sampled latent its prototype's mean and deviation in every channel: a pull costs contrast",
        added_later=True,
    )
    image_weights: bool = param(False, IMAGE_WEIGHTS, added_later=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(
            self, candidates=1, classifier_steps=0, classifier_views=0, alpha=0, pull=0, consistency=0, decoder_steps=0
        )
        shares(self, "pull_until")
        check_choice(self.features, self.choice)

    def identity(self) -> str:
        """Return a digest of the weights of base and captioner. Raises UserError when there is no such model."""
        if self.captioner == "template" or self.strength == 0:
            return super().identity()
        return digest([super().identity(), captioner_identity(self.captioner)])[:16]

    def check_models(self, readable: Sequence[str]) -> None:
        """Raise UserError if base or captioner is not whole, or two classes have one condition."""
        if self.strength == 0:  # no text is read
            check_base(self.base)
            return
        super().check_models(readable)
        if self.captioner != "template":
            check_captioner(self.captioner)

    def distill(self, train: ImageSet, ipc: int, ctx: Context) -> DistilledSet:
        """Return one image per prototype, `ipc` prototypes per class."""
        check_space(self.features, ipc)
        with global_seed(seed_of(0, "dpd"), ctx.device):  # loading and LoRA draw from the global generators
            model = load_model(self.base, ctx.device)
            self._check(model, train, ctx)
            stages = Stages(model, train, ctx, self.batch)
            latents = stages.latents()
            if self.decoder_steps:
                stages.tune_decoder(self.decoder_steps)
            prototypes, owner = self._prototypes(stages, latents, ipc)
            extras: dict[str, Any] = {"prototypes": [p.record() for p in prototypes]}
            if self.strength == 0:  # the prototypes themselves; no seed changes them
                z = latents.means(rows_of(prototypes))
            else:
                z, extras = self._sample_prototypes(stages, latents, prototypes, owner)
            with ctx.measure("decoding"):
                images = model.decode(z, self.batch, partial(ctx.progress, desc="decoding"))
        weights = cluster_weights([p.size for p in prototypes], ipc) if self.image_weights else None
        return train.distilled(images, extras=extras, weights=weights)

    def _check(self, model: LatentModel, train: ImageSet, ctx: Context) -> None:
        if self.strength == 0:  # only the autoencoder is used
            model.check_size(train.images.shape[-1])
            return
        super()._check(model, train, ctx)
        if model.text is None and self.captioner != "template":
            raise UserError(f"captioner={self.captioner}: this base is conditioned by class and reads no text")

    def _prototypes(self, stages: Stages, latents: Latents, ipc: int) -> tuple[list[Prototype], Tensor]:
        """Return `ipc` prototypes per class, and the cluster of each training image within its class."""
        if self.features == "latents":
            return stored_prototypes(stages, latents, ipc, self.alpha, self.choice)
        space = feature_space(self.features, stages.train, stages.ctx)
        return prototypes_in_space(stages.train, space, ipc, self.alpha, self.choice, stages.ctx.progress)

    def _sample_prototypes(
        self, stages: Stages, latents: Latents, prototypes: list[Prototype], owner: Tensor
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the chosen latent of every prototype, (n, c, h, w), and the extras of the distilled set.

        owner: the cluster of each training image within its class, int64 (n,).
        """
        model, train, ctx = stages.model, stages.train, stages.ctx
        labels = torch.tensor([p.label for p in prototypes])

        # text: a caption of every image, and of each cluster the one that represents it (VLCP's rule)
        image_prompts = class_prompts(self.prompt, train.readable, train.labels)
        prompts = class_prompts(self.prompt, train.readable, labels)
        if self.captioner != "template":
            captions = caption_all(self.captioner, train, ctx, self.batch)
            if self.tune_captions:
                image_prompts = caption_prompts(self.prompt, train.readable, train.labels, captions)
            chosen = cluster_captions(prototypes, owner, captions, train)
            prompts = caption_prompts(self.prompt, train.readable, labels, chosen)

        # the latent classifier f
        views = max(1, min(8, self.classifier_views // len(train.labels)))
        config = ClassifierConfig(self.classifier_steps, self.classifier_flips, views)
        ranks = self.candidates > 1 and self.select == "margin"
        needed = ranks or (self.consistency and self.weights != "none")
        f = stored_classifier(stages, latents, config) if needed else None

        # fine-tuning: min-SNR weighted diffusion loss + lambda E[ w(t) CE(f(z0_hat), y) ]
        if self.weights != "none":
            extra_loss = self._consistency_loss(f, config) if f and self.consistency else None
            tuning = self._finetune_config(ctx.device, len(train.labels), len(train.classes))
            stages.finetune(latents, image_prompts, tuning, extra_loss)

        # sampling: from the noised prototype (v1), or from noise under its guidance (release: `prototype_guidance`)
        starts = candidate_starts(prototypes, latents, prompts, self.candidates)
        z, fallbacks = self.sample_latents(model, starts, ctx)
        if fallbacks:
            log.warning("%d guided steps were not finite: they were taken without guidance; lower pull", fallbacks)
        texts = [prompts.texts[i] for i in prompts.index.tolist()]
        records = [p.record() | {"prompt": text} for p, text in zip(prototypes, texts, strict=True)]

        if self.contrast:
            of_prototypes = latents.means(rows_of(prototypes)).repeat_interleave(self.candidates, 0)
            z = match_statistics(z, of_prototypes)

        # selection: the candidate with the largest margin f_y - max over j != y of f_j (release), or nearest its centre
        if self.candidates > 1:
            if f and ranks:
                scores = candidate_margins(f, z, labels.tolist())
            else:
                scores = -self._distances(stages, latents, prototypes, owner, z)
            z = z.unflatten(0, scores.shape)[torch.arange(len(scores)), scores.argmax(1)]
            finite = scores.nan_to_num(posinf=0.0).tolist()  # a single class has no margin
            records = [record | {"candidates": s} for record, s in zip(records, finite, strict=True)]
        z = self._polish(model, z, prompts, ctx)
        return z, {"guidance_fallbacks": fallbacks, "prototypes": records}

    def _distances(
        self, stages: Stages, latents: Latents, prototypes: list[Prototype], owner: Tensor, z: Tensor
    ) -> Tensor:
        """Return the distance of each candidate z to the centre of its prototype's cluster, (n, candidates)."""
        if self.features == "latents":
            drawn, points = embedding(z), lambda rows: embedding(latents.means(rows))
        else:
            space = feature_space(self.features, stages.train, stages.ctx)
            images = stages.model.decode(z, self.batch, partial(stages.ctx.progress, desc="candidates"))
            drawn, points = as_points(space.like(images)), lambda rows: as_points(space.at(rows))
        return distances_to_centres(prototypes, owner, stages.train.labels, points, drawn)

    def _consistency_loss(self, f: nn.Module, config: ClassifierConfig) -> ExtraLoss:
        """Return lambda w(t) CE(f(z0_hat), y) per image; f is frozen, the gradient runs through z0_hat.

        v1 publishes neither lambda, w(t) nor f: docs/dpd.md says what we take.
        """

        def loss(z0_hat: Tensor, abar: Tensor, labels: Tensor, z: Tensor) -> Tensor:
            cross_entropy = F.cross_entropy(f(z0_hat), labels.clamp(min=0), reduction="none")
            w = abar if self.consistency_time == "abar" else torch.ones_like(abar)
            return self.consistency * w * cross_entropy * (labels >= 0)  # an empty prompt has no class

        key = {"consistency": self.consistency, "consistency_time": self.consistency_time, "classifier": config.key()}
        return ExtraLoss(loss, key)

    def _sampler_config(self) -> SamplerConfig:
        return SamplerConfig(self.steps, self.strength, self.pull, self.pull_until)


def candidate_starts(prototypes: list[Prototype], latents: Latents, prompts: Prompts, candidates: int) -> StartLatents:
    """Return `candidates` starts per prototype, in a row, each a posterior sample of the prototype's latent.

    prompts: of the prototypes.
    """
    rows = rows_of(prototypes).repeat_interleave(candidates)
    names = [(p.label, p.cluster, k) for p in prototypes for k in range(candidates)]
    return StartLatents(
        lambda i, generator: latents.draw(rows[i : i + 1], generator)[0],
        replace(prompts, index=prompts.index.repeat_interleave(candidates)),
        names,
    )
