"""torchvision's ImageNet weights of the students: downloaded, checked, and never unpickled into code.

All of them are IMAGENET1K_V1; torchvision has none for the ConvNet and the two smaller ViTs. Files are in torch's
folder for downloads, `$TORCH_HOME/hub/checkpoints` (TORCH_HOME is ~/.cache/torch unless set).
"""

from __future__ import annotations

import hashlib
import pickle
from functools import cache
from pathlib import Path

import torch
from torchvision import models

from evaluators.catalog import CATALOG

WEIGHTS = {name: models.get_weight(f"{row.weights}.IMAGENET1K_V1") for name, row in CATALOG.items() if row.weights}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the images that all but Inception were trained on
DIGITS = 8  # hex digits of the SHA-256 at the end of a file's name


class WeightsError(OSError):
    """The weights are missing and cannot be downloaded, or the file is another one."""


def weights_file(student: str) -> Path:
    """Return the checked file of a student's weights, downloaded if it is missing.

    Raises ValueError if torchvision has no weights for the student, and WeightsError, which names the path to put the
    file at, if it cannot be downloaded.
    """
    if student not in WEIGHTS:
        raise ValueError(f"torchvision has no ImageNet weights for {student}; it has them for {', '.join(WEIGHTS)}")
    url: str = WEIGHTS[student].url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=path.stem[-DIGITS:], progress=False)
        except (OSError, RuntimeError) as error:
            raise WeightsError(f"cannot download {url} ({error}); fetch it elsewhere and put it at {path}") from None
    digits = path.stem[-DIGITS:]
    if not sha256(path).startswith(digits):
        raise WeightsError(f"{path} is another file: its SHA-256 does not begin with {digits}; remove it")
    return path


def normalisation(student: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return mean and deviation, per channel in 0..1, of the images that a student's weights were trained on.

    Inception's are 0.5: torchvision's network converts ImageNet's into them (`transform_input`).
    """
    return ((0.5,) * 3, (0.5,) * 3) if student == "inception_v3" else (MEAN, STD)


def load_weights(student: str) -> dict[str, torch.Tensor]:
    """Load the weights of a student by torchvision's names; DenseNet's file has older names."""
    path = weights_file(student)
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(f"{path} holds more than tensors: {str(error).splitlines()[0]}") from None
    by_name = {}
    for name, value in weights.items():
        head, layer, tail = name.rpartition("denselayer")
        if layer:  # DenseNet's file has `norm.1` and `conv.2`, the network `norm1` and `conv2`
            tail = tail.replace(".norm.", ".norm").replace(".conv.", ".conv")
        by_name[head + layer + tail] = value
    return by_name


def sha256(path: Path) -> str:
    """Return the SHA-256 (hex) of a file, read again only when its size or date changes."""
    state = path.stat()
    return _sha256(path, state.st_size, state.st_mtime_ns)


@cache
def _sha256(path: Path, size: int, changed: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
