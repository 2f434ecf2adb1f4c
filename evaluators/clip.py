"""Embed images and texts by a CLIP model, from a folder or the Hugging Face hub. Loads tensors only, no code.

Reads safetensors if a model has them, else only the tensors of torch's file (older models have nothing else). Needs
transformers (5 or newer), which is imported when a model is loaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from evaluators.model_checks import (
    ModelError,
    check_files,
    check_loaded,
    check_tokenizer,
    check_values,
    equal_texts,
    long_texts,
)

PROMPT = "a remote sensing image of {}"  # of DPD's release


@dataclass(frozen=True)
class Clip:
    """A model and its processor (tokenizer and image transform), on a device."""

    model: Any
    processor: Any
    device: torch.device


def load(name: str, device: torch.device | str = "cpu") -> Clip:
    """Load a CLIP model by folder or hub id.

    Raises model_checks.ModelError, an OSError, if it cannot be loaded, is not whole, or has a tokenizer without words.
    Of torch's file only tensors are read.
    """
    import transformers
    from transformers import CLIPModel, CLIPProcessor

    transformers.utils.logging.set_verbosity_error()  # its report of loading becomes an error here
    try:
        if Path(name).is_dir():
            check_files(Path(name), "model", torch_files=True)
        options = {"weights_only": True, "output_loading_info": True, "dtype": torch.float32}
        model, report = CLIPModel.from_pretrained(name, **options)
        check_loaded(name, report)
        check_values(name, model.named_parameters())
        processor = CLIPProcessor.from_pretrained(name, truncation_side="right")
        check_tokenizer(name, processor.tokenizer, model.config.text_config.vocab_size)
    except ModelError:
        raise
    except (
        OSError,
        ValueError,
        TypeError,
        RuntimeError,
        KeyError,
        AttributeError,
        SafetensorError,
        UnpicklingError,
    ) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = lines[0]
        if "image processor" in reason:  # the library's words are of its hub
            reason = "it lacks preprocessor_config.json: copy it too"
        raise ModelError(f"{name} cannot be loaded as a CLIP model: {reason}") from error
    return Clip(model.to(device).eval(), processor, torch.device(device))


def check_texts(clip: Clip, texts: Sequence[str]) -> dict[str, int]:
    """Return the texts that are cut, with the tokens of each.

    Raises ValueError, naming them, for two texts that are one to the model: equal as far as it reads.
    """
    tokenizer, length = clip.processor.tokenizer, clip.model.config.text_config.max_position_embeddings
    if equal := equal_texts(tokenizer, texts, length):
        one, other = (repr(texts[i]) for i in equal)
        raise ValueError(f"{one} and {other} are one text to the CLIP model, which reads {length} tokens")
    return long_texts(tokenizer, texts, length)


def embed_images(clip: Clip, images: Tensor, batch: int = 32) -> Tensor:
    """Embed uint8 (n, 3, h, w) images, resized and normalised by the model's processor; float32 (n, d) on the CPU."""
    parts = (clip.processor(images=list(part), return_tensors="pt")["pixel_values"] for part in images.split(batch))
    with torch.no_grad():
        features = [_pooled(clip.model.get_image_features(pixel_values=part.to(clip.device))) for part in parts]
    return torch.cat(features).float().cpu()


def embed_texts(clip: Clip, texts: Sequence[str]) -> Tensor:
    """Embed texts, float32 (n, d) on the CPU; tokens are padded to the model's length, as in DPD's release."""
    tokens = clip.processor(text=list(texts), padding="max_length", truncation=True, return_tensors="pt")
    inputs = {name: tokens[name].to(clip.device) for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        return _pooled(clip.model.get_text_features(**inputs)).float().cpu()


def digest(clip: Clip) -> str:
    """Compute the SHA-256 (hex) of the model's weights, names and values."""
    sha = hashlib.sha256()
    for name, part in sorted(clip.model.state_dict().items()):
        sha.update(name.encode())
        sha.update(part.cpu().contiguous().numpy().data)
    return sha.hexdigest()


def _pooled(output: Any) -> Tensor:
    """Unwrap the projected features, which transformers 5 wraps and transformers 4 did not."""
    features: Tensor = getattr(output, "pooler_output", output)
    return features
