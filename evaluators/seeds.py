"""Derive seeds from names, so that a new random draw never changes another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def generator(seed: int, *names: str | int) -> torch.Generator:
    """Return a CPU generator for the draw that `names` identify."""
    return torch.Generator().manual_seed(seed_of(seed, *names))


def seed_of(seed: int, *names: str | int) -> int:
    """Derive a 63-bit seed from a seed and the names of its use, by SHA-256."""
    text = "\0".join(["evaluators", str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@contextmanager
def seeded_dropout(seed: int, device: torch.device | str) -> Iterator[None]:
    """Seed torch's global generators, from which dropout and stochastic depth draw, and restore them at the end."""
    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed_of(seed, "dropout"))  # torch.manual_seed would change every GPU's
        if devices:
            with torch.cuda.device(devices[0]):
                torch.cuda.manual_seed(seed_of(seed, "dropout"))
        yield
