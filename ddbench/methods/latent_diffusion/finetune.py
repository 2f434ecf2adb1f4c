"""Fine-tune the base's denoiser on the cached latents of the training split and what is said of each image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ddbench.context import generator_of, seed_of
from ddbench.methods.latent_diffusion.diffusion import Objective, diffusion_loss, even_weight, min_snr_weight
from ddbench.methods.latent_diffusion.latents import Latents
from ddbench.methods.latent_diffusion.model import LatentModel
from ddbench.methods.latent_diffusion.training import Schedule, checkpoints_beside, fit
from ddbench.methods.shared.device import mixed_precision, resolve_precision
from ddbench.utils.distributed import SINGLE_PROCESS, ProcessGroup

WEIGHTS = {"min-snr": min_snr_weight, "even": even_weight}
DEFAULTS = {"decay": 1e-2, "weight": "min-snr"}  # of FinetuneConfig
LORA_TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


@dataclass(frozen=True)
class FinetuneConfig:
    """What decides a fine-tuned denoiser; all of it is in the stage's key.

    weights: "lora" (rank and alpha = rank, attention projections, Gaussian start) or "all". steps, batch, rate, warmup:
    AdamW's. empty: share of prompts replaced by the empty one. ema: decay of the weight average, 0 for none. decay:
    AdamW's weight decay. weight: of the loss over time, a key of WEIGHTS.
    """

    weights: str
    rank: int
    steps: int
    batch: int
    rate: float
    warmup: int
    empty: float
    ema: float
    precision: str
    consistency: float = 0.0
    consistency_time: str = "abar"
    decay: float = 1e-2
    weight: str = "min-snr"

    @classmethod
    def of(cls, settings: Any, device: torch.device, **more: Any) -> FinetuneConfig:
        """From a method's fields: weights, rank, precision, and the others as tune_steps, tune_batch and so on.

        With fp16 fine-tuning stays in fp32: its gradients would underflow.
        """
        names = ("steps", "batch", "rate", "warmup", "empty", "ema")
        told = {name: getattr(settings, f"tune_{name}") for name in names}
        told |= {name: getattr(settings, f"tune_{name}", usual) for name, usual in DEFAULTS.items()}
        precision = "fp32" if settings.precision == "fp16" else resolve_precision(settings.precision, device)
        return cls(settings.weights, settings.rank, precision=precision, **told, **more)

    def key(self) -> dict[str, Any]:
        """JSON values for the stage's key; rank and consistency only where they decide something.

        Decay and weight only where they are not the usual ones: so stages made before there was a choice stay.
        """
        idle = {"rank"} if self.weights != "lora" else set()
        idle |= {name for name, usual in DEFAULTS.items() if getattr(self, name) == usual}
        idle |= set() if self.consistency else {"consistency", "consistency_time"}
        return {name: value for name, value in asdict(self).items() if name not in idle}


def unfreeze(denoiser: nn.Module, how: FinetuneConfig) -> None:
    """Make the weights that `how` names trainable: LoRA layers are added, or every weight is freed.

    A denoiser conditioned by class also learns its class embeddings: those of the base mean other classes.
    """
    if how.weights == "all":
        denoiser.requires_grad_(True)
        return
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(seed_of(0, "lora"))
    inject_adapter_in_model(
        LoraConfig(r=how.rank, lora_alpha=how.rank, init_lora_weights="gaussian", target_modules=LORA_TARGETS), denoiser
    )
    for name, weight in denoiser.named_parameters():
        weight.requires_grad_(".lora_" in name or ".class_embedder." in name)


def consistency(classifier: nn.Module, labels: Tensor, how: FinetuneConfig) -> Callable[[Tensor, Tensor], Tensor]:
    """lambda w(t) CE(f(z0_hat), y) per image: the addition to a diffusion loss.

    After Xu et al. (arXiv 2601.15829v1), who publish neither lambda, w(t) nor f: docs/dpd.md says what we take.
    labels (n,): a negative one has no class (its prompt is empty) and adds nothing. w(t) is abar_t, or 1.
    """

    def extra(clean: Tensor, abar: Tensor) -> Tensor:
        surprise = F.cross_entropy(classifier(clean), labels.clamp(min=0), reduction="none")
        over_time = abar if how.consistency_time == "abar" else torch.ones_like(abar)
        return how.consistency * over_time * surprise * (labels >= 0)

    return extra


@dataclass(frozen=True)
class FinetuneData:
    """What is learned from: cached latents, and what is said of each.

    words: conditions of the distinct prompts, the empty one last. of: index into them, int64 (n,), of each image.
    """

    latents: Latents
    words: Tensor
    of: Tensor


@dataclass(frozen=True)
class ExtraLoss:
    """What a method adds to the loss of fine-tuning.

    of(labels, z): the addition (n,) as a function of clean estimates and abar (`Objective.extra`), for a batch of
    labels (n,), -1 where the prompt is empty, and clean latents (n, c, h, w). key: JSON values, what decides it.
    """

    of: Callable[[Tensor, Tensor], Callable[[Tensor, Tensor], Tensor]]
    key: Mapping[str, Any]


def finetune_loss(
    model: LatentModel,
    lesson: FinetuneData,
    how: FinetuneConfig,
    addition: ExtraLoss | None = None,
    part: slice = slice(None),
) -> Callable[[int], Tensor]:
    """The loss of a step, or of the `part` of its batch: its draws follow from the step, not from a run's seed."""
    latents, nothing = lesson.latents, len(lesson.words) - 1

    def loss_at(step: int) -> Tensor:
        generator = generator_of(0, "tune", step)
        rows = torch.randint(len(latents.labels), (how.batch,), generator=generator)
        empty = torch.rand(how.batch, generator=generator) < how.empty
        z = latents.draw(rows, generator).to(model.device)
        said = lesson.of[rows].masked_fill(empty, nothing)[part]
        words = lesson.words[said.to(lesson.words.device)].to(model.device)
        labels = latents.labels[rows].masked_fill(empty, -1)[part].to(model.device)
        extra = addition.of(labels, z[part]) if addition else None
        goal = Objective(model.scheduler.alphas_cumprod, model.prediction, WEIGHTS[how.weight], extra)
        with mixed_precision(model.device, how.precision):
            return diffusion_loss(lambda z_t, t: model.denoise(z_t, t, words), z, goal, generator, part)

    return loss_at


def finetune(
    model: LatentModel, how: FinetuneConfig, loss_at: Callable[[int], Tensor],
    *, folder: Path, progress: Callable[[Iterable], Iterable], processes: ProcessGroup = SINGLE_PROCESS,
) -> dict[str, float]:  # fmt: skip
    """Train and write `denoiser.safetensors`, the trained weights only; return the steps and the last mean loss.

    Checkpoints lie beside `folder`, so that a killed run goes on with the same weights. Of several processes each has
    the `loss_at` of its part.
    """
    unfreeze(model.denoiser, how)
    schedule = Schedule(how.steps, how.rate, how.warmup, decay=how.decay, ema=how.ema)
    found = fit(model.denoiser, loss_at, schedule, progress, checkpoints_beside(folder, processes=processes))
    trained = {k: v.detach().cpu().contiguous() for k, v in model.denoiser.named_parameters() if v.requires_grad}
    if processes.is_lead:
        save_file(trained, folder / "denoiser.safetensors")
    return {"steps": how.steps, **asdict(found)}


def load_finetuned(model: LatentModel, folder: Path, how: FinetuneConfig) -> None:
    """Put the weights that `tune` wrote into the model's denoiser, frozen again."""
    if how.weights == "lora" and not any(".lora_" in name for name, _ in model.denoiser.named_parameters()):
        unfreeze(model.denoiser, how)
    trained = load_file(folder / "denoiser.safetensors", device=str(model.device))
    unknown = model.denoiser.load_state_dict(trained, strict=False).unexpected_keys
    if unknown:
        raise ValueError(f"{folder} holds weights that the denoiser lacks: {', '.join(unknown[:3])}")
    model.denoiser.requires_grad_(False).eval()
