"""A distilled set as an image folder: `<class>/000.png`, manifest.json, soft labels where there are any. No torch.

Students are trained on what is on disk: the runner writes a set with `write` and evaluates what `read` returns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ddbench.utils.files import has_image_suffix, read_json, write_json
from ddbench.utils.images import open_image, to_array, to_tensor

if TYPE_CHECKING:
    from torch import Tensor

    from ddbench.types import DistilledSet

SOFT_LABELS = "soft_labels"


@dataclass(frozen=True)
class Pictures:
    """A distilled set as arrays.

    images: uint8 (n, h, w, 3), class by class
    labels: int64 (n,), ascending
    classes: names of the c classes
    soft: soft labels, float32 (n, c); None for hard labels
    extras: what the method recorded
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    soft: np.ndarray | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_distilled(cls, distilled: DistilledSet) -> Pictures:
        """Convert the tensors of a method's result to arrays, sorted by class."""
        soft = None if distilled.soft_labels is None else distilled.soft_labels.detach().cpu().numpy()
        images, labels = to_array(distilled.images), distilled.labels.cpu().numpy()
        return sorted_by_class(cls(images, labels, tuple(distilled.classes), soft, dict(distilled.extras)))

    def to_tensor(self) -> Tensor:
        """Return the images, uint8 (n, 3, h, w)."""
        return to_tensor(self.images)

    @property
    def counts(self) -> tuple[int, ...]:
        """Images per class."""
        return tuple(np.bincount(self.labels, minlength=len(self.classes)).tolist())

    @property
    def nbytes(self) -> int:
        """Storage budget: bytes of pixels and soft labels; hard labels are free, as the folder's name holds them."""
        return self.images.nbytes + (0 if self.soft is None else self.soft.nbytes)

    def content(self) -> str:
        """Return the SHA-256 (hex) of shape, class names, decoded pixels, labels and soft labels."""
        sha = hashlib.sha256(repr((self.images.shape, self.classes, self.soft is not None)).encode())
        sha.update(np.ascontiguousarray(self.images).data)
        sha.update(self.labels.astype("<i8").tobytes())
        if self.soft is not None:
            sha.update(np.ascontiguousarray(self.soft.astype("<f4")).data)
        return sha.hexdigest()


def sorted_by_class(pictures: Pictures) -> Pictures:
    """Sort by class; the order within a class stays."""
    order = np.argsort(pictures.labels, kind="stable")
    soft = None if pictures.soft is None else pictures.soft[order]
    return Pictures(pictures.images[order], pictures.labels[order], pictures.classes, soft, pictures.extras)


def write(folder: Path, pictures: Pictures) -> None:
    """Fill an existing empty folder. Not atomic: call it from ddbench.utils.files.make_once."""
    pictures = sorted_by_class(pictures)
    width = max(3, len(str(max(pictures.counts))))  # file names must sort as they were numbered
    for label, name in enumerate(pictures.classes):
        for index, image in enumerate(pictures.images[pictures.labels == label]):
            (folder / name).mkdir(exist_ok=True)
            Image.fromarray(image).save(folder / name / f"{index:0{width}d}.png")
    if pictures.soft is not None:
        from safetensors.numpy import save_file

        soft = np.ascontiguousarray(pictures.soft, dtype=np.float32)
        save_file({SOFT_LABELS: soft}, folder / f"{SOFT_LABELS}.safetensors")
    manifest = {
        "schema": 1,
        "range": [0, 255],
        "classes": list(pictures.classes),
        "images": len(pictures.images),
        "size": list(pictures.images.shape[1:3]),
        "labels": "hard" if pictures.soft is None else "soft",
        "content": pictures.content(),
        "bytes": pictures.nbytes,
        "png_bytes": sum(path.stat().st_size for path in folder.rglob("*.png")),
        "extras": dict(pictures.extras),
    }
    write_json(folder / "manifest.json", manifest)


def read(folder: Path) -> Pictures:
    """Read a set that `write` wrote. Raises ValueError when files are missing or differ from the manifest."""
    try:
        manifest = read_json(folder / "manifest.json")
        classes, kind, extras = tuple(manifest["classes"]), manifest["labels"], manifest["extras"]
    except (OSError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} is not a distilled set: its manifest.json is incomplete ({error})") from None
    images, labels = read_images(folder, classes)
    pictures = Pictures(images, labels, classes, read_soft(folder) if kind == "soft" else None, extras)
    if pictures.content() != manifest.get("content"):
        raise ValueError(f"{folder} was changed: its images differ from its manifest.json")
    return pictures


def read_soft(folder: Path) -> np.ndarray | None:
    """Return the soft labels of a folder of images, float32 (n, c) in the order of its files; None without any.

    Raises ValueError for a file that holds no soft labels.
    """
    path = folder / f"{SOFT_LABELS}.safetensors"
    if not path.exists():
        return None
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)[SOFT_LABELS]
    except (SafetensorError, KeyError, OSError) as error:
        raise ValueError(f"{path} has no soft labels ({error})") from None


def class_files(folder: Path) -> dict[str, list[Path]]:
    """Return the image files of each class folder, both sorted; hidden files and folders are left out."""
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return {path.name: [file for file in sorted(path.iterdir()) if has_image_suffix(file.name)] for path in folders}


def read_image(path: Path) -> np.ndarray:
    """Return an image, uint8 (h, w, 3). Raises UnreadableImageError, a ValueError."""
    with open_image(path) as image:
        return np.asarray(image.convert("RGB"))


def read_images(folder: Path, classes: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the images of `<class>/*`, uint8 (n, h, w, 3), class by class, and their labels, int64 (n,).

    Raises ValueError without images, for an unreadable one, and for images of several sizes.
    """
    files = class_files(folder)
    labelled = [(path, label) for label, name in enumerate(classes) for path in files.get(name, [])]
    if not labelled:
        raise ValueError(f"{folder} has no image")
    images = [read_image(path) for path, _ in labelled]
    for (path, _), image in zip(labelled, images, strict=True):
        if image.shape != images[0].shape:
            raise ValueError(f"{path} has {image.shape[1]}x{image.shape[0]} pixels, the first image another size")
    return np.stack(images), np.array([label for _, label in labelled], dtype=np.int64)
