"""A distilled set as a torch dataset."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from ddbench.errors import UserError
from ddbench.runner.external_folder import read_folder
from ddbench.store import distilled_set
from ddbench.store.class_folders import class_files, read_image
from ddbench.store.distilled_set import Pictures


class DistilledImage(NamedTuple):
    """One item of `DistilledImages`; torch's DataLoader joins items into one such tuple of batches.

    image: uint8 (3, h, w), 0..255.
    label: index of its class.
    target: float32 (c,), probabilities of the classes: the soft label, or 1 for the class and 0 for all others.
    weight: of the image in a loss.
    """

    image: Tensor
    label: int
    target: Tensor
    weight: float


class DistilledImages(Dataset[DistilledImage]):
    """A distilled set as a torch dataset, class by class; `load_distilled` reads it.

    folder: where the images are.
    images: uint8 (n, 3, h, w), 0..255. labels: int64 (n,). classes: names in label order.
    targets: float32 (n, c), the soft labels; one-hot where the set has none.
    soft_labels: float32 (n, c); None for a set with hard labels.
    weights: float32 (n,), of the images in a loss; 1 where the set has none.
    float_images: float32 (n, 3, h, w), grey values / 255 before rounding, where the method stored them; else None.
    learning_rate: of the student, where the method learned one; else None.
    whitening: the ZCA that the images were optimised in (`evaluators.normalisation.Whitening`); else None.
    """

    def __init__(self, folder: Path, pictures: Pictures) -> None:
        self.folder = folder
        self.images = pictures.to_tensor()
        self.labels = torch.from_numpy(pictures.labels)
        self.classes = pictures.classes
        self.soft_labels = None if pictures.soft is None else torch.from_numpy(pictures.soft)
        one_hot = F.one_hot(self.labels, len(self.classes)).float()
        self.targets = one_hot if self.soft_labels is None else self.soft_labels
        self.weights = torch.ones(len(self.labels)) if pictures.weights is None else torch.from_numpy(pictures.weights)
        self.float_images = None if pictures.floats is None else torch.from_numpy(pictures.floats)
        self.learning_rate = pictures.learning_rate
        self.whitening = pictures.to_whitening()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def __getitem__(self, index: int) -> DistilledImage:
        """Return one image with its label, target and weight."""
        return DistilledImage(
            self.images[index], int(self.labels[index]), self.targets[index], float(self.weights[index])
        )


def read_pictures(folder: Path) -> tuple[Path, Pictures]:
    """Read the set in a run, in its distilled/ or in a folder of anybody's images; return that folder and the set.

    Raises UserError.
    """
    folder = folder / "distilled" if (folder / "distilled").is_dir() else folder
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; expected a run, or one sub-folder of images per class")
    try:
        if (folder / "manifest.json").exists():
            return folder, distilled_set.read(folder)
        files = class_files(folder)
        if not any(files.values()):
            raise UserError(f"{folder} has no image; expected a run, or one sub-folder of images per class")
        first = next(file for of_class in files.values() for file in of_class)
        return folder, read_folder(folder, tuple(files), read_image(first).shape[0])
    except ValueError as error:
        raise UserError(str(error)) from None
