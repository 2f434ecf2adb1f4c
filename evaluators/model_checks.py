"""Refuse models that are not whole: cut files, pointers of git-lfs, lacking weights, tokenizers without words.

A folder's weights are in safetensors, or where the caller allows it in torch's files, of which only tensors are read.
No torch. Libraries fill what a model lacks with random weights and go on. These checks raise ModelError instead.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

POINTER = b"version https://git-lfs.github.com/spec/"
TORCH_STEMS = {"model": "pytorch_model"}  # of torch's file, where it is another one than that of safetensors
TEXTS = (".json", ".txt", ".model", ".jinja")
MOST_ZEROS = 0.05  # of all numbers, in weights that are zero throughout
CONSTANTS = ("position_ids", "inv_freq")  # stored by older checkpoints, computed today
SAMPLE = "a forest, a river and an airport"  # every tokenizer for English has words for it


class ModelError(OSError):
    """A model that is not whole. The message names the file and the way out."""


def check_files(folder: Path, weights: str = "", torch_files: bool = False) -> None:
    """Raise ModelError unless every file in `folder` can be what its name says.

    weights: stem of the weights' name, such as "model": they must be there, in one safetensors file or in the parts of
    an index. Empty for a folder that needs none.
    torch_files: torch's files (.bin) may replace them.
    """
    torch_weights = find_torch_files(folder, weights) if torch_files else []
    try:
        for path in sorted(folder.iterdir()):
            if path.suffix in (*TEXTS, ".safetensors"):
                check_file(path)
        for path in torch_weights:
            _check_torch_file(path)
    except OSError as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{error.filename or folder} cannot be read: {error.strerror}") from None
    if weights and not torch_weights:
        _check_weights(folder, weights, torch_files)


def find_torch_files(folder: Path, stem: str) -> list[Path]:
    """Return the files of torch with a model's weights; none if it has safetensors or no weights of that name.

    stem: of the weights' name in safetensors. Raises ModelError if the index of the files cannot be read, or names a
    file that is not there.
    """
    if has_safetensors(folder, stem):
        return []
    whole = folder / f"{TORCH_STEMS.get(stem, stem)}.bin"
    if whole.is_file():
        return [whole]
    index = whole.with_name(f"{whole.name}.index.json")
    return _parts(folder, index) if index.is_file() else []


def has_safetensors(folder: Path, stem: str) -> bool:
    """Return True if a folder has weights of that stem in safetensors, in one file or by an index."""
    return any((folder / f"{stem}.safetensors{more}").is_file() for more in ("", ".index.json"))


def _parts(folder: Path, index: Path) -> list[Path]:
    """Return the files that an index of weights names. Raises ModelError if it cannot be read, or one is not there."""
    check_file(index)
    names = sorted({Path(str(name)).name for name in json.loads(index.read_bytes()).get("weight_map", {}).values()})
    if lacking := [name for name in names if not (folder / name).is_file()]:
        raise ModelError(f"{folder} lacks {len(lacking)} parts of its weights, such as {lacking[0]}: copy them too")
    return [folder / name for name in names]


def _check_torch_file(path: Path) -> None:
    """Raise ModelError for a pointer of git-lfs and for a file that is not one of torch's, or was cut."""
    _check_pointer(path)
    with open(path, "rb") as file:
        beginning = file.read(2)
    # a ZIP has its directory at the end; older files are pickles one after the other, whose end is found when read
    if not (zipfile.is_zipfile(path) if beginning.startswith(b"PK") else beginning.startswith(b"\x80")):
        raise ModelError(f"{path} is damaged (it is no file of torch, or was cut): copy or download it again")


def check_file(path: Path) -> None:
    """Raise ModelError for a pointer of git-lfs, JSON that cannot be read, and a safetensors file that was cut."""
    _check_pointer(path)
    try:
        if path.suffix == ".json" and not isinstance(json.loads(path.read_bytes()), dict | list):
            raise ValueError("it is no JSON object")
        if path.suffix == ".safetensors":
            with safe_open(path, "np"):  # compares the header with the file's size
                pass
    except (ValueError, RecursionError, SafetensorError) as error:
        raise ModelError(f"{path} is damaged ({error}): copy or download it again") from None


def is_pointer(path: str | Path) -> bool:
    """Return True for a pointer of git-lfs: the short text that a clone without git-lfs has for a large file."""
    with open(path, "rb") as file:
        return file.read(len(POINTER)) == POINTER


def _check_pointer(path: Path) -> None:
    if is_pointer(path):
        raise ModelError(f"{path} is a pointer of git-lfs, not the file: `git lfs pull` in its folder fetches it")


def _check_weights(folder: Path, stem: str, torch_files: bool) -> None:
    """Raise ModelError unless the weights are there in safetensors. torch_files: for the message, if these are read."""
    whole, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if whole.is_file():
        return
    if index.is_file():
        _parts(folder, index)
        return
    names = f"{whole.name} or {TORCH_STEMS.get(stem, stem)}.bin" if torch_files else whole.name
    suffixes = ("*.safetensors", *(("*.bin", "*.ckpt", "*.pt", "*.pth") if torch_files else ()))
    if others := sorted(path.name for suffix in suffixes for path in folder.glob(suffix)):
        raise ModelError(
            f"{folder} has weights under another name only ({others[0]}): {names} is read. Save the model without "
            f"a variant, or rename the file"
        )
    only = "" if torch_files else ": weights are read from safetensors only"
    raise ModelError(f"{folder} lacks {names}{only}; `save_pretrained` writes them")


def check_loaded(folder: str | Path, report: Mapping[str, Any]) -> None:
    """Raise ModelError if weights were missing, unknown or of another shape when a model was loaded.

    report: from `from_pretrained(..., output_loading_info=True)` of transformers or diffusers.
    """
    problems = []
    for kind, text in (
        ("missing_keys", "lacks {} weights"),
        ("unexpected_keys", "has {} weights that the model does not know"),
        ("mismatched_keys", "has {} weights of another shape"),
    ):
        names = [key if isinstance(key, str) else str(key[0]) for key in report.get(kind) or ()]
        if names := sorted(name for name in names if not name.endswith(CONSTANTS)):
            problems.append(f"{text.format(len(names))}, such as {names[0]}")
    problems += [str(error).strip().splitlines()[0] for error in report.get("error_msgs") or ()]
    if problems:
        raise ModelError(
            f"{folder} is not the whole model that its config.json describes: it {'; it '.join(problems)}. Copy or "
            "download it again"
        )


def check_values(folder: str | Path, weights: Iterable[tuple[str, Any]]) -> None:
    """Raise ModelError for weights that are not finite, or of which a large share is zero throughout.

    weights: names and tensors of torch. A download that broke off may have its whole length, and zeros at its end.
    """
    total, zeros = 0, []
    for name, tensor in weights:
        if tensor.is_meta or not tensor.is_floating_point():
            continue
        total += tensor.numel()
        size = float(tensor.detach().float().abs().sum())
        if not math.isfinite(size):
            raise ModelError(f"{folder} has weights that are not finite, such as {name}: copy or download it again")
        if size == 0 and tensor.ndim > 1:  # biases and new embeddings may be zero
            zeros.append((name, tensor.numel()))
    if sum(count for _, count in zeros) > MOST_ZEROS * total:
        raise ModelError(
            f"{folder} has {len(zeros)} weights of nothing but zeros, such as {zeros[0][0]}: the file was not "
            "downloaded to its end. Copy or download it again"
        )


def check_tokenizer(folder: str | Path, tokenizer: Any, vocabulary: int = 0) -> None:
    """Raise ModelError for a tokenizer without words, or with tokens that the text encoder lacks.

    vocabulary: tokens that the text encoder knows; 0 if unknown. Without its vocabulary's file transformers makes a
    tokenizer of a few special tokens, which reads every text alike.
    """
    tokens = tokenizer(SAMPLE, add_special_tokens=False).input_ids
    if len(set(tokens) - set(tokenizer.all_special_ids)) < 2:
        raise ModelError(
            f"{folder} has a tokenizer without words ({len(tokenizer)} tokens): copy tokenizer.json, or vocab.json and "
            "merges.txt, of the model to it"
        )
    if vocabulary and len(tokenizer) > vocabulary and max(tokenizer.get_vocab().values()) >= vocabulary:
        raise ModelError(
            f"{folder} has a tokenizer of {len(tokenizer)} tokens, and its text encoder knows {vocabulary}: they "
            "belong to two models"
        )


def long_texts(tokenizer: Any, texts: Sequence[str], length: int) -> dict[str, int]:
    """Return the texts of more than `length` tokens, and the tokens of each, those at the ends included."""
    counts = {text: len(ids) for text, ids in zip(texts, tokenizer(list(texts)).input_ids, strict=True)}
    return {text: count for text, count in counts.items() if count > length}


def equal_texts(tokenizer: Any, texts: Sequence[str], length: int) -> tuple[int, int] | None:
    """Return the first two positions whose texts have the same first `length` tokens; None if all differ."""
    first: dict[tuple[int, ...], int] = {}
    ids = tokenizer(list(texts), truncation=True, max_length=length).input_ids
    for position, tokens in enumerate(map(tuple, ids)):
        if tokens in first:
            return first[tokens], position
        first[tokens] = position
    return None
