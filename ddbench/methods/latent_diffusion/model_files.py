"""The files of models: find them, identify their content. No torch.

A name is a folder on this disk, a hub id, or `tiny`, the embedded base model.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from ddbench.errors import UserError
from ddbench.utils.bases import is_local, size_of
from ddbench.utils.files import digest, read_json
from ddbench.utils.units import format_bytes
from evaluators.model_checks import TORCH_STEMS, ModelError, check_file, check_files, find_torch_files, has_safetensors

log = logging.getLogger("ddbench")

EMBEDDED = {"tiny": Path(str(files("ddbench") / "base_model" / "tiny"))}
CONFIGS = ("*.json", "*.txt", "*.model", "*.jinja")  # part of a model's identity, beside its weights
PIPELINE_FILES = ["*/*.json", "*/*.txt", "*/*.safetensors", "model_index.json"]
WEIGHTS = dict.fromkeys(("vae", "unet", "transformer"), "diffusion_pytorch_model") | {"text_encoder": "model"}
TEXT_ENCODERS = ("CLIPTextModel", "CLIPModel", "clip_text_model")  # by architecture or model type
VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"))
TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")
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
    """Return the folder of a base model: embedded, on this disk, or downloaded from the hub.

    Weights are in safetensors; parts that have none have torch's files, which are downloaded only then. Raises
    UserError for a folder that lacks a part, has a damaged file, or another kind of text encoder.
    """
    folder = EMBEDDED.get(name, Path(name))
    if not folder.is_dir():
        folder = download(name, PIPELINE_FILES, BASE)
        if torch_weights := [
            f"{part}/{TORCH_STEMS.get(stem, stem)}*.bin"
            for part, stem in WEIGHTS.items()
            if (folder / part).is_dir() and not has_safetensors(folder / part, stem)
        ]:
            folder = download(name, [*PIPELINE_FILES, *torch_weights], BASE)
    parts = parts_of(folder)
    if missing := [part for part in parts if not (folder / part).is_dir() or not any((folder / part).iterdir())]:
        raise UserError(
            f"{folder} is not a complete pipeline folder: it lacks {', '.join(missing)}.\n"
            "`save_pretrained` of a pipeline of diffusers writes all parts; `from_single_file` of diffusers reads a "
            "checkpoint of one file (.ckpt, .safetensors)."
        )
    try:
        for part in parts:
            check_files(folder / part, WEIGHTS.get(part, ""), torch_files=True)
    except ModelError as error:
        raise UserError(f"{BASE.title} {name}: {error}\nOtherwise {BASE.alternative}.") from None
    if "text_encoder" in parts:
        _check_text_parts(folder)
    return folder


def _check_text_parts(folder: Path) -> None:
    """Raise UserError unless text encoder and tokenizer are of CLIP's kind, the only one that is read."""
    config = read_config(folder / "text_encoder" / "config.json")
    kinds = [str(kind) for kind in (*(config.get("architectures") or ()), config.get("model_type"))]
    if not set(kinds) & set(TEXT_ENCODERS):
        kind = kinds[0]
        raise UserError(f"{folder}: its text_encoder is of the kind {kind}; known is CLIPTextModel. Try another base.")
    kind = str(read_config(folder / "tokenizer" / "tokenizer_config.json").get("tokenizer_class", TOKENIZERS[0]))
    if kind not in TOKENIZERS:
        raise UserError(f"{folder}: its tokenizer is a {kind}; known are {', '.join(TOKENIZERS)}")
    if not any(all((folder / "tokenizer" / name).is_file() for name in names) for names in VOCABULARIES):
        known = " or ".join(" with ".join(names) for names in VOCABULARIES)
        raise UserError(f"{folder / 'tokenizer'} has no vocabulary: copy {known} of the model to it")


def read_config(path: Path) -> dict[str, Any]:
    """Return the JSON object in a configuration file; raises UserError, naming the file, if there is none."""
    try:
        check_file(path)
        config = read_json(path)
    except ModelError as error:
        raise UserError(str(error)) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): copy or download it again") from None
    except ValueError as error:
        raise UserError(f"{error}: copy or download it again") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} holds no settings: copy or download it again")
    return config


def parts_of(folder: Path) -> tuple[str, ...]:
    """Return the sub-folders that such a pipeline has: a DiT is conditioned by class, a U-Net by text."""
    return BY_CLASS if (folder / "transformer").is_dir() else BY_TEXT


def download(name: str, patterns: Iterable[str], role: Role) -> Path:
    """Return a snapshot of a hub model, from the cache if it is there. Raises UserError with the ways out."""
    from huggingface_hub import snapshot_download

    weight = f" ({format_bytes(size)})" if (size := size_of(name)) else ""
    if not is_local(name):
        log.info("%s%s is downloaded from the Hugging Face hub", name, weight)
    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns), etag_timeout=5))
    except Exception as error:
        raise UserError(
            f"{role.title} {name!r}{weight} is neither a folder nor in the local hub cache, and could not be "
            f"downloaded ({type(error).__name__}).\n"
            f"  - with a network: hf download {name}\n"
            f"  - from another machine: copy its folder and pass --set {role.setting}=PATH\n"
            f"  - without it: {role.alternative}"
        ) from None


def class_name(folder: Path) -> str:
    """Return the diffusers class that the configuration in a part's folder names. Raises UserError if it names none."""
    path = folder / ("scheduler_config.json" if folder.name == "scheduler" else "config.json")
    name = read_config(path).get("_class_name")
    if not isinstance(name, str):
        raise UserError(f"{path} names no class (_class_name): copy or download it again")
    return name


def scheduler_name(folder: Path) -> str:
    """Return the diffusers class of a pipeline's scheduler: that of its index, or else of the scheduler's own file."""
    index = folder / "model_index.json"
    entry = read_config(index).get("scheduler") if index.is_file() else None
    if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str):
        return str(entry[1])
    return class_name(folder / "scheduler")


def model_identity(name: str, folder: Path, below: str = "*/") -> str:
    """Return a digest of a model's configurations, tokenizer and weights.

    name: as the user named it: an embedded model, a folder, or a hub id. Of a user's folder every byte counts; a
    release (embedded or of the hub) changes as a whole, so pieces of its weights tell it from another.
    below: the glob in front of the files' names; a pipeline has a folder per part, other models have theirs on top.
    """
    own = name not in EMBEDDED and Path(name).is_dir()
    files = sorted(path for kind in CONFIGS for path in folder.glob(f"{below}{kind}"))
    configs = {str(p.relative_to(folder)): _text(p) for p in files}
    if (folder / "scheduler").is_dir() and (scheduler := scheduler_name(folder)) != class_name(folder / "scheduler"):
        configs["scheduler"] = scheduler
    paths = sorted(folder.glob(f"{below}*.safetensors"))
    for part in (folder / name for name in WEIGHTS) if below else (folder,):
        paths += find_torch_files(part, WEIGHTS.get(part.name, ""))
    with ThreadPoolExecutor() as pool:
        digests = pool.map(_complete_sha256 if own else _sampled_sha256, paths)
        weights = {str(p.relative_to(folder)): value for p, value in zip(paths, digests, strict=True)}
    return digest({"configs": configs, "weights": weights})[:16]


def _text(path: Path) -> str:
    """Return a configuration as text, another one for each content; a tokenizer's `.model` has bytes of any kind."""
    return path.read_bytes().decode(errors="surrogateescape")


def _complete_sha256(path: Path) -> str:
    """Hash a whole file, again only when its size or date changes."""
    state = path.stat()
    return _sha256(str(path.absolute()), state.st_size, state.st_mtime_ns)


@cache
def _sha256(path: str, size: int, changed: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sampled_sha256(path: Path, count: int = 64, length: int = 4096) -> str:
    """Hash a file's size and evenly spaced pieces: training moves every weight, and bases have gigabytes."""
    size = path.stat().st_size
    sha256 = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        for i in range(count):
            file.seek(max(0, size - length) * i // (count - 1))
            sha256.update(file.read(length))
    return sha256.hexdigest()
