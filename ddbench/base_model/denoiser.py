"""Train the base model's text encoder and U-Net together, from nothing, on cached latents."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import AutoencoderDC, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ddbench.base_model.autoencoder import CPU
from ddbench.context import generator_of
from ddbench.methods.latent_diffusion.diffusion import Objective, diffusion_loss, even_weight
from ddbench.methods.latent_diffusion.model import posterior, to_float
from ddbench.methods.shared.device import mixed_precision
from ddbench.types import ImageSet

WIDTH = 128
BATCH = 64
EMPTY_SHARE = 0.1


class TextToLatent(nn.Module):
    """The two networks that learn, as one module so that one optimizer and one average cover both."""

    def __init__(self, tokenizer: CLIPTokenizer, latent_channels: int) -> None:
        super().__init__()
        self.text = build_text_encoder(tokenizer)
        self.unet = build_unet(latent_channels)


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two transformer layers of width 128."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=4 * WIDTH, projection_dim=WIDTH,
        num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return CLIPTextModel(config)


def build_unet(latent_channels: int) -> UNet2DConditionModel:
    """8x8 and 4x4 levels of 64 and 128 channels with cross-attention to the prompt, 4.3 M weights."""
    return UNet2DConditionModel(
        sample_size=8, in_channels=latent_channels, out_channels=latent_channels, block_out_channels=(64, 128),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), layers_per_block=1,
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=WIDTH,
        attention_head_dim=8, norm_num_groups=16,
    )  # fmt: skip


def build_scheduler() -> DDIMScheduler:
    """1000 steps, squared-cosine, v-prediction (Salimans and Ho, arXiv 2202.00512)."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=True,
        timestep_spacing="trailing", steps_offset=0,
    )  # fmt: skip


@torch.no_grad()
def encode_all(vae: AutoencoderDC, images: Tensor, precision: str, progress: Callable) -> Tensor:
    """Scaled posterior means of every image and of its mirror image: float16 (2, n, channels, h/8, w/8)."""
    found = []
    for chunk in progress(images.split(128)):
        both = torch.cat([chunk, chunk.flip(3)])
        with mixed_precision(CPU, precision):
            mean = posterior(vae, to_float(both))[0]
        found.append((mean.float() * vae.config.scaling_factor).half().unflatten(0, (2, len(chunk))))
    return torch.cat(found, 1)


def denoiser_loss(
    data: ImageSet, latents: Tensor, model: TextToLatent, tokenizer: CLIPTokenizer
) -> Callable[[int], Tensor]:
    """The loss of a step: v-prediction on captions, 10 % of them empty.

    In float32: on 8x8 grids bfloat16 was measured to be slower on a CPU (0.83 s against 0.51 s per step, one thread).
    """
    goal = Objective(build_scheduler().alphas_cumprod, weight=even_weight)
    tokens = tokenizer([*data.classes, ""], padding="max_length", return_tensors="pt").input_ids

    def loss_at(step: int) -> Tensor:
        generator = generator_of(0, "denoiser", step)
        rows = torch.randint(len(data.labels), (BATCH,), generator=generator)
        sides = torch.randint(2, (BATCH,), generator=generator)
        empty = torch.rand(BATCH, generator=generator) < EMPTY_SHARE
        captions = data.labels[rows].masked_fill(empty, len(data.classes))
        # index_select, not [captions]: the gradient of the latter adds in an order that threads decide
        words = model.text(tokens).last_hidden_state.index_select(0, captions)
        z = latents[sides, rows].float()

        def network(z_t: Tensor, t: Tensor) -> Tensor:
            return model.unet(z_t, t, encoder_hidden_states=words).sample

        return diffusion_loss(network, z, goal, generator)

    return loss_at
