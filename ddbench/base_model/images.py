"""What the base model learns from: EuroSAT's training split and procedural scenes, with a caption each."""

from __future__ import annotations

import torch

from ddbench.datasets.info import DataPaths
from ddbench.datasets.rs.eurosat import EUROSAT
from ddbench.datasets.scenes import painter
from ddbench.datasets.scenes.source import Scenes
from ddbench.types import ImageSet

SATELLITE = "A satellite image of {}."
DRAWN = "A drawn aerial scene of {}."
SIZE = 64


def base_images(data_paths: DataPaths, scenes_per_class: int) -> ImageSet:
    """EuroSAT's training split followed by scenes from `drawing.BASE_START` on, a range no dataset uses.

    `classes` and `readable` are the captions of the twenty classes.
    """
    real = EUROSAT.load(data_paths, SIZE).train
    drawn = Scenes(scenes_per_class, 0, painter.BASE_START).load(data_paths, SIZE).train
    captions = [SATELLITE.format(r) for r in real.readable] + [DRAWN.format(r) for r in drawn.readable]
    labels = torch.cat([real.labels, drawn.labels + len(real.classes)])
    return ImageSet(torch.cat([real.images, drawn.images]), labels, tuple(captions), tuple(captions))
