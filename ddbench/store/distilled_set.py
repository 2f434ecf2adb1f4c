"""A distilled set as an image folder: `<class>/000.png`, manifest.json, and what else a set may carry. No torch.

soft_labels.safetensors   float32 (n, c): a row per image, class by class in the order of the files' names; a column per
                          class in the order of the classes. Its metadata may name both, as JSON lists: "classes"
                          ["barn", ...] and "files" ["barn/000.png", ...]; ddbench writes them
float_images.safetensors  float32 (n, 3, h, w), grey values / 255 before they were rounded to the PNGs
weights.safetensors       float32 (n,), of the images in a loss; its metadata may name the files
whitening.safetensors     the mean image and the matrix of ZCA (evaluators.normalisation.Whitening)

Students are trained on what is on disk: the runner writes a set with `write` and evaluates what `read` returns.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ddbench.store.class_folders import read_images
from ddbench.utils.files import read_json, write_json
from ddbench.utils.images import to_array, to_tensor
from evaluators.model_checks import is_pointer

if TYPE_CHECKING:
    from torch import Tensor

    from ddbench.types import DistilledSet
    from evaluators.normalisation import Whitening

SOFT_LABELS, FLOAT_IMAGES, WEIGHTS, WHITENING = "soft_labels", "float_images", "weights", "whitening"


@dataclass(frozen=True)
class Pictures:
    """A distilled set as arrays.

    images: uint8 (n, h, w, 3), class by class
    labels: int64 (n,), ascending
    classes: names of the c classes
    soft: soft labels, float32 (n, c); None for hard labels
    extras: what the method recorded
    floats: the images before rounding, float32 (n, 3, h, w), grey values / 255; None for none
    learning_rate: of the student, as the method learned it; None for none
    whitening: "mean", float32 (3, h, w), and "matrix", float32 (d, d), of ZCA; empty for none
    weights: of the images in a loss, float32 (n,); None for none
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    soft: np.ndarray | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)
    floats: np.ndarray | None = None
    learning_rate: float | None = None
    whitening: Mapping[str, np.ndarray] = field(default_factory=dict)
    weights: np.ndarray | None = None

    @classmethod
    def from_distilled(cls, distilled: DistilledSet) -> Pictures:
        """Convert the tensors of a method's result to arrays, sorted by class."""
        soft, floats, weights = (
            None if part is None else part.detach().cpu().numpy()
            for part in (distilled.soft_labels, distilled.float_images, distilled.weights)
        )
        zca = distilled.whitening
        whitening = {"mean": zca.mean.cpu().numpy(), "matrix": zca.matrix.cpu().numpy()} if zca else {}
        images, labels = to_array(distilled.images), distilled.labels.cpu().numpy()
        classes, rate = tuple(distilled.classes), distilled.learning_rate
        extras = dict(distilled.extras)
        return sorted_by_class(cls(images, labels, classes, soft, extras, floats, rate, whitening, weights))

    def to_tensor(self) -> Tensor:
        """Return the images, uint8 (n, 3, h, w)."""
        return to_tensor(self.images)

    def to_whitening(self) -> Whitening | None:
        """Return the ZCA that the images were optimised in; None for none."""
        from torch import from_numpy

        from evaluators.normalisation import Whitening

        if not self.whitening:
            return None
        return Whitening.of(from_numpy(self.whitening["mean"]), from_numpy(self.whitening["matrix"]))

    @property
    def counts(self) -> tuple[int, ...]:
        """Images per class."""
        return tuple(np.bincount(self.labels, minlength=len(self.classes)).tolist())

    @property
    def whitening_bytes(self) -> int:
        """Bytes of the whitening: at 32 px as many as of 12 000 images."""
        return sum(part.nbytes for part in self.whitening.values())

    @property
    def nbytes(self) -> int:
        """Storage budget: bytes of all that is stored; hard labels are free, as the folder's name holds them."""
        parts = (part.nbytes for part in (self.images, self.soft, self.floats, self.weights) if part is not None)
        return sum(parts) + self.whitening_bytes

    def content(self) -> str:
        """Return the SHA-256 (hex) of shape, class names, decoded pixels, labels, and what else students may use."""
        sha = hashlib.sha256(repr((self.images.shape, self.classes, self.soft is not None)).encode())
        sha.update(np.ascontiguousarray(self.images).data)
        sha.update(self.labels.astype("<i8").tobytes())
        if self.soft is not None:
            sha.update(np.ascontiguousarray(self.soft.astype("<f4")).data)
        parts = {FLOAT_IMAGES: self.floats, WEIGHTS: self.weights, **self.whitening}
        for name, part in sorted(parts.items()):
            if part is not None:
                sha.update(name.encode())
                sha.update(np.ascontiguousarray(part.astype("<f4")).data)
        if self.learning_rate is not None:
            sha.update(f"learning rate {self.learning_rate!r}".encode())
        return sha.hexdigest()


def sorted_by_class(pictures: Pictures) -> Pictures:
    """Sort by class; the order within a class stays."""
    return subset(pictures, np.argsort(pictures.labels, kind="stable"))


def subset(pictures: Pictures, rows: np.ndarray) -> Pictures:
    """Return these rows, int64 (k,), in their order, of all that is stored for each image."""
    all_of_images = (pictures.soft, pictures.floats, pictures.weights)
    soft, floats, weights = (None if part is None else part[rows] for part in all_of_images)
    images, labels = pictures.images[rows], pictures.labels[rows]
    return replace(pictures, images=images, labels=labels, soft=soft, floats=floats, weights=weights)


def order_header(content: bytes) -> bytes:
    """Sort the header's keys of a safetensors file: the library writes metadata in a random order."""
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def write(folder: Path, pictures: Pictures) -> None:
    """Fill an existing empty folder. Not atomic: call it from ddbench.utils.files.make_once."""
    pictures = sorted_by_class(pictures)
    width = max(3, len(str(max(pictures.counts))))  # file names must sort as they were numbered
    files = []
    for label, name in enumerate(pictures.classes):
        for index, image in enumerate(pictures.images[pictures.labels == label]):
            (folder / name).mkdir(exist_ok=True)
            files.append(f"{name}/{index:0{width}d}.png")
            Image.fromarray(image).save(folder / files[-1])
    of_images = {SOFT_LABELS: pictures.soft, FLOAT_IMAGES: pictures.floats, WEIGHTS: pictures.weights}
    tensors = {name: {name: part} for name, part in of_images.items()}
    for name, parts in {**tensors, WHITENING: pictures.whitening}.items():
        arrays = {k: np.ascontiguousarray(v, dtype=np.float32) for k, v in parts.items() if v is not None}
        if arrays:
            from safetensors.numpy import save

            names = {"classes": json.dumps(pictures.classes), "files": json.dumps(files)} if name != WHITENING else None
            (folder / f"{name}.safetensors").write_bytes(order_header(save(arrays, names)))
    manifest = {
        "schema": 1,
        "range": [0, 255],
        "classes": list(pictures.classes),
        "images": len(pictures.images),
        "size": list(pictures.images.shape[1:3]),
        "labels": "hard" if pictures.soft is None else "soft",
        "float_images": pictures.floats is not None,
        "weights": pictures.weights is not None,
        "whitening": bool(pictures.whitening),
        "learning_rate": pictures.learning_rate,
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
        if not all(isinstance(name, str) for name in classes):
            raise TypeError("a class is no text")
    except (OSError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} is not a distilled set: its manifest.json is incomplete ({error})") from None
    images, labels = read_images(folder, classes)
    pictures = Pictures(
        images,
        labels,
        classes,
        read_tensor(folder, SOFT_LABELS) if kind == "soft" else None,
        extras,
        read_tensor(folder, FLOAT_IMAGES) if manifest.get("float_images") else None,
        manifest.get("learning_rate"),
        read_tensors(folder, WHITENING) if manifest.get("whitening") else {},
        read_tensor(folder, WEIGHTS) if manifest.get("weights") else None,
    )
    if pictures.content() != manifest.get("content"):
        raise ValueError(f"{folder} was changed: its images differ from its manifest.json")
    return pictures


def read_tensor(folder: Path, name: str) -> np.ndarray | None:
    """Return the soft labels, float images or weights of a folder, in the order of its files; None without any.

    Raises ValueError for a file that does not hold them.
    """
    tensors = read_tensors(folder, name)
    if tensors and name not in tensors:
        raise ValueError(f"{folder / name}.safetensors has no {name.replace('_', ' ')}, but {', '.join(tensors)}")
    return tensors.get(name)


def read_tensors(folder: Path, name: str) -> dict[str, np.ndarray]:
    """Return the arrays of `<name>.safetensors`; none without the file. Raises ValueError for another file."""
    path = folder / f"{name}.safetensors"
    if not path.exists():
        return {}
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        reason = "it is a pointer of git-lfs: `git lfs pull` fetches the file" if is_pointer(path) else error
        raise ValueError(f"{path} has no {name.replace('_', ' ')} ({reason})") from None


def read_names(folder: Path, name: str, kind: str) -> list[str] | None:
    """Return the "files" or "classes" (kind) that `<name>.safetensors` names; None if it names none.

    Raises ValueError for metadata that is no list of names.
    """
    from safetensors import safe_open

    path = folder / f"{name}.safetensors"
    with safe_open(path, "np") as file:
        text = (file.metadata() or {}).get(kind)
    if text is None:
        return None
    try:
        names = json.loads(text)
        if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
            raise ValueError("not a list of names")
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path}: its metadata "{kind}" is no JSON list of names ({error})') from None
    return names
