"""Load the parts of a pipeline of diffusers; whatever is wrong with one becomes a UserError that names it."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from ddbench.errors import UserError, is_out_of_memory
from ddbench.methods.latent_diffusion.model_files import BASE, WEIGHTS, read_config
from evaluators.model_checks import ModelError, check_loaded, check_values, find_torch_files

CLASS_EMBEDDINGS = (None, "timestep")  # kinds that take a number


def check_unet(folder: Path, channels: int) -> None:
    """Raise UserError for a U-Net that needs more than noisy latents of `channels`, a time, a text and a class."""
    unet, text = (read_config(folder / part / "config.json") for part in ("unet", "text_encoder"))
    more = unet.get("addition_embed_type") or unet.get("encoder_hid_dim_type")
    takes, kind, width = unet.get("in_channels"), unet.get("class_embed_type"), unet.get("cross_attention_dim")
    reasons = {
        f"it takes {takes} channels, the autoencoder gives {channels}": takes != channels,
        f"it needs more than a text ({more})": bool(more),
        f"its class embedding is {kind!r}": kind not in CLASS_EMBEDDINGS,
        f"it reads texts of width {width}, the text encoder writes {text.get('hidden_size')}": width
        != text.get("hidden_size"),
    }
    if problems := [reason for reason, holds in reasons.items() if holds]:
        raise UserError(f"{folder}: its U-Net is not a text-to-image model: {'; '.join(problems)}")


def load_frozen(kind: Any, folder: Path, device: torch.device, **dtype: torch.dtype) -> Any:
    """Load one part in evaluation mode, without gradients; no code of the folder runs.

    Reads safetensors, or of torch's files, where a part has only these, tensors and nothing else.
    """
    torch_files = find_torch_files(folder, WEIGHTS[folder.name])
    for path in torch_files:
        as_user_error(folder, _require_tensors, path)
    options = {"use_safetensors": not torch_files, "output_loading_info": True}
    part, report = load_part(kind, folder, **options, **dtype)
    as_user_error(folder, check_loaded, folder, report)
    as_user_error(folder, check_values, folder, part.named_parameters())
    return part.to(device).eval().requires_grad_(False)


def _require_tensors(path: Path) -> None:
    """Raise ModelError for a file of torch that holds anything but tensors: unpickling that may run any code."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except UnpicklingError as error:
        reason = next((line for line in str(error).splitlines() if "Unsupported" in line), str(error).splitlines()[0])
        raise ModelError(
            f"{path} holds more than tensors and is not read, because it could run code: {reason.strip()} Use a copy "
            "of the model in safetensors"
        ) from None
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ModelError(f"{path} holds more than tensors by name: save the model's state_dict alone")


def load_part(kind: Any, folder: Path, **options: Any) -> Any:
    """Load one part of a pipeline; raise UserError, naming its folder, if it cannot be loaded."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):  # their reports of loading become errors here
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    return as_user_error(folder, kind.from_pretrained, folder, **options)


def as_user_error(folder: Path, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Return call(*args, **options); whatever it raises becomes a UserError that names the folder."""
    try:
        return call(*args, **options)
    except Exception as error:  # both libraries raise many kinds for damaged files
        if is_out_of_memory(error):
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        if isinstance(error, TypeError):  # its text names functions of the library
            lines = ["its configuration has a value of another kind than the library expects"]
        named = lines[0] if str(folder) in lines[0] else f"{folder} cannot be loaded: {lines[0]}"
        raise UserError(f"{named}\nAnother base: --set base=PATH; {BASE.alternative}.") from error
