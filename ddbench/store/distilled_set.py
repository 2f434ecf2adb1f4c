"""A distilled set as a plain image folder: `<class>/000.png`, manifest.json, soft labels when there are any. No torch.

What is judged is what is on disk: the runner writes a set with `write` and hands to the judge what `read` gives back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ddbench.utils.files import IMAGES, read_json, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from ddbench.types import DistilledSet


@dataclass(frozen=True)
class Pictures:
    """images: uint8 (n, h, w, 3), class by class. labels: int64 (n,), ascending. soft: float32 (n, c) or None.

    counts: images per class. extras: what the method recorded.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    soft: np.ndarray | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(np.bincount(self.labels, minlength=len(self.classes)).tolist())

    @property
    def nbytes(self) -> int:
        """The storage budget used: pixels and soft labels; hard labels are free (the folder's name)."""
        return self.images.nbytes + (0 if self.soft is None else self.soft.nbytes)

    def content(self) -> str:
        """SHA-256 (hex) over the shape, the class names, the decoded pixels, the labels and the soft labels."""
        sha = hashlib.sha256(repr((self.images.shape, self.classes, self.soft is not None)).encode())
        sha.update(np.ascontiguousarray(self.images).data)
        sha.update(self.labels.astype("<i8").tobytes())
        if self.soft is not None:
            sha.update(np.ascontiguousarray(self.soft.astype("<f4")).data)
        return sha.hexdigest()


def sorted_by_class(pictures: Pictures) -> Pictures:
    """The same pictures class by class, in the order they had within a class."""
    order = np.argsort(pictures.labels, kind="stable")
    soft = None if pictures.soft is None else pictures.soft[order]
    return Pictures(pictures.images[order], pictures.labels[order], pictures.classes, soft, pictures.extras)


def write(folder: Path, pictures: Pictures) -> None:
    """Fill an existing empty folder. Not atomic: have ddbench.utils.files.make_once call it."""
    pictures = sorted_by_class(pictures)
    seen: dict[int, int] = {}
    width = max(3, len(str(max(pictures.counts))))  # file names must sort as they were numbered
    for image, label in zip(pictures.images, pictures.labels.tolist(), strict=True):
        place = folder / pictures.classes[label]
        place.mkdir(exist_ok=True)
        Image.fromarray(image).save(place / f"{seen.setdefault(label, 0):0{width}d}.png")
        seen[label] += 1
    if pictures.soft is not None:
        _write_soft(folder, pictures.soft)
    write_json(folder / "manifest.json", _manifest(folder, pictures))


def read(folder: Path) -> Pictures:
    """Read back what `write` wrote; ValueError when files are missing or differ from the manifest."""
    try:
        manifest = read_json(folder / "manifest.json")
        classes, labels, extras = tuple(manifest["classes"]), manifest["labels"], manifest["extras"]
    except (OSError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} is not a distilled set: its manifest.json lacks something ({error})") from None
    images, of = read_images(folder, classes)
    pictures = Pictures(images, of, classes, read_soft(folder) if labels == "soft" else None, extras)
    if pictures.content() != manifest.get("content"):
        raise ValueError(f"{folder} was changed after it was made: its content is not that of its manifest.json")
    return pictures


def read_soft(folder: Path) -> np.ndarray | None:
    """The soft labels beside a folder's images, float32 (n, c) in the order of its files; None when it has none.

    ValueError for a file that is not one of soft labels.
    """
    path = folder / "soft_labels.safetensors"
    if not path.exists():
        return None
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)["soft_labels"]
    except (SafetensorError, KeyError, OSError) as error:
        raise ValueError(f"{path} holds no soft labels ({error})") from None


def class_files(folder: Path) -> dict[str, list[Path]]:
    """Class folder -> its image files, both sorted; hidden files and folders are left out."""
    places = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return {place.name: [path for path in sorted(place.iterdir()) if _is_image(path)] for place in places}


def read_image(path: Path) -> np.ndarray:
    """uint8 (h, w, 3); ValueError naming a file that is not a readable image."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:  # Pillow reports broken PNG chunks as SyntaxError
        raise ValueError(f"{path} is not a readable image ({error})") from None


def read_images(folder: Path, classes: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (n, h, w, 3) of `<class>/*`, class by class, and labels int64 (n,); ValueError for what is off."""
    files = class_files(folder)
    labelled = [(path, label) for label, name in enumerate(classes) for path in files.get(name, [])]
    if not labelled:
        raise ValueError(f"{folder} holds no image")
    images = [read_image(path) for path, _ in labelled]
    for (path, _), image in zip(labelled, images, strict=True):
        if image.shape != images[0].shape:
            raise ValueError(f"{path} has {image.shape[1]}x{image.shape[0]} pixels, the first image other ones")
    return np.stack(images), np.array([label for _, label in labelled], dtype=np.int64)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGES and not path.name.startswith(".")


def _write_soft(folder: Path, soft: np.ndarray) -> None:
    from safetensors.numpy import save_file

    save_file({"soft_labels": np.ascontiguousarray(soft, dtype=np.float32)}, folder / "soft_labels.safetensors")


def _manifest(folder: Path, pictures: Pictures) -> dict[str, Any]:
    return {
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


def pictures_of(made: DistilledSet) -> Pictures:
    """A distilled set as it goes to disk."""
    images = made.images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    soft = None if made.soft_labels is None else made.soft_labels.detach().cpu().numpy()
    found = Pictures(images, made.labels.cpu().numpy(), tuple(made.classes), soft, dict(made.extras))
    return sorted_by_class(found)


def images_of(pictures: Pictures) -> Tensor:
    """uint8 (n, 3, h, w)."""
    import torch

    return torch.from_numpy(pictures.images).permute(0, 3, 1, 2).contiguous()
