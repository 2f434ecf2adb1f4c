"""The classes of a DiT as vectors: guidances mix them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call


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
