"""A folder of images in place of a method's distilled set; the same code evaluates both. No torch at import."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL import ImageOps

from ddbench.datasets.info import DataPaths
from ddbench.datasets.lookup import ImageSource
from ddbench.datasets.name import FOLDER, display_name
from ddbench.errors import UserError
from ddbench.runner.plan import EvaluationSetup, ListedDataset, Plan, list_dataset
from ddbench.store import distilled_set
from ddbench.store.distilled_set import FLOAT_IMAGES, SOFT_LABELS, WHITENING, Pictures, class_files
from ddbench.store.records import RunSpec
from ddbench.store.schema import decode
from ddbench.utils.files import read_json
from ddbench.utils.images import UnreadableImageError, open_image

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
    cannot take images of this size.
    """
    size, split = pictures.images.shape[1], dataset.split
    evaluation.check_size(size)
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
        _check_soft("these images", pictures.soft, pictures.labels, classes)
    return pictures


def read_folder(folder: Path, classes: tuple[str, ...], size: int) -> Pictures:
    """Read the images of every class as they are.

    Raises UserError unless the class folders are exactly `classes`, none is empty, and every image is RGB of `size` x
    `size` pixels.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; expected one sub-folder of images per class")
    try:
        files = class_files(folder)
    except ValueError as error:
        raise UserError(str(error)) from None
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
    rate: Any = manifest.get("learning_rate") if isinstance(manifest, dict) else "none"
    if not (rate is None or (type(rate) in (int, float) and 0 < rate < math.inf)):
        raise UserError(f"{folder / 'manifest.json'}: its learning_rate is no number above 0, or it is no JSON object")
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
    named = [f"{name}/{path.name}" for name in classes for path in files[name]]
    if soft is not None:
        soft = _in_order(folder, SOFT_LABELS, soft.astype(np.float32), named, classes)
        _check_soft(folder, soft, np.array(labels), classes)
    if floats is not None:
        floats = _in_order(folder, FLOAT_IMAGES, floats, named)
    hard = np.array(labels, dtype=np.int64)
    return Pictures(np.stack(images), hard, classes, soft, {}, floats, rate, whitening)


def _in_order(
    folder: Path, name: str, rows: np.ndarray, files: list[str], classes: tuple[str, ...] | None = None
) -> np.ndarray:
    """Return the rows of `<name>.safetensors` in the order of `files`, the columns in the order of `classes`.

    Raises UserError if the file's names are others, or if it has none and two orders of the files are usual.
    """
    path = folder / f"{name}.safetensors"
    orders = []
    for kind, expected in (("files", files), ("classes", list(classes or ()))):
        try:
            stored = distilled_set.read_names(folder, name, kind) if expected else None
        except ValueError as error:
            raise UserError(str(error)) from None
        if stored is not None and sorted(stored) != sorted(expected):
            lacking, more = sorted(set(expected) - set(stored)), sorted(set(stored) - set(expected))
            detail = "; ".join(
                f"{word} {', '.join(names[:3])}" for word, names in (("lacks", lacking), ("has", more)) if names
            )
            raise UserError(f"{path} names other {kind} than the folder has: it {detail or 'repeats one'}")
        orders.append(None if stored is None else [stored.index(one) for one in expected])
    if orders[0] is None and files != sorted(
        files, key=partial(_by_number, classes=[file.partition("/")[0] for file in files])
    ):
        raise UserError(
            f"{path} does not say which row belongs to which file, and the files are in another order by name "
            f"({files[1]}, ...) than by number. Write the order into the file's metadata, "
            'save_file(tensors, path, metadata={"files": json.dumps(["CLASS/FILE", ...])}), or number the files with '
            "leading zeros"
        )
    rows = rows if orders[0] is None else rows[orders[0]]
    return rows if orders[1] is None else rows[:, orders[1]]


def _by_number(file: str, classes: list[str]) -> tuple[int, list[tuple[int, str]]]:
    """Return a key that sorts "class/2.png" before "class/10.png", classes in their order."""
    name, _, rest = file.partition("/")
    return classes.index(name), [
        (int(word), "") if word.isdecimal() else (-1, word) for word in re.split(r"(\d+)", rest)
    ]


def _check_soft(folder: Path | str, soft: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> None:
    """Raise UserError for rows that are no probabilities; warn of classes whose mean label names another class."""
    with np.errstate(invalid="ignore"):
        valid = np.isfinite(soft).all(1) & (soft >= 0).all(1) & (np.abs(soft.sum(1) - 1) < 1e-3)
    if not valid.all():
        row = int(np.flatnonzero(~valid)[0])
        raise UserError(f"{folder}: row {row} of the soft labels is no probabilities: {soft[row][:8].tolist()}")
    means = [soft[labels == label].mean(0).argmax() for label in range(len(classes))]
    wrong = [f"{classes[label]} as {classes[top]}" for label, top in enumerate(means) if top != label]
    if wrong:
        log.warning(
            "%s: the soft labels contradict the folders of %d classes (%s): are their columns in the order %s?",
            folder, len(wrong), ", ".join(wrong[:3]), ", ".join(classes[:6]),
        )  # fmt: skip


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
        with open_image(path) as file:
            image = ImageOps.exif_transpose(file)  # upright, as datasets are read
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
