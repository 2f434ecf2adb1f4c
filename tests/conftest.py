"""A few scenes to distil or to train on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ddbench.datasets.scenes import painter
from ddbench.types import ImageSet


@pytest.fixture(scope="session")
def few_scenes() -> ImageSet:
    """Six 32 px images of each of three classes."""
    images = np.stack([painter.scene(label, i, 32) for label in range(3) for i in range(6)])
    return ImageSet(
        torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.arange(3).repeat_interleave(6),
        painter.CLASSES[:3], painter.READABLE[:3], tuple(f"{label}/{i}" for label in range(3) for i in range(6)),
    )  # fmt: skip
