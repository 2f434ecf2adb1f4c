"""A pipeline folder of Stable Diffusion 2's true size, its weights random: for measuring without its files.

    python benchmarks/sd2.py FOLDER

U-Net 866 M weights, autoencoder 84 M, text encoder 340 M; v-prediction, float16 on disk (2.6 GB). Sizes are those of
the configurations that Stability AI published. The tokenizer is the embedded base's, padded to the 77 tokens of the
real one: what it says has no meaning, and costs as much.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click
import torch
from torch import nn

from ddbench.base_model import FOLDER

LEVELS = (320, 640, 1280, 1280)
TOKENS = 77


def unet() -> nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=96, in_channels=4, out_channels=4, block_out_channels=LEVELS, cross_attention_dim=1024,
        attention_head_dim=[5, 10, 20, 20], use_linear_projection=True,
    )  # fmt: skip


def autoencoder() -> nn.Module:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, scaling_factor=0.18215,
    )  # fmt: skip


def text_encoder() -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(CLIPTextConfig(
        vocab_size=49408, hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16,
        max_position_embeddings=TOKENS, hidden_act="gelu", projection_dim=512,
    ))  # fmt: skip


def write_tokenizer(folder: Path) -> None:
    shutil.copytree(FOLDER / "tokenizer", folder, dirs_exist_ok=True)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": TOKENS}))


def write(folder: Path, device: str | torch.device = "cpu") -> dict[str, int]:
    """Write the pipeline; return the number of weights of each part. device: draws the weights (a GPU is faster)."""
    from diffusers import DDIMScheduler

    torch.manual_seed(0)
    weights = {}
    for name, make in {"unet": unet, "vae": autoencoder, "text_encoder": text_encoder}.items():
        with torch.device(device):
            network = make().half().cpu()
        weights[name] = sum(p.numel() for p in network.parameters())
        network.save_pretrained(folder / name)
    scheduler = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    DDIMScheduler(**scheduler, prediction_type="v_prediction", clip_sample=False).save_pretrained(folder / "scheduler")
    write_tokenizer(folder / "tokenizer")
    return weights


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path))
def main(folder: Path) -> None:
    for name, count in write(folder).items():
        print(f"{name}: {count / 1e6:.0f} M weights")


if __name__ == "__main__":
    main()
