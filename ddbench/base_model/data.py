"""Training images of the base model: EuroSAT's training split and procedural scenes, with a caption each."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddbench.datasets.info import DataPaths
from ddbench.datasets.rs.eurosat import EUROSAT
from ddbench.datasets.scenes import painter
from ddbench.datasets.scenes.source import Scenes
from ddbench.types import ImageSet
from ddbench.utils.images import to_array, to_tensor

SATELLITE = "A satellite image of {}."
DRAWN = "A drawn aerial scene of {}."
SIZE = 64
WEBP_QUALITY = 95  # 42.9 dB PSNR on EuroSAT, 1.4 kB an image


def base_images(paths: DataPaths, scenes_per_class: int, archive: Path | None = None) -> ImageSet:
    """Return EuroSAT's training split followed by scenes from `painter.BASE_START` on, a range no dataset uses.

    archive: a file of `pack_images` to read EuroSAT from. `classes` and `readable` are the captions of the twenty
    classes.
    """
    if archive:
        images, labels = unpack_images(archive)
    else:
        train = EUROSAT.load(paths, SIZE).train
        images, labels = train.images, train.labels
    drawn = Scenes(scenes_per_class, 0, painter.BASE_START).load(paths, SIZE).train
    captions = [SATELLITE.format(r) for r in EUROSAT.readable] + [DRAWN.format(r) for r in drawn.readable]
    labels = torch.cat([labels, drawn.labels + len(EUROSAT.classes)])
    return ImageSet(torch.cat([images, drawn.images]), labels, tuple(captions), tuple(captions))


def pack_images(paths: DataPaths, path: Path) -> None:
    """Write EuroSAT's training split as a ZIP of WebP files: 30 MB, to train on a machine without the dataset."""
    train = EUROSAT.load(paths, SIZE).train
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for i, (image, label) in enumerate(zip(to_array(train.images), train.labels.tolist(), strict=True)):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "webp", quality=WEBP_QUALITY, method=6)
            archive.writestr(f"{label}/{i}.webp", buffer.getvalue())


def unpack_images(path: Path) -> tuple[Tensor, Tensor]:
    """Read a file of `pack_images`: uint8 (n, 3, 64, 64) and int64 labels (n,), in the order they were written."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        arrays = [np.array(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in names]
    labels = [int(name.split("/")[0]) for name in names]
    return to_tensor(np.stack(arrays)), torch.tensor(labels)
