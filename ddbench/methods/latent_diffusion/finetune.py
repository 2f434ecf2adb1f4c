"""Fine-tune the base's denoiser on the cached latents and prompts of the training images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ddbench.context import generator_of, seed_of
from ddbench.methods.latent_diffusion.class_vectors import CLASS_VECTORS, with_class_vectors
from ddbench.methods.latent_diffusion.difffit import unfreeze_difffit
from ddbench.methods.latent_diffusion.diffusion import Objective, diffusion_loss, even_weight, min_snr_weight
from ddbench.methods.latent_diffusion.training import Schedule, checkpoints_beside, fit
from ddbench.methods.latent_diffusion.variance import variational_bound
from ddbench.methods.shared.device import graphed, mixed_precision
from ddbench.utils.distributed import SINGLE_PROCESS, ProcessGroup

if TYPE_CHECKING:
    from ddbench.methods.latent_diffusion.latents import Latents
    from ddbench.methods.latent_diffusion.model import LatentModel

WEIGHTS = {"min-snr": min_snr_weight, "even": even_weight}
NEW_WEIGHTS = {"lora": ".lora_", "difffit": ".gamma"}  # parts of the names of weights that a base does not have
LORA_TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


@dataclass(frozen=True)
class FinetuneConfig:
    """The settings that decide a fine-tuned denoiser, besides data and `ExtraLoss`.

    weights: lora (attention projections, Gaussian start, alpha = rank), difffit (`unfreeze_difffit`) or all.
    rank: of LoRA.
    steps, batch, rate, warmup: of AdamW.
    cosine: the rate falls in a cosine after the warm-up (`Schedule`), else it stays constant.
    empty: share of prompts replaced by the empty one.
    ema: decay of the weight average, 0 for none.
    precision: bf16 (autocast) or fp32.
    decay: AdamW's weight decay.
    weight: weight of the loss over time, a key of WEIGHTS.
    average: decay of the weight average over the steps (`Schedule`).
    variance: fixed, or learned: add the variational bound of the denoiser's own variance.
    vector_rate: of the classes' vectors that are added to the prompts, 0 for none.
    parts: parts of a batch whose gradients are taken one after the other and summed.
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
    decay: float = 1e-2
    weight: str = "min-snr"
    average: str = "warm"
    variance: str = "fixed"
    parts: int = 1
    vector_rate: float = 0.0
    cosine: bool = False

    def key(self) -> dict[str, Any]:
        """Return JSON values for the stage's key, without the rank of no LoRA, without defaults and without parts."""
        values = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}
        values.pop("parts", None)
        if self.weights != "lora":
            del values["rank"]
        return values


@dataclass(frozen=True)
class FinetuneData:
    """The training images: cached latents, and the prompt of each.

    conditions: of the distinct prompts, (k, ...); the empty prompt's last.
    index: of each image's prompt, int64 (n,).
    """

    latents: Latents
    conditions: Tensor
    index: Tensor


@dataclass(frozen=True)
class ExtraLoss:
    """A term that a method adds to the diffusion loss.

    loss: (z0_hat, abar, labels, z) -> losses (n,) of clean estimates and clean latents (n, c, h, w), cumulative alphas
        (n,) and labels (n,), by default -1 where the prompt is empty.
    key: JSON values for the stage's key.
    labels_of_empty: give images with the empty prompt the label of their class in place of -1.
    """

    loss: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    key: Mapping[str, Any]
    labels_of_empty: bool = False


def unfreeze(denoiser: nn.Module, config: FinetuneConfig) -> None:
    """Make the weights trainable that `config` names: new LoRA layers, DiffFit's, or all.

    With LoRA, a denoiser conditioned by class also learns its class embeddings: those of the base mean other classes.
    """
    if config.weights == "all":
        denoiser.requires_grad_(True)
        return
    if config.weights == "difffit":
        unfreeze_difffit(denoiser)
        return
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(seed_of(0, "lora"))
    lora = LoraConfig(r=config.rank, lora_alpha=config.rank, init_lora_weights="gaussian", target_modules=LORA_TARGETS)
    inject_adapter_in_model(lora, denoiser)
    for name, weight in denoiser.named_parameters():
        weight.requires_grad_(".lora_" in name or ".class_embedder." in name or name == CLASS_VECTORS)


def finetune_loss(
    model: LatentModel,
    data: FinetuneData,
    config: FinetuneConfig,
    extra_loss: ExtraLoss | None = None,
    part: slice = slice(None),
) -> Callable[[int], Tensor]:
    """Return step -> loss of the step's batch, or of the `part` of it. A step's draws follow from its number alone."""
    latents, empty_prompt = data.latents, len(data.conditions) - 1
    abars, learned = model.scheduler.alphas_cumprod, config.variance == "learned"
    bound = partial(variational_bound, abars=abars.to(model.device))
    denoise = graphed(model.denoiser, lambda z_t, t, c: model.denoise(z_t, t, c, learned), model.device)

    def loss_at(step: int) -> Tensor:
        generator = generator_of(0, "tune", step)
        rows = torch.randint(len(latents.labels), (config.batch,), generator=generator)
        empty = torch.rand(config.batch, generator=generator) < config.empty
        z = latents.draw(rows, generator).to(model.device)
        prompts = data.index[rows].masked_fill(empty, empty_prompt)[part]
        condition = data.conditions[prompts.to(data.conditions.device)].to(model.device)
        labels = latents.labels[rows]
        of_prompts = labels.masked_fill(empty, -1)
        condition = with_class_vectors(model.denoiser, condition, of_prompts[part].to(model.device))
        labels = labels if extra_loss and extra_loss.labels_of_empty else of_prompts
        labels = labels[part].to(model.device)
        extra = (lambda z0_hat, abar: extra_loss.loss(z0_hat, abar, labels, z[part])) if extra_loss else None
        objective = Objective(abars, model.prediction, WEIGHTS[config.weight], extra, bound if learned else None)
        with mixed_precision(model.device, config.precision):
            network = lambda z_t, t: denoise(z_t, t, condition)  # noqa: E731
            return diffusion_loss(network, z, objective, generator, part)

    return loss_at


def finetune(
    model: LatentModel, config: FinetuneConfig, loss_at: Callable[[int], Tensor | Iterable[Tensor]],
    *, folder: Path, progress: Callable[[Iterable], Iterable], processes: ProcessGroup = SINGLE_PROCESS,
) -> dict[str, float]:  # fmt: skip
    """Train, and write the trained weights alone to `denoiser.safetensors`. Return the figures of the training.

    Checkpoints lie beside `folder`, so that a killed run ends with the same weights. Each process has the `loss_at` of
    its part of the batch.
    """
    unfreeze(model.denoiser, config)
    schedule = Schedule(
        config.steps, config.rate, config.warmup, config.cosine, decay=config.decay, ema=config.ema,
        average=config.average, vector_rate=config.vector_rate,
    )  # fmt: skip
    result = fit(model.denoiser, loss_at, schedule, progress, checkpoints_beside(folder, processes=processes))
    trained = {k: v.detach().cpu().contiguous() for k, v in model.denoiser.named_parameters() if v.requires_grad}
    if processes.is_lead:
        save_file(trained, folder / "denoiser.safetensors")
    return {"steps": config.steps, **asdict(result)}


def load_finetuned(model: LatentModel, folder: Path, config: FinetuneConfig) -> None:
    """Put the weights that `finetune` wrote into the model's denoiser, frozen again."""
    names = " ".join(name for name, _ in model.denoiser.named_parameters())
    if config.weights in NEW_WEIGHTS and NEW_WEIGHTS[config.weights] not in names:
        unfreeze(model.denoiser, config)
    trained = load_file(folder / "denoiser.safetensors", device=str(model.device))
    if unexpected := model.denoiser.load_state_dict(trained, strict=False).unexpected_keys:
        raise ValueError(f"{folder} has weights that the denoiser lacks: {', '.join(unexpected[:3])}")
    model.denoiser.requires_grad_(False).eval()
