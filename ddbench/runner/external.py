"""A folder of images in place of a method's distilled set; the same code evaluates both. No torch at import."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ddbench.datasets.info import DataPaths
from ddbench.datasets.lookup import Source
from ddbench.datasets.name import FOLDER, display_name
from ddbench.errors import UserError
from ddbench.runner.plan import EvaluationSetup, Plan
from ddbench.store import distilled_set
from ddbench.store.distilled_set import FLOAT_IMAGES, SOFT_LABELS, WHITENING, Pictures, class_files
from ddbench.store.records import RunSpec
from ddbench.utils.files import read_json
from ddbench.utils.images import UnreadableImageError, open_image

if TYPE_CHECKING:
    from ddbench.context import Context
    from ddbench.types import DistilledSet, ImageSet

log = logging.getLogger("ddbench")


@dataclass(frozen=True)
class ExternalImages:
    """A method that returns existing images."""

    name: ClassVar[str] = "folder"
    version: ClassVar[int] = 1
    whole: ClassVar[bool] = False
    parallel: ClassVar[bool] = False
    citation: ClassVar[str] = ""
    pictures: Pictures

    def distill(self, train: ImageSet, ipc: int, ctx: Context) -> DistilledSet:
        """Return the images of the folder with the classes of `train`."""
        import torch

        from evaluators.normalisation import Whitening

        pictures = self.pictures
        soft, floats = (None if part is None else torch.from_numpy(part) for part in (pictures.soft, pictures.floats))
        zca = {name: torch.from_numpy(part) for name, part in pictures.whitening.items()}
        return train.distilled(
            pictures.to_tensor(),
            torch.from_numpy(pictures.labels),
            soft_labels=soft,
            float_images=floats,
            learning_rate=pictures.learning_rate,
            whitening=Whitening.of(zca["mean"], zca["matrix"]) if zca else None,
        )

    def identity(self) -> str:
        """Return nothing: the digest of the images is among the parameters."""
        return ""

    def check_models(self, readable: Sequence[str]) -> None:
        """Do nothing: there is no model."""


def plan_external(
    folder: Path, dataset: Source, size: int | None, evaluation: EvaluationSetup, data_paths: DataPaths
) -> Plan:
    """Plan the evaluation of the class folders below `folder` on the source `dataset`.

    The IPC is the largest number of images in a class. Raises UserError when the classes differ.
    """
    size = size or dataset.pixels
    evaluation.check_size(size)
    pictures = read_folder(folder, tuple(dataset.classes), size)
    split = dataset.describe(data_paths)
    spec = RunSpec(
        method=FOLDER + folder.resolve().name,
        method_version=ExternalImages.version,
        preset=None,
        params={"content": pictures.content()},
        dataset=display_name(dataset.name),
        split=split.rule,
        fingerprint=split.fingerprint,
        size=size,
        ipc=max(pictures.counts),
        seed=0,
    )
    return Plan(ExternalImages(pictures), dataset, split, (spec,), evaluation, exact=False)


def read_folder(folder: Path, classes: tuple[str, ...], size: int) -> Pictures:
    """Read the images of every class as they are.

    Raises UserError unless the class folders are exactly `classes`, none is empty, and every image is RGB of `size` x
    `size` pixels.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; expected one sub-folder of images per class")
    files = class_files(folder)
    _check_classes(folder, files, classes)
    paths = [path for name in classes for path in files[name]]
    images = [_read(path, size) for path in paths]
    labels = [label for label, name in enumerate(classes) for _ in files[name]]
    try:
        soft, floats = (distilled_set.read_tensor(folder, name) for name in (SOFT_LABELS, FLOAT_IMAGES))
        whitening = distilled_set.read_tensors(folder, WHITENING)
        manifest = read_json(folder / "manifest.json") if (folder / "manifest.json").exists() else {}
    except ValueError as error:
        raise UserError(str(error)) from None
    if whitening and sorted(whitening) != ["matrix", "mean"]:
        raise UserError(f"{folder}: a whitening has mean and matrix, not {', '.join(whitening)}")
    n, pixels = len(labels), 3 * size * size
    for name, array, shape in (
        ("soft labels are", soft, (n, len(classes))),
        ("float images are", floats, (n, 3, size, size)),
        ("the whitening's mean is", whitening.get("mean"), (3, size, size)),
        ("the whitening's matrix is", whitening.get("matrix"), (pixels, pixels)),
    ):
        if array is not None and array.shape != shape:
            raise UserError(f"{folder}: {name} {array.shape}, not {shape}")
    hard, rate = np.array(labels, dtype=np.int64), manifest.get("learning_rate")
    return Pictures(np.stack(images), hard, classes, soft, {}, floats, rate, whitening)


def _check_classes(folder: Path, files: dict[str, list[Path]], classes: tuple[str, ...]) -> None:
    missing, extra = sorted(set(classes) - set(files)), sorted(set(files) - set(classes))
    empty = sorted(name for name, paths in files.items() if not paths and name in classes)
    wrong = {"missing": missing, "not a class of the dataset": extra, "without an image": empty}
    if problems := "; ".join(f"{problem}: {', '.join(names)}" for problem, names in wrong.items() if names):
        expected = ", ".join(classes)
        raise UserError(f"the folders in {folder} are not the dataset's classes ({problems}); expected: {expected}")
    counts = {len(paths) for paths in files.values()}
    if len(counts) > 1:
        log.warning("%s has %d to %d images per class: its IPC is the larger number", folder, min(counts), max(counts))


def _read(path: Path, size: int) -> np.ndarray:
    """Return an image as uint8 (size, size, 3)."""
    try:
        with open_image(path) as image:
            image.load()
    except UnreadableImageError as error:
        raise UserError(str(error)) from None
    if image.mode != "RGB":
        raise UserError(f"{path} has mode {image.mode}, not RGB: convert the images to RGB")
    if image.size != (size, size):
        wide, high = image.size
        way_out = f"--size {wide} evaluates them as they are" if wide == high else "images are square"
        raise UserError(f"{path} is {wide}x{high} px, not {size}x{size}: {way_out}, or resize them yourself")
    return np.asarray(image)
