"""Derive seeds from names, so that a new random draw never changes another."""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, *names: str | int) -> torch.Generator:
    """Return a CPU generator for the draw that `names` identify."""
    return torch.Generator().manual_seed(seed_of(seed, *names))


def seed_of(seed: int, *names: str | int) -> int:
    """Derive a 63-bit seed from a seed and the names of its use, by SHA-256."""
    text = "\0".join(["evaluators", str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
