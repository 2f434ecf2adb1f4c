"""Read a folder of images as a distilled set: a sub-folder per class, or an exported set. No torch."""

from __future__ import annotations

import logging
import math
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ImageOps

from ddbench.datasets.info import describe_ignored
from ddbench.errors import UserError
from ddbench.store import distilled_set
from ddbench.store.class_folders import class_files
from ddbench.store.distilled_set import FLOAT_IMAGES, SOFT_LABELS, WEIGHTS, WHITENING, Pictures
from ddbench.utils.files import MACOS_METADATA, has_image_suffix, read_json
from ddbench.utils.images import UnreadableImageError, open_image

log = logging.getLogger("ddbench")


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
    _report_unread(folder, files)
    paths = [path for name in classes for path in files[name]]
    images = [_read(path, size) for path in paths]
    labels = [label for label, name in enumerate(classes) for _ in files[name]]
    try:
        of_images = (SOFT_LABELS, FLOAT_IMAGES, WEIGHTS)
        soft, floats, weights = (distilled_set.read_tensor(folder, name) for name in of_images)
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
        ("weights are", weights, (n,)),
        ("the whitening's mean is", whitening.get("mean"), (3, size, size)),
        ("the whitening's matrix is", whitening.get("matrix"), (pixels, pixels)),
    ):
        if array is not None and array.shape != shape:
            raise UserError(f"{folder}: {name} {array.shape}, not {shape}")
    whitening = {name: part.astype(np.float32) for name, part in whitening.items()}
    for name, arrays in ((FLOAT_IMAGES, [] if floats is None else [floats]), (WHITENING, whitening.values())):
        if not all(np.isfinite(array).all() for array in arrays):
            raise UserError(f"{folder / name}.safetensors has values that are not finite; write the file anew")
    named = [f"{name}/{path.name}" for name in classes for path in files[name]]
    if soft is not None:
        soft = _in_order(folder, SOFT_LABELS, soft.astype(np.float32), named, classes)
        check_soft(folder, soft, np.array(labels), classes)
    if floats is not None:
        floats = _in_order(folder, FLOAT_IMAGES, floats.astype(np.float32), named)
    if weights is not None:
        weights = _in_order(folder, WEIGHTS, weights.astype(np.float32), named)
        if not (np.isfinite(weights) & (weights >= 0)).all() or not weights.any():
            raise UserError(f"{folder / WEIGHTS}.safetensors: weights must be finite, at least 0, and not all 0")
    hard = np.array(labels, dtype=np.int64)
    return Pictures(np.stack(images), hard, classes, soft, {}, floats, rate, whitening, weights)


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


def check_soft(folder: Path | str, soft: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> None:
    """Raise UserError for rows that are no probabilities; warn of classes whose mean label names another class."""
    with np.errstate(invalid="ignore"):
        valid = np.isfinite(soft).all(1) & (soft >= 0).all(1) & (np.abs(soft.sum(1) - 1) < 1e-3)
    if not valid.all():
        row = int(np.flatnonzero(~valid)[0])
        raise UserError(f"{folder}: row {row} of the soft labels is no probabilities: {soft[row][:8].tolist()}")
    means = [soft[labels == label].mean(0) for label in range(len(classes))]
    wrong = [
        f"{classes[label]} as {classes[mean.argmax()]}" for label, mean in enumerate(means) if mean[label] < mean.max()
    ]
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


def _report_unread(folder: Path, files: dict[str, list[Path]]) -> None:
    """Warn of the files that are not read, such as soft labels under another name; of a run's own folder none is.

    Raises UserError for a folder with images inside a class folder, as in datasets.
    """
    read = {path for paths in files.values() for path in paths}
    read |= {folder / f"{name}.safetensors" for name in (SOFT_LABELS, FLOAT_IMAGES, WEIGHTS, WHITENING)}
    read |= {folder / name for name in ("manifest.json", "README.md", "train/metadata.jsonl")}  # of an exported set
    unread = []
    for path in sorted(path for path in folder.rglob("*") if not path.is_dir() and path not in read):
        inside = any(path.is_relative_to(paths[0].parent) for paths in files.values() if paths)
        hidden = any(part[0] == "." or part == MACOS_METADATA for part in path.relative_to(folder).parts)
        if inside and not hidden and has_image_suffix(path.name):
            raise UserError(
                f"{path.parent} is inside a class folder and has images ({path.name}): move them into the class "
                "folder, or away"
            )
        unread.append(path.relative_to(folder).as_posix())
    if unread:
        log.warning("%s: files that are not read: %s", folder, describe_ignored(unread))


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
