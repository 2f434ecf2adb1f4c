"""Fine-tune the base's U-Net on the cached latents of the training split, one prompt per class."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ddbench.context import generator_of, seed_of
from ddbench.methods.diffusion import Objective, diffusion_loss
from ddbench.methods.dpd.latents import Latents
from ddbench.methods.dpd.training import Schedule, checkpoints_beside, fit, mixed_precision
from ddbench.methods.latent_model import LatentModel

LORA_TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


@dataclass(frozen=True)
class Tuning:
    """What decides a fine-tuned U-Net; all of it is in the stage's key.

    weights: "lora" (rank and alpha = rank, attention projections, Gaussian start) or "all". steps, batch, rate, warmup:
    AdamW's. empty: share of prompts replaced by the empty one. ema: decay of the weight average, 0 for none.
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

    def key(self) -> dict[str, Any]:
        """JSON values for the stage's key; rank and consistency only where they decide something."""
        idle = {"rank"} if self.weights != "lora" else set()
        idle |= set() if self.consistency else {"consistency", "consistency_time"}
        return {name: value for name, value in asdict(self).items() if name not in idle}


def unfreeze(unet: nn.Module, how: Tuning) -> None:
    """Make the weights that `how` names trainable: LoRA layers are added, or every weight is freed."""
    if how.weights == "all":
        unet.requires_grad_(True)
        return
    from peft import LoraConfig

    torch.manual_seed(seed_of(0, "lora"))
    unet.add_adapter(
        LoraConfig(r=how.rank, lora_alpha=how.rank, init_lora_weights="gaussian", target_modules=LORA_TARGETS)
    )


def consistency(classifier: nn.Module, labels: Tensor, how: Tuning) -> Callable[[Tensor, Tensor], Tensor]:
    """lambda w(t) CE(f(z0_hat), y) per image: the addition to a diffusion loss.

    After Xu et al. (arXiv 2601.15829v1), who publish neither lambda, w(t) nor f: docs/dpd.md says what we take.
    labels (n,): a negative one has no class (its prompt is empty) and adds nothing. w(t) is abar_t, or 1.
    """

    def extra(clean: Tensor, abar: Tensor) -> Tensor:
        surprise = F.cross_entropy(classifier(clean), labels.clamp(min=0), reduction="none")
        over_time = abar if how.consistency_time == "abar" else torch.ones_like(abar)
        return how.consistency * over_time * surprise * (labels >= 0)

    return extra


def tuning_loss(
    model: LatentModel, latents: Latents, prompts: list[str], how: Tuning, classifier: nn.Module | None = None
) -> Callable[[int], Tensor]:
    """The loss of a step: all of its draws follow from the step, not from a run's seed.

    prompts: one per class. `classifier` (frozen) judges the clean estimates, where `how` asks for consistency.
    """
    words = model.words([*prompts, ""])

    def loss_at(step: int) -> Tensor:
        generator = generator_of(0, "tune", step)
        rows = torch.randint(len(latents.labels), (how.batch,), generator=generator)
        captions = latents.labels[rows].masked_fill(torch.rand(how.batch, generator=generator) < how.empty, -1)
        z, labels = latents.draw(rows, generator).to(model.device), captions.to(model.device)
        extra = consistency(classifier, labels, how) if how.consistency else None
        goal = Objective(model.scheduler.alphas_cumprod, model.prediction, extra=extra)
        conditions = {"encoder_hidden_states": words[labels], **model.conditions(how.batch)}
        with mixed_precision(model.device, how.precision):
            return diffusion_loss(model.unet, z, goal, generator, **conditions)

    return loss_at


def tune(
    model: LatentModel, how: Tuning, loss_at: Callable[[int], Tensor],
    *, folder: Path, progress: Callable[[Iterable], Iterable],
) -> None:  # fmt: skip
    """Train and write `unet.safetensors`: the trained weights only.

    Checkpoints lie beside `folder`, so that a killed run goes on with the same weights.
    """
    unfreeze(model.unet, how)
    schedule = Schedule(how.steps, how.rate, how.warmup, ema=how.ema)
    with checkpoints_beside(folder) as kept:
        fit(model.unet, loss_at, schedule, progress, kept)
        trained = {k: v.detach().cpu().contiguous() for k, v in model.unet.named_parameters() if v.requires_grad}
        save_file(trained, folder / "unet.safetensors")


def load_tuned(model: LatentModel, folder: Path, how: Tuning) -> None:
    """Put the weights that `tune` wrote into the model's U-Net, frozen again."""
    if how.weights == "lora" and not hasattr(model.unet, "peft_config"):
        unfreeze(model.unet, how)
    trained = load_file(folder / "unet.safetensors", device=str(model.device))
    unknown = model.unet.load_state_dict(trained, strict=False).unexpected_keys
    if unknown:
        raise ValueError(f"{folder} holds weights that the U-Net lacks: {', '.join(unknown[:3])}")
    model.unet.requires_grad_(False).eval()
