"""The files of models: find them, identify their content. No torch.

A name is a folder on this disk, a hub id, or `tiny`, the embedded base model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ddbench.errors import UserError
from ddbench.utils.files import digest, read_json

EMBEDDED = {"tiny": Path(str(files("ddbench") / "base_model" / "tiny"))}
CONFIGS = ("*.json", "*.txt", "*.model", "*.jinja")  # part of a model's identity, beside its weights
PIPELINE_FILES = ["*/*.json", "*/*.txt", "*/*.safetensors", "model_index.json"]
WEIGHTS = {"vae", "unet", "transformer", "text_encoder"}
BY_TEXT = ("vae", "unet", "text_encoder", "tokenizer", "scheduler")
BY_CLASS = ("vae", "transformer", "scheduler")


@dataclass(frozen=True)
class Role:
    """The use of a model, for error messages.

    title: such as "the base model".
    setting: the field that names it.
    alternative: a way to work without it.
    """

    title: str
    setting: str
    alternative: str


BASE = Role("the base model", "base", "--preset tiny runs on the embedded base model")


def find_model(name: str) -> Path:
    """Return the folder of a base model: embedded, on this disk, or downloaded from the hub (safetensors only).

    Raises UserError for a folder that lacks a part.
    """
    folder = EMBEDDED.get(name, Path(name))
    if not folder.is_dir():
        folder = download(name, PIPELINE_FILES, BASE)
    kinds = {part: "*.safetensors" if part in WEIGHTS else "*.*" for part in parts_of(folder)}
    missing = [f"{part}/{kind}" for part, kind in kinds.items() if not any((folder / part).glob(kind))]
    if missing:
        raise UserError(
            f"{folder} is not a complete pipeline folder: it lacks {', '.join(missing)}.\n"
            "Weights are read from safetensors only; `save_pretrained` of diffusers writes them."
        )
    return folder


def parts_of(folder: Path) -> tuple[str, ...]:
    """Return the sub-folders that such a pipeline has: a DiT is conditioned by class, a U-Net by text."""
    return BY_CLASS if (folder / "transformer").is_dir() else BY_TEXT


def download(name: str, patterns: Iterable[str], role: Role) -> Path:
    """Return a snapshot of a hub model, from the cache if it is there. Raises UserError with the ways out."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns), etag_timeout=5))
    except Exception as error:
        raise UserError(
            f"{role.title} {name!r} is neither a folder nor in the local hub cache, and could not be downloaded "
            f"({type(error).__name__}).\n"
            f"  - with a network: hf download {name}\n"
            f"  - from another machine: copy its folder and pass --set {role.setting}=PATH\n"
            f"  - without it: {role.alternative}"
        ) from None


def class_name(folder: Path) -> str:
    """Return the diffusers class that the configuration in a part's folder names."""
    name = "scheduler_config.json" if folder.name == "scheduler" else "config.json"
    return read_json(folder / name)["_class_name"]


def scheduler_name(folder: Path) -> str:
    """Return the diffusers class of a pipeline's scheduler: that of its index, or else of the scheduler's own file."""
    index = folder / "model_index.json"
    entry = read_json(index).get("scheduler") if index.is_file() else None
    return entry[1] if entry and entry[1] else class_name(folder / "scheduler")


def identity_of(folder: Path, below: str = "*/") -> str:
    """Return a digest of a model's configurations and weight files.

    below: the glob in front of their names; a pipeline has a folder per part, other models have theirs on top.
    """
    files = sorted(path for kind in CONFIGS for path in folder.glob(f"{below}{kind}"))
    configs = {str(p.relative_to(folder)): p.read_text(errors="replace") for p in files}
    if (folder / "scheduler").is_dir() and (name := scheduler_name(folder)) != class_name(folder / "scheduler"):
        configs["scheduler"] = name
    weights = {str(p.relative_to(folder)): _sampled_sha256(p) for p in sorted(folder.glob(f"{below}*.safetensors"))}
    return digest({"configs": configs, "weights": weights})[:16]


def _sampled_sha256(path: Path, count: int = 64, length: int = 4096) -> str:
    """Hash a file's size and evenly spaced pieces: training moves every weight, and bases have gigabytes."""
    size = path.stat().st_size
    sha256 = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        for i in range(count):
            file.seek(max(0, size - length) * i // (count - 1))
            sha256.update(file.read(length))
    return sha256.hexdigest()
