"""Which image sizes the students take, and how they cut them. No torch: sizes are checked before any work begins."""

from __future__ import annotations

import math

SMALLEST = 8


def check_size(student: str, size: int) -> None:
    """ValueError when `student` cannot take `size` x `size` images."""
    if size < SMALLEST:
        raise ValueError(f"students need at least {SMALLEST} px, not {size}")
    if student == "vit_tiny":
        vit_patch(size)


def convnet_depth(size: int) -> int:
    """Blocks of the ConvNet: round(log2(size)) - 2, so 3, 4, 5, 6 at 32, 64, 128, 256 px (and 6 at 224); at least 1."""
    return max(1, round(math.log2(size)) - 2)


def vit_patch(size: int) -> int:
    """Patch side: the divisor of `size` nearest to size / 8 (the smaller of two), so 64 patches where 8 divides it.

    ValueError where that leaves over a thousand patches (prime sizes).
    """
    side = min((d for d in range(1, size + 1) if size % d == 0), key=lambda d: (abs(d - size / 8), d))
    if (size // side) ** 2 > 1024:
        raise ValueError(f"vit_tiny would cut {size} px into {(size // side) ** 2} patches: use a multiple of 8")
    return side
