"""A folder of images in place of a method's distilled set; the same code evaluates both. No torch at import."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ddbench.datasets.info import DataPaths
from ddbench.datasets.lookup import ImageSource
from ddbench.datasets.name import FOLDER, display_name
from ddbench.errors import UserError
from ddbench.runner.external_folder import check_soft, read_folder
from ddbench.runner.plan import EvaluationSetup, ListedDataset, Plan, list_dataset
from ddbench.store.distilled_set import Pictures
from ddbench.store.records import RunSpec
from ddbench.store.schema import decode
from ddbench.utils.files import read_json

if TYPE_CHECKING:
    from torch import Tensor

    from ddbench.context import Context
    from ddbench.types import DistilledSet, ImageSet

log = logging.getLogger("ddbench")


@dataclass(frozen=True)
class ExternalImages:
    """A method that returns existing images."""

    name: ClassVar[str] = "folder"
    version: ClassVar[int] = 1
    whole: ClassVar[bool] = False
    needs_ipc_images: ClassVar[bool] = False
    parallel: ClassVar[bool] = False
    citation: ClassVar[str] = ""
    pictures: Pictures

    def distill(self, train: ImageSet, ipc: int, ctx: Context) -> DistilledSet:
        """Return the images of the folder with the classes of `train`."""
        import torch

        pictures = self.pictures
        soft, floats, weights = (
            None if part is None else torch.from_numpy(part)
            for part in (pictures.soft, pictures.floats, pictures.weights)
        )
        return train.distilled(
            pictures.to_tensor(),
            torch.from_numpy(pictures.labels),
            soft_labels=soft,
            float_images=floats,
            learning_rate=pictures.learning_rate,
            whitening=pictures.to_whitening(),
            weights=weights,
        )

    def identity(self) -> str:
        """Return nothing: the digest of the images is among the parameters."""
        return ""

    def check_models(self, readable: Sequence[str]) -> None:
        """Do nothing: there is no model."""


def plan_external(
    folder: Path, dataset: ImageSource, size: int | None, evaluation: EvaluationSetup, data_paths: DataPaths
) -> Plan:
    """Plan the evaluation of the class folders below `folder` on the source `dataset`.

    size: None for that of an exported set, else the dataset's own.

    Raises UserError when the classes differ.
    """
    exported = exported_spec(folder)
    size = size or (exported.size if exported else dataset.pixels)
    evaluation.check_size(size)
    pictures = read_folder(folder, tuple(dataset.classes), size)
    label = folder.resolve().parent.name or None  # in tables: two folders may both be called "images"
    listed = list_dataset(dataset, data_paths)
    if exported and exported.fingerprint != listed.split.fingerprint:
        log.warning(
            "%s was distilled from the split %s of %s, and is tested on the split %s of %s: test images may be in it",
            folder, exported.fingerprint[:8], exported.dataset, listed.split.fingerprint[:8], dataset.name,
        )  # fmt: skip
    return plan_pictures(pictures, FOLDER + folder.resolve().name, label, listed, evaluation)


def exported_spec(folder: Path) -> RunSpec | None:
    """Return the spec of the run that `ddbench export images` wrote to a folder; None for any other folder.

    Raises UserError for a damaged one.
    """
    path = folder / "manifest.json"
    try:
        manifest = read_json(path) if path.is_file() else None
        return decode(manifest["run"], RunSpec) if isinstance(manifest, dict) and "run" in manifest else None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def plan_pictures(
    pictures: Pictures, name: str, label: str | None, dataset: ListedDataset, evaluation: EvaluationSetup
) -> Plan:
    """Plan the evaluation of images of the dataset's classes, stored as a run of the method `name`.

    label: preset in tables. The IPC is the largest number of images in a class. Raises UserError for a student that
    cannot take images of this size, and for a protocol that needs a learning rate which the images do not carry.
    """
    size, split = pictures.images.shape[1], dataset.split
    evaluation.check_size(size)
    try:
        for student in evaluation.students:
            evaluation.protocol.at_rate(student, pictures.learning_rate)
    except ValueError as error:
        raise UserError(str(error)) from None
    spec = RunSpec(
        method=name,
        method_version=ExternalImages.version,
        preset=label,
        params={"content": pictures.content()},
        dataset=display_name(dataset.source.name),
        split=split.rule,
        fingerprint=split.fingerprint,
        size=size,
        ipc=max(pictures.counts),
        seed=0,
    )
    return Plan(ExternalImages(pictures), dataset.source, split, (spec,), evaluation, exact=False)


def pictures_of(images: ImageSet | tuple[Tensor, Tensor], dataset: ImageSource, size: int | None) -> Pictures:
    """Return images in memory, a set or (images, labels), as the set that a folder would hold.

    Raises UserError unless their classes are those of the dataset, in its order, each with an image, and the images
    are uint8 (n, 3, size, size); size: None for theirs.
    """
    import torch

    from ddbench.types import DistilledSet, ImageSet

    classes = tuple(dataset.classes)
    if isinstance(images, tuple | list) and len(images) == 2:
        pixels, labels = map(torch.as_tensor, images)
        images = DistilledSet(pixels, labels.long(), classes, dataset.readable)
    if not isinstance(images, ImageSet):
        raise UserError(
            f"images are a folder, a run, a DistilledSet or (images, labels), not a {type(images).__name__}"
        )
    if not isinstance(images, DistilledSet):
        images = DistilledSet(images.images, images.labels, images.classes, images.readable)
    if tuple(images.classes) != classes:
        raise UserError(f"the classes are {', '.join(images.classes)}; those of {dataset.name}: {', '.join(classes)}")
    try:
        images.check(0)
    except ValueError as error:
        raise UserError(str(error)) from None
    if empty := images.fewer_than(1):
        raise UserError(f"every class needs an image, but: {', '.join(empty)}")
    high, wide = images.images.shape[2:]
    if high != wide or size not in (None, wide):
        raise UserError(f"images are {wide}x{high} px, not {size or wide}x{size or wide}: resize them yourself")
    pictures = Pictures.from_distilled(images)
    if pictures.soft is not None:
        check_soft("these images", pictures.soft, pictures.labels, classes)
    return pictures
