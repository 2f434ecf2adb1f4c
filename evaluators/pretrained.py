"""torchvision's ImageNet weights of the students: found or downloaded, checked, never unpickled into code.

Everything here is IMAGENET1K_V1; torchvision has none for the ConvNet and the two smaller ViTs. A file lies where torch
keeps its downloads, `$TORCH_HOME/hub/checkpoints` (TORCH_HOME is ~/.cache/torch unless set).
"""

from __future__ import annotations

import hashlib
import pickle
from functools import cache
from pathlib import Path

import torch
from torchvision import models

from evaluators.catalog import CATALOG

WEIGHTS = {name: getattr(models, row.weights).IMAGENET1K_V1 for name, row in CATALOG.items() if row.weights}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what all but Inception were trained with
DIGITS = 8  # of the SHA-256, at the end of a file's name


class WeightsError(OSError):
    """Weights that are not there and cannot be fetched, or are not what their name says."""


def file(student: str) -> Path:
    """The file of a student's weights, downloaded if need be and whole.

    ValueError when torchvision has none for it; WeightsError when it cannot be had, saying where to put it.
    """
    if student not in WEIGHTS:
        raise ValueError(f"torchvision has no ImageNet weights for {student}; it has them for {', '.join(WEIGHTS)}")
    url: str = WEIGHTS[student].url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.exists():
        _download(url, path)
    wanted = path.stem[-DIGITS:]
    if not sha256(path).startswith(wanted):
        raise WeightsError(f"{path} is not the file it should be: its SHA-256 does not begin with {wanted}; remove it")
    return path


def look(student: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and deviation, by channel, of the images that a student's weights were trained on, in 0..1.

    Inception's are 0.5: torchvision's own network turns ImageNet's into them inside (`transform_input`).
    """
    return ((0.5,) * 3, (0.5,) * 3) if student == "inception_v3" else (MEAN, STD)


def state(student: str) -> dict[str, torch.Tensor]:
    """The weights of a student, by torchvision's names (which once were others in DenseNet's file)."""
    path = file(student)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(f"{path} holds more than tensors: {str(error).splitlines()[0]}") from None
    return {_renamed(name): value for name, value in found.items()}


def sha256(path: Path) -> str:
    """SHA-256 (hex) of a file; read once while it stays as it is."""
    there = path.stat()
    return _sha256(path, there.st_size, there.st_mtime_ns)


@cache
def _sha256(path: Path, size: int, changed: int) -> str:
    with open(path, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _download(url: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(path), hash_prefix=path.stem[-DIGITS:], progress=False)
    except (OSError, RuntimeError) as error:
        raise WeightsError(f"cannot download {url} ({error}); fetch it elsewhere and put it at {path}") from None


def _renamed(name: str) -> str:
    """DenseNet's file says `norm.1`, `conv.2` where the network has `norm1`, `conv2`."""
    head, dot, tail = name.rpartition("denselayer")
    return head + dot + tail.replace(".norm.", ".norm").replace(".conv.", ".conv") if dot else name
