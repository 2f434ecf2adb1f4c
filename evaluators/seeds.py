"""Seeds derive from names: another draw elsewhere never moves this one."""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator of its own for what `names` says is drawn."""
    return torch.Generator().manual_seed(seed_of(seed, *names))


def seed_of(seed: int, *names: str | int) -> int:
    """A 63-bit seed from a seed and what it is for (SHA-256)."""
    text = "\0".join(["evaluators", str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
