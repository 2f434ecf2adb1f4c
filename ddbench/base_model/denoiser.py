"""The base model's text encoder and U-Net, trained together, from nothing, on cached latents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderDC, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ddbench.base_model.autoencoder import EVERY
from ddbench.base_model.budget import TrainingBudget, compile_step
from ddbench.methods.latent_diffusion.diffusion import Objective, diffusion_loss
from ddbench.methods.latent_diffusion.latents import posterior
from ddbench.methods.latent_diffusion.training import Checkpoints, Schedule, fit
from ddbench.methods.shared.device import mixed_precision
from ddbench.types import ImageSet
from ddbench.utils.images import to_float

WIDTH = 128
EMPTY_SHARE = 0.1
VIEWS = 8


class TextToLatent(nn.Module):
    """The two networks that learn, as one module so that one optimizer and one average cover both."""

    def __init__(self, tokenizer: CLIPTokenizer, latent_channels: int) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.text = build_text_encoder(tokenizer)
        self.unet = build_unet(latent_channels)


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Build a CLIP text encoder of two layers of width 128."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=4 * WIDTH, projection_dim=WIDTH,
        num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return CLIPTextModel(config)


def build_unet(latent_channels: int) -> UNet2DConditionModel:
    """Build the denoiser: levels 16x16, 8x8 and 4x4 of 64, 128 and 160 channels, 12.8 M weights.

    The two lower levels attend to themselves and to the prompt (four heads: diffusers takes `attention_head_dim` for
    their number). At 16x16 attention would double the time on a CPU.
    """
    return UNet2DConditionModel(
        sample_size=16, in_channels=latent_channels, out_channels=latent_channels, block_out_channels=(64, 128, 160),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), layers_per_block=2,
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=WIDTH,
        attention_head_dim=4, norm_num_groups=16,
    )  # fmt: skip


def build_scheduler() -> DDIMScheduler:
    """Build DDIM: 1000 steps, squared-cosine noise levels, v-prediction (Salimans and Ho, arXiv 2202.00512)."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=True,
        timestep_spacing="trailing", steps_offset=0,
    )  # fmt: skip


@torch.no_grad()
def encode_views(vae: AutoencoderDC, images: Tensor, device: torch.device, progress: Callable) -> Tensor:
    """Return the scaled posterior means of uint8 images (n, 3, s, s) under the square's eight symmetries.

    Returns float16 (8, n, c, s/4, s/4), on the CPU.
    """
    latents = []
    for chunk in progress(images.split(256)):
        chunk = to_float(chunk.to(device))
        turns = [chunk.rot90(k, (2, 3)) for k in range(4)]
        views = torch.cat([*turns, *(view.flip(3) for view in turns)])
        mean = torch.cat([posterior(vae, part)[0] for part in views.split(256)])
        latents.append((mean * vae.config.scaling_factor).half().unflatten(0, (VIEWS, len(chunk))).cpu())
    return torch.cat(latents, 1)


class UNetForward(nn.Module):
    """The U-Net as a function of three tensors, its autocast inside: what torch.compile takes."""

    def __init__(self, unet: UNet2DConditionModel, device: torch.device, precision: str) -> None:
        super().__init__()
        self.unet, self.device, self.precision = unet, device, precision

    def forward(self, z_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        with mixed_precision(self.device, self.precision):
            return self.unet(z_t, t, encoder_hidden_states=condition).sample


def limited_weight(abar: Tensor, prediction: str) -> Tensor:
    """Return loss weights (n,) of v-prediction: min(1, 10 (1 - abar)), so less at little noise.

    There v is nearly the noise, whose finest part no network can tell from the image.
    """
    return (10 * (1 - abar)).clamp(max=1.0)


def train_denoiser(
    model: TextToLatent,
    data: ImageSet,
    latents: Tensor,
    budget: TrainingBudget,
    progress: Callable,
    folder: Path | None,
) -> None:
    """Train text encoder and U-Net on the device of `model`; latents are those of `encode_views`.

    A tenth of the captions is empty. The loss is that of v-prediction with `limited_weight`: on these latents it fell
    faster than that of predicting the clean latent (docs/base-model-trials.md).
    """
    device = next(model.parameters()).device
    scheduler = build_scheduler()
    objective = Objective(scheduler.alphas_cumprod.to(device), scheduler.config.prediction_type, weight=limited_weight)
    tokens = model.tokenizer([*data.classes, ""], padding="max_length", return_tensors="pt").input_ids.to(device)
    latents, labels = latents.to(device), data.labels.to(device)
    denoise: Callable = UNetForward(model.unet, device, budget.precision)
    if budget.compiled:
        denoise = torch.compile(denoise, dynamic=False)

    def loss_at(step: int) -> Tensor:
        generator = budget.generator(device, "denoiser", step)

        def randint(high: int) -> Tensor:
            return torch.randint(high, (budget.batch,), generator=generator, device=device)

        views, rows = randint(VIEWS), randint(len(labels))
        empty = torch.rand(budget.batch, generator=generator, device=device) < EMPTY_SHARE
        captions = labels[rows].masked_fill(empty, len(data.classes))
        z = latents[views, rows].float().contiguous(memory_format=budget.memory_format)
        # index_select, not [captions]: the gradient of the latter adds in an order that threads decide
        condition = model.text(tokens).last_hidden_state.index_select(0, captions)
        return diffusion_loss(lambda z_t, t: denoise(z_t, t, condition), z, objective, generator)

    if budget.compiled:
        compile_step(loss_at, model)
    schedule = Schedule(
        budget.steps, budget.rate, warmup=200, cosine=True, betas=(0.9, 0.99), ema=budget.ema, seconds=budget.seconds
    )
    fit(model, loss_at, schedule, progress, Checkpoints(folder, EVERY))
