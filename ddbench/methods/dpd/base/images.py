"""What the base model learns from: EuroSAT's training split and procedural scenes, with a caption each."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch

from ddbench.datasets import drawing
from ddbench.datasets.facts import Place
from ddbench.datasets.rs.eurosat import EUROSAT
from ddbench.types import ImageSet

SATELLITE = "A satellite image of {}."
DRAWN = "A drawn aerial scene of {}."
SIZE = 64


def base_images(place: Place, scenes_per_class: int) -> ImageSet:
    """EuroSAT's training split followed by scenes from `drawing.BASE_START` on, a range no dataset uses.

    `classes` and `readable` are the captions of the twenty classes.
    """
    real = EUROSAT.load(place, SIZE).train
    drawn, labels = _scenes(scenes_per_class)
    captions = [SATELLITE.format(r) for r in real.readable] + [DRAWN.format(r) for r in drawing.READABLE]
    images = torch.cat([real.images, drawn])
    return ImageSet(images, torch.cat([real.labels, labels + len(real.classes)]), tuple(captions), tuple(captions))


def _scenes(per_class: int) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 (10 * per_class, 3, 64, 64) and their labels 0..9."""
    jobs = [(label, drawing.BASE_START + i) for label in range(len(drawing.CLASSES)) for i in range(per_class)]
    with ProcessPoolExecutor() as pool:
        pictures = list(pool.map(_draw, jobs, chunksize=64))
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    return images, torch.tensor([label for label, _ in jobs])


def _draw(job: tuple[int, int]) -> np.ndarray:
    return drawing.scene(*job, SIZE)
