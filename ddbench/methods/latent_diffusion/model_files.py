"""Where the files of a model are, and what identifies them. No torch.

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
CONFIGS = ("*.json", "*.txt", "*.model", "*.jinja")  # what decides, beside weights, what a model does
WANTED = ["*/*.json", "*/*.txt", "*/*.safetensors", "model_index.json"]
WEIGHTS = {"vae", "unet", "transformer", "text_encoder"}
BY_TEXT = ("vae", "unet", "text_encoder", "tokenizer", "scheduler")
BY_CLASS = ("vae", "transformer", "scheduler")


@dataclass(frozen=True)
class Role:
    """What a model is for, in the words of an error. what: "the base model". setting: its field. without: a way out."""

    what: str
    setting: str
    without: str


BASE = Role("the base model", "base", "--preset tiny runs on the embedded base model")


def find_model(name: str) -> Path:
    """The folder of a base model: embedded, on this disk, or downloaded from the hub (safetensors only)."""
    folder = EMBEDDED.get(name, Path(name))
    if not folder.is_dir():
        folder = download(name, WANTED, BASE)
    kinds = {part: "*.safetensors" if part in WEIGHTS else "*.*" for part in parts_of(folder)}
    missing = [f"{part}/{kind}" for part, kind in kinds.items() if not any((folder / part).glob(kind))]
    if missing:
        raise UserError(
            f"{folder} is no whole pipeline folder: it lacks {', '.join(missing)}.\n"
            "Weights are read from safetensors only; `save_pretrained` of diffusers writes them."
        )
    return folder


def parts_of(folder: Path) -> tuple[str, ...]:
    """The sub-folders that a pipeline of its kind has: a DiT is conditioned by class, a U-Net by text."""
    return BY_CLASS if (folder / "transformer").is_dir() else BY_TEXT


def download(name: str, patterns: Iterable[str], role: Role) -> Path:
    """A snapshot of a hub model, from the cache when it is there."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns), etag_timeout=5))
    except Exception as error:
        raise UserError(
            f"{role.what} {name!r} is neither a folder nor in the local hub cache, and could not be downloaded "
            f"({type(error).__name__}).\n"
            f"  - with a network: hf download {name}\n"
            f"  - from another machine: copy its folder and pass --set {role.setting}=PATH\n"
            f"  - without it: {role.without}"
        ) from None


def class_name(folder: Path) -> str:
    """What diffusers calls the part of a pipeline in this folder."""
    name = "scheduler_config.json" if folder.name == "scheduler" else "config.json"
    return read_json(folder / name)["_class_name"]


def scheduler_name(folder: Path) -> str:
    """What diffusers calls a pipeline's scheduler: as its index says, where there is one, not the scheduler's file."""
    index = folder / "model_index.json"
    listed = read_json(index).get("scheduler") if index.is_file() else None
    return listed[1] if listed and listed[1] else class_name(folder / "scheduler")


def identity_of(folder: Path, below: str = "*/") -> str:
    """Digest of the configurations and of the weight files, each known by 64 pieces of it.

    below: the glob in front of their names; a pipeline has a folder per part, other models have theirs on top.
    """
    files = sorted(path for kind in CONFIGS for path in folder.glob(f"{below}{kind}"))
    configs = {str(p.relative_to(folder)): p.read_text(errors="replace") for p in files}
    if (folder / "scheduler").is_dir() and (name := scheduler_name(folder)) != class_name(folder / "scheduler"):
        configs["scheduler"] = name
    weights = {str(p.relative_to(folder)): _pieces(p) for p in sorted(folder.glob(f"{below}*.safetensors"))}
    return digest({"configs": configs, "weights": weights})[:16]


def _pieces(path: Path, count: int = 64, length: int = 4096) -> str:
    """SHA-256 of a file's size and of evenly spaced pieces: training moves every weight, and bases have gigabytes."""
    size = path.stat().st_size
    found = hashlib.sha256(str(size).encode())
    with open(path, "rb") as source:
        for i in range(count):
            source.seek(max(0, size - length) * i // (count - 1))
            found.update(source.read(length))
    return found.hexdigest()
