"""DiffFit (Xie et al., ICCV 2023, arXiv:2304.06648): few weights of a diffusion transformer, and new scales."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def unfreeze_difffit(denoiser: Any) -> None:
    """Make biases, norms, class embeddings and new scales gamma of a DiT trainable, as Minimax's public code does.

    gamma, ones at first, multiplies six outputs of each block of the first half (14 of 28): queries, keys, values,
    projection, attention and feed-forward. The public DiT embeds time and class once, diffusers' once per block: where
    all blocks have equal weights they share one embedding from now on.
    """
    blocks = denoiser.transformer_blocks
    first = blocks[0].norm1.emb
    if all(_equal(first, block.norm1.emb) for block in blocks):
        for block in blocks:
            block.norm1.emb = first
    width = denoiser.inner_dim
    for block in blocks[: len(blocks) // 2]:
        attention = block.attn1
        for part in (attention.to_q, attention.to_k, attention.to_v, attention.to_out[0], attention, block.ff):
            part.register_parameter("gamma", nn.Parameter(torch.ones(width, device=denoiser.device)))
            part.register_forward_hook(_scaled)
    of_norms = {id(p) for m in denoiser.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters()}
    for name, weight in denoiser.named_parameters():
        by_name = name.endswith((".bias", ".gamma")) or ".class_embedder." in name
        weight.requires_grad_(by_name or id(weight) in of_norms)


def _scaled(part: Any, inputs: Any, output: Tensor) -> Tensor:
    return output * part.gamma


def _equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
