"""The vectors of classes: those of a DiT, which guidances mix, and those added to the prompts of a U-Net."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

CLASS_VECTORS = "class_vectors"  # name of the weight in the U-Net, (classes, tokens, d)


def add_class_vectors(denoiser: Any, classes: int, tokens: int) -> None:
    """Give a U-Net conditioned by text the weight `CLASS_VECTORS`, zeros: trained, stored and loaded as all others."""
    like = next(denoiser.parameters())
    vectors = like.new_zeros(classes, tokens, denoiser.config.cross_attention_dim)
    denoiser.register_parameter(CLASS_VECTORS, nn.Parameter(vectors, requires_grad=False))


def with_class_vectors(denoiser: nn.Module, prompts: Tensor, labels: Tensor) -> Tensor:
    """Return embedded prompts (n, tokens, d) plus the vectors of their classes, if the denoiser has any.

    labels: int64 (n,); -1, the empty prompt's, adds nothing.
    """
    vectors = getattr(denoiser, CLASS_VECTORS, None)
    return prompts if vectors is None else prompts + torch.cat([vectors, torch.zeros_like(vectors[:1])])[labels]


def class_tables(denoiser: Any) -> dict[str, Tensor]:
    """Return a DiT's embeddings of its classes (classes + 1, d) by the names of these weights; the last is "no class".

    diffusers has a table in each block; those of the public DiT, and blocks that share one, are equal.
    """
    from diffusers.models.embeddings import LabelEmbedding

    parts = ((name, part) for name, part in denoiser.named_modules() if isinstance(part, LabelEmbedding))
    return {f"{name}.embedding_table.weight": part.embedding_table.weight for name, part in parts}


def call_transformer(denoiser: Any, z: Tensor, times: Tensor, condition: Tensor) -> Tensor:
    """Return a DiT's output for z at `times` (n,) under classes, int64 (n,), or a vector of each table, (n, k, d)."""
    tables, labels = {}, condition
    if condition.is_floating_point():  # the vectors are the tables of this call, with a row for each image
        tables = dict(zip(class_tables(denoiser), condition.unbind(1), strict=True))
        labels = torch.arange(len(z), device=z.device)
    return functional_call(denoiser, tables, (z, times), {"class_labels": labels}).sample
