"""DPD as a Distiller: fine-tune once, find prototypes, sample candidates for each, keep the best, decode."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from string import Formatter
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ddbench.context import Context, global_seed, seed_of
from ddbench.errors import UserError
from ddbench.files import read_json, write_json
from ddbench.methods.diffusion import Sampling, guided, sample
from ddbench.methods.dpd.classifier import Course, LatentClassifier, best_candidates, load_classifier, train_classifier
from ddbench.methods.dpd.finetune import Tuning, load_tuned, tune, tuning_loss
from ddbench.methods.dpd.latents import Latents, load_latents, save_latents
from ddbench.methods.dpd.prototypes import Prototype, check_enough, find_prototypes, rows_of, save_images
from ddbench.methods.dpd.training import mixed_precision
from ddbench.methods.latent_model import LatentModel, find_model, identity_of, load_model
from ddbench.types import DistilledSet, ImageSet

log = logging.getLogger("ddbench")


@dataclass(frozen=True)
class DPD:
    """Discriminative Prototype-guided Diffusion (Xu, Ghamisi, Weng, arXiv 2601.15829, 2026).

    base: base model: a hub id, a Stable-Diffusion-family pipeline folder, or tiny (embedded).
    prompt: template; {} becomes the readable class name.
    weights: what is fine-tuned: LoRA layers (lora), every U-Net weight (all), or nothing (none).
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
    alpha: weight of the distance to the own centre in the margin rule of the prototypes.
    scheduler: the base's own (base), or a diffusers scheduler by class name.
    steps: sampling steps.
    guidance: classifier-free guidance scale.
    strength: share of the noise schedule that is sampled: 1 from pure noise, less from the noised prototype (v1: 0.75).
    pull: length of the step towards the prototype's latent (release: 1), 0 for none.
    pull_until: share of the sampling during which it acts.
    candidates: images sampled per prototype; the classifier keeps the one with the largest margin (release: 5).
    batch: images per sampling batch; changes speed and memory, not the images.
    precision: bf16 (autocast), fp32, or auto: bf16 on a GPU.
    """

    name: ClassVar[str] = "dpd"
    citation: ClassVar[str] = "Xu, Ghamisi, Weng, arXiv 2601.15829, 2026"
    version: ClassVar[int] = 1
    check_params: ClassVar[dict[str, Any]] = {
        "base": "tiny", "tune_steps": 2, "tune_batch": 4, "classifier_steps": 2, "steps": 2,
    }  # fmt: skip

    base: str = "lcybuaa/Text2Earth"
    prompt: str = "A satellite image of {}."
    weights: Literal["lora", "all", "none"] = "lora"
    rank: int = 4
    tune_steps: int = 20_000
    tune_batch: int = 8
    tune_rate: float = 5e-4
    tune_warmup: int = 200
    tune_empty: float = 0.0
    tune_ema: float = 0.0
    consistency: float = 0.1
    consistency_time: Literal["abar", "even"] = "abar"
    classifier_steps: int = 0
    classifier_flips: bool = True
    alpha: float = 1.0
    scheduler: str = "base"
    steps: int = 50
    guidance: float = 7.5
    strength: float = 0.75
    pull: float = 0.0
    pull_until: float = 0.8
    candidates: int = 1
    batch: int = 64
    precision: Literal["auto", "bf16", "fp32"] = "auto"

    def __post_init__(self) -> None:
        low = {"rank": 1, "tune_steps": 1, "tune_batch": 1, "steps": 1, "batch": 1, "candidates": 1}
        low |= {"tune_warmup": 0, "classifier_steps": 0, "alpha": 0, "guidance": 0, "pull": 0, "consistency": 0}
        off = [f"{name} must be at least {least}" for name, least in low.items() if getattr(self, name) < least]
        shares = {"strength": self.strength, "tune_empty": self.tune_empty, "pull_until": self.pull_until}
        off += [f"{name} must be in 0..1" for name, value in shares.items() if not 0 <= value <= 1]
        off += ["tune_ema must be in 0..1, 1 excluded"] if not 0 <= self.tune_ema < 1 else []
        off += ["tune_rate must be above 0"] if self.tune_rate <= 0 else []
        off += ["prompt must hold {} once, for the class name"] if _fields(self.prompt) != [""] else []
        if off:
            raise ValueError("; ".join(off))

    def identity(self) -> str:
        """A digest of the base model's weights; UserError at once when there is no such model."""
        return identity_of(find_model(self.base))

    def distill(self, train: ImageSet, ipc: int, ctx: Context) -> DistilledSet:
        """One image per prototype, `ipc` prototypes per class."""
        exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
        with exact, global_seed(seed_of(0, "dpd"), ctx.device):  # loading and LoRA draw from the global generators
            return self._distill(train, ipc, ctx)

    def _distill(self, train: ImageSet, ipc: int, ctx: Context) -> DistilledSet:
        check_enough(train, ipc)  # what does not fit is refused before the hours, not after
        model = load_model(self.base, ctx.device)
        _try_steps(model.scheduler_named(self.scheduler, pulled=self.pull > 0), self.steps)
        model.check_size(train.images.shape[-1])
        latents = self._latents(model, train, ctx)
        prototypes = self._prototypes(model, latents, train, ipc, ctx)
        classifier = self._classifier(model, latents, train, ctx)
        self._tune(model, latents, classifier, train, ctx)
        z, fallen = self._sample(model, latents, prototypes, train, ctx)
        labels = torch.tensor([p.label for p in prototypes])
        if self.candidates > 1:
            z = z[best_candidates(classifier, z, labels, self.candidates)]
        if fallen:
            log.warning("%d guided steps were not finite and went on unguided; a smaller pull may help", fallen)
        images = model.decode(z, self.batch)
        return DistilledSet(images, labels, train.classes, train.readable, extras={"guidance_fallbacks": fallen})

    def _latents(self, model: LatentModel, train: ImageSet, ctx: Context) -> Latents:
        progress = partial(ctx.progress, desc="latents")
        folder = ctx.stage(
            "latents", lambda into: save_latents(model, train.images, into, progress=progress, batch=self.batch),
            base=model.identity,
        )  # fmt: skip
        return load_latents(folder, train.labels, model.vae.config.scaling_factor)

    def _prompts(self, train: ImageSet) -> list[str]:
        return [self.prompt.format(name) for name in train.readable]

    def _tuning(self, ctx: Context) -> Tuning:
        return Tuning(
            self.weights, self.rank, self.tune_steps, self.tune_batch, self.tune_rate, self.tune_warmup,
            self.tune_empty, self.tune_ema, self._precision(ctx), self.consistency, self.consistency_time,
        )  # fmt: skip

    @property
    def _course(self) -> Course:
        return Course(self.classifier_steps, self.classifier_flips)

    def _classifier(
        self, model: LatentModel, latents: Latents, train: ImageSet, ctx: Context
    ) -> LatentClassifier | None:
        """The latent classifier, made once for every IPC and seed; None where nothing asks for one."""
        if self.candidates == 1 and not (self.consistency and self.weights != "none"):
            return None
        how, progress = self._course, partial(ctx.progress, desc="latent classifier")
        folder = ctx.stage(
            "classifier",
            lambda into: train_classifier(
                latents, len(train.classes), how, model.device, folder=into, progress=progress
            ),
            base=model.identity, **how.key(),
        )  # fmt: skip
        return load_classifier(folder, model.device)

    def _precision(self, ctx: Context) -> str:
        if self.precision != "auto":
            return self.precision
        return "bf16" if ctx.device.type == "cuda" else "fp32"

    def _tune(
        self, model: LatentModel, latents: Latents, classifier: LatentClassifier | None, train: ImageSet, ctx: Context
    ) -> None:
        """Load the fine-tuned weights, made once for every IPC and seed."""
        if self.weights == "none":
            return
        how, prompts, progress = self._tuning(ctx), self._prompts(train), partial(ctx.progress, desc="fine-tuning")

        def make(folder: Path) -> None:
            loss_at = tuning_loss(model, latents, prompts, how, classifier)
            tune(model, how, loss_at, folder=folder, progress=progress)

        judge = {"classifier": self._course.key()} if self.consistency else {}
        folder = ctx.stage("finetune", make, base=model.identity, prompts=prompts, **how.key(), **judge)
        load_tuned(model, folder, how)

    def _prototypes(
        self, model: LatentModel, latents: Latents, train: ImageSet, ipc: int, ctx: Context
    ) -> list[Prototype]:
        """The prototypes of this IPC, made once for every seed; recorded in prototypes.json, shown in images/."""

        def make(folder: Path) -> None:
            found = find_prototypes(train, latents.means(), ipc, self.alpha)
            write_json(folder / "prototypes.json", [p.record() for p in found])
            save_images(found, train, folder / "images")

        folder = ctx.stage("prototypes", make, base=model.identity, ipc=ipc, alpha=self.alpha)
        return [Prototype(**record) for record in read_json(folder / "prototypes.json")]

    def _sample(
        self, model: LatentModel, latents: Latents, prototypes: list[Prototype], train: ImageSet, ctx: Context
    ) -> tuple[Tensor, int]:
        """All candidates of all prototypes, one stream cut into batches; each image draws from its own generator."""
        words = model.words([*self._prompts(train), ""])
        work = [(prototype, number) for prototype in prototypes for number in range(self.candidates)]
        found, fallen = [], 0
        for start in ctx.progress(range(0, len(work), self.batch), "sampling"):
            z, failed = self._sample_batch(model, latents, work[start : start + self.batch], words, ctx)
            found.append(z.cpu())
            fallen += failed
        return torch.cat(found), fallen

    def _sample_batch(
        self, model: LatentModel, latents: Latents, work: list[tuple[Prototype, int]], words: Tensor, ctx: Context
    ) -> tuple[Tensor, int]:
        batch = [prototype for prototype, _ in work]
        generators = [ctx.generator("sample", p.label, p.cluster, number) for p, number in work]
        anchors = torch.cat([latents.draw(rows_of([p]), g) for p, g in zip(batch, generators, strict=True)])
        labels = torch.tensor([p.label for p in batch], device=model.device)

        def network(z: Tensor, t: Tensor, text: Tensor) -> Tensor:
            conditions = model.conditions(len(z))
            with mixed_precision(model.device, self._precision(ctx)):
                return model.unet(z, t, encoder_hidden_states=text, **conditions).sample.float()

        denoise = guided(network, words[labels], words[-1:].expand(len(batch), -1, -1), self.guidance)
        how = Sampling(self.steps, self.strength, self.pull, self.pull_until)
        return sample(denoise, model.scheduler_named(self.scheduler), anchors.to(model.device), how, generators)


def _try_steps(scheduler: Any, steps: int) -> None:
    """UserError now, not after the training, when the scheduler does not have so many steps."""
    try:
        scheduler.set_timesteps(steps)
    except ValueError as error:
        raise UserError(f"steps={steps}: {error}") from None


def _fields(template: str) -> list[str | None]:
    """The names of a template's placeholders; [None] when it is none."""
    try:
        return [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError:
        return [None]
