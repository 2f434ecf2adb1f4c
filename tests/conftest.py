"""A few scenes to distil or to train on, and a small random pipeline of Stable Diffusion's shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ddbench.datasets.scenes import painter
from ddbench.types import ImageSet

LONG_FILES = ("test_distributed.py", "test_classifier.py", "test_workers.py", "test_page.py", "test_new.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: at the end of a run no process waits for one of them."""
    items.sort(key=lambda item: item.path.name not in LONG_FILES)


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings of the user in the environment."""
    for name in ("RUNS", "DATA", "SHARED", "DEVICE"):
        monkeypatch.delenv(f"DDBENCH_{name}", raising=False)


@pytest.fixture(scope="session")
def few_scenes() -> ImageSet:
    """Six 32 px images of each of three classes."""
    images = np.stack([painter.scene(label, i, 32) for label in range(3) for i in range(6)])
    return ImageSet(
        torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.arange(3).repeat_interleave(6),
        painter.CLASSES[:3], painter.READABLE[:3], tuple(f"{label}/{i}" for label in range(3) for i in range(6)),
    )  # fmt: skip


def write_pipeline(folder: Path, prediction: str = "epsilon", class_embeds: int | None = None, **unet: Any) -> Path:
    """Four-channel latents, a quarter of the pixels' side, width 16: `from_pretrained` reads it like a real one.

    unet: more of, or other than, the U-Net's settings.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from ddbench.base_model.tokenizer import train_tokenizer

    torch.manual_seed(0)
    tokenizer = train_tokenizer(folder / "tokenizer")
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 16), latent_channels=4, norm_num_groups=4, scaling_factor=0.5,
    ).save_pretrained(folder / "vae")  # fmt: skip
    settings = {"in_channels": 4, "cross_attention_dim": 16, "num_class_embeds": class_embeds} | unet
    UNet2DConditionModel(
        sample_size=8, out_channels=4, block_out_channels=(16, 32), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=4, norm_num_groups=4, **settings,
    ).save_pretrained(folder / "unet")  # fmt: skip
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, projection_dim=16,
        num_attention_heads=2, max_position_embeddings=32, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    DDIMScheduler(prediction_type=prediction, clip_sample=False).save_pretrained(folder / "scheduler")
    return folder


@pytest.fixture(scope="session")
def make_pipeline():
    """`write_pipeline`."""
    return write_pipeline


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory) -> Path:
    """An epsilon-prediction pipeline folder."""
    return write_pipeline(tmp_path_factory.mktemp("base") / "epsilon")
