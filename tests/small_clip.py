"""A small random CLIP model on disk, in the format of the real ones."""

from __future__ import annotations

from pathlib import Path

import torch

import ddbench


def write_clip(folder: Path) -> Path:
    """Weights, tokenizer (the embedded base model's) and image transform (16 px), saved together."""
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        CLIPProcessor,
        CLIPTextConfig,
        CLIPTokenizer,
        CLIPVisionConfig,
    )

    base = Path(ddbench.__file__).parent / "base_model" / "tiny"
    tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer")
    size = {"height": 16, "width": 16}
    CLIPProcessor(CLIPImageProcessor(size=size, crop_size=size), tokenizer).save_pretrained(folder)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    words = {"vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length}
    text, vision = CLIPTextConfig(**small, **ends, **words), CLIPVisionConfig(**small, image_size=16, patch_size=8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8)
        CLIPModel(config).save_pretrained(folder)
    return folder
