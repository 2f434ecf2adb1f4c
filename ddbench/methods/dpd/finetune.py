"""Fine-tune the base's U-Net on the cached latents of the training split, one prompt per class."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ddbench.context import generator_of, seed_of
from ddbench.methods.diffusion import diffusion_loss
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

    def key(self) -> dict[str, Any]:
        """JSON values for the stage's key; the rank only where it decides something."""
        return {name: value for name, value in asdict(self).items() if name != "rank" or self.weights == "lora"}


@dataclass(frozen=True)
class Latents:
    """The cached training split: unscaled posterior mean and std, float16 (n, c, h, w), and labels (n,)."""

    mean: Tensor
    std: Tensor
    labels: Tensor
    scale: float

    def draw(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Scaled posterior samples of `rows`, float32."""
        noise = torch.randn((len(rows), *self.mean.shape[1:]), generator=generator)
        return (self.mean[rows].float() + self.std[rows].float() * noise) * self.scale

    def means(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """Scaled posterior means of `rows`, float32."""
        return self.mean[rows].float() * self.scale


def save_latents(model: LatentModel, images: Tensor, folder: Path, *, progress: Callable) -> None:
    """Encode every image once."""
    mean, std = model.encode(images, progress, 64)
    save_file({"mean": mean, "std": std}, folder / "latents.safetensors")


def load_latents(folder: Path, labels: Tensor, scale: float) -> Latents:
    """Read what `save_latents` wrote, memory-mapped."""
    parts = load_file(folder / "latents.safetensors")
    return Latents(parts["mean"], parts["std"], labels, scale)


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


def tune(
    model: LatentModel, latents: Latents, prompts: list[str], how: Tuning,
    *, folder: Path, progress: Callable[[Iterable], Iterable],
) -> None:  # fmt: skip
    """Train and write `unet.safetensors`: the trained weights only. All draws follow from the step: no run seed.

    Checkpoints lie beside `folder`, so that a killed run goes on with the same weights.
    """
    words = model.words([*prompts, ""])
    abars = model.scheduler.alphas_cumprod
    unfreeze(model.unet, how)

    def loss_at(step: int) -> Tensor:
        generator = generator_of(0, "tune", step)
        rows = torch.randint(len(latents.labels), (how.batch,), generator=generator)
        captions = latents.labels[rows].masked_fill(torch.rand(how.batch, generator=generator) < how.empty, -1)
        z = latents.draw(rows, generator).to(model.device)
        conditions = {"encoder_hidden_states": words[captions.to(words.device)], **model.conditions(how.batch)}
        with mixed_precision(model.device, how.precision):
            return diffusion_loss(model.unet, z, abars, generator, model.prediction, **conditions)

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
