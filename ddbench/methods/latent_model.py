"""The border to Stable-Diffusion-family models: a pipeline folder or a hub id becomes one `LatentModel`.

diffusers is imported inside the functions: `ddbench run` on something finished must not pay its nine seconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddbench.errors import UserError, unknown
from ddbench.files import digest, read_json
from ddbench.methods.pixels import to_float, to_uint8

EMBEDDED = {"tiny": Path(str(files("ddbench.methods.dpd") / "base" / "tiny"))}
FORGETFUL = {"DPMSolverSinglestepScheduler", "UniPCMultistepScheduler"}
PARTS = ("vae", "unet", "text_encoder", "tokenizer", "scheduler")
WANTED = ["*/*.json", "*/*.txt", "*/*.safetensors"]
WEIGHTS = {"vae", "unet", "text_encoder"}


@dataclass(frozen=True)
class LatentModel:
    """A text-to-image model: weights frozen until somebody unfreezes them, float32, evaluation mode.

    identity: a digest of what the weights are; it is part of the key of every stage that uses them.
    """

    unet: nn.Module
    vae: nn.Module
    text: nn.Module
    tokenizer: Callable
    scheduler: Any
    identity: str
    device: torch.device

    @property
    def prediction(self) -> str:
        """What the U-Net outputs: epsilon, v_prediction or sample."""
        return self.scheduler.config.prediction_type

    @property
    def factor(self) -> int:
        """Pixels per latent cell along one axis."""
        config = self.vae.config
        return 2 ** (len(getattr(config, "block_out_channels", None) or config.encoder_block_out_channels) - 1)

    def check_size(self, size: int) -> None:
        """UserError unless images of `size` x `size` pixels have a whole number of latent cells."""
        if size % self.factor:
            near = [n for n in (size // self.factor * self.factor, -(-size // self.factor) * self.factor) if n]
            raise UserError(f"{size} px: this base takes multiples of {self.factor}; try {' or '.join(map(str, near))}")

    @torch.no_grad()
    def words(self, prompts: list[str]) -> Tensor:
        """Text embeddings (n, tokens, d) of the prompts; longer ones are cut at the encoder's length."""
        length = min(self.tokenizer.model_max_length, self.text.config.max_position_embeddings)
        tokens = self.tokenizer(
            prompts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        ).input_ids
        return self.text(tokens.to(self.device)).last_hidden_state

    def conditions(self, count: int) -> dict[str, Tensor]:
        """What else the U-Net wants for `count` images: class 0 where it has class embeddings (Text2Earth)."""
        if getattr(self.unet.config, "num_class_embeds", None):
            return {"class_labels": torch.zeros(count, dtype=torch.long, device=self.device)}
        return {}

    @torch.no_grad()
    def encode(self, images: Tensor, progress: Callable[[Iterable], Iterable], batch: int) -> tuple[Tensor, Tensor]:
        """Posterior mean and std, unscaled, float16 (n, c, h/f, w/f) each, of uint8 images (n, 3, h, w)."""
        found = []
        for chunk in progress(images.split(batch)):
            found.append([part.half().cpu() for part in posterior(self.vae, to_float(chunk.to(self.device)))])
        means, stds = zip(*found, strict=True)
        return torch.cat(means).contiguous(), torch.cat(stds).contiguous()

    @torch.no_grad()
    def decode(self, z: Tensor, batch: int) -> Tensor:
        """uint8 (n, 3, h, w) of scaled latents (n, c, h/f, w/f)."""
        scale = self.vae.config.scaling_factor
        made = [self.vae.decode(part.to(self.device) / scale).sample for part in z.split(batch)]
        return to_uint8(torch.cat(made)).cpu()

    def scheduler_named(self, name: str, pulled: bool = False) -> Any:
        """The base's own scheduler, or another of diffusers by its class name, with the base's noise levels.

        UserError for an unknown one, for one that scales its noise (Euler's), which the sampler does not know, and,
        when it pulls, for one that goes on from its own copy of the latents and would forget the pull.
        """
        known = {kind.__name__: kind for kind in (type(self.scheduler), *self.scheduler.compatibles)}
        known = {"base": type(self.scheduler)} | dict(sorted(known.items()))
        if name not in known:
            raise unknown("scheduler", name, known)
        made = known[name].from_config(self.scheduler.config)
        kind = type(made).__name__
        if pulled and (kind in FORGETFUL or (kind == "PNDMScheduler" and not made.config.skip_prk_steps)):
            raise UserError(f"scheduler {kind} restarts from latents of its own, which undoes the pull: set pull=0")
        if float(made.init_noise_sigma) != 1:
            raise UserError(f"scheduler {name} is not variance preserving: use DDIMScheduler, for one")
        return made


def posterior(vae: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and std, unscaled, (n, c, h/f, w/f) each, of images in [-1, 1]; a deterministic autoencoder has std 0."""
    found = vae.encode(images)
    if hasattr(found, "latent"):
        return found.latent, torch.zeros_like(found.latent)
    return found.latent_dist.mean, found.latent_dist.std


def load_model(name: str, device: torch.device) -> LatentModel:
    """Load `tiny` (embedded), a pipeline folder, or a hub id; UserError names the model and the ways out."""
    folder = find_model(name)
    import diffusers
    import transformers

    transformers.utils.logging.disable_progress_bar()  # ours says what is going on
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")["_class_name"]
    kinds = {"vae": _autoencoder_kind(folder), "unet": diffusers.UNet2DConditionModel}
    kinds["text_encoder"] = transformers.CLIPTextModel
    parts = {part: _frozen(kind, folder / part, device) for part, kind in kinds.items()}
    return LatentModel(
        unet=parts["unet"], vae=parts["vae"], text=parts["text_encoder"], device=device, identity=identity_of(folder),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        scheduler=getattr(diffusers, scheduler).from_pretrained(folder / "scheduler"),
    )  # fmt: skip


def find_model(name: str) -> Path:
    """The folder of a base model: embedded, on this disk, or downloaded from the hub (safetensors only)."""
    folder = EMBEDDED.get(name, Path(name))
    if not folder.is_dir():
        folder = _download(name)
    kinds = {part: "*.safetensors" if part in WEIGHTS else "*.*" for part in PARTS}
    missing = [f"{part}/{kind}" for part, kind in kinds.items() if not any((folder / part).glob(kind))]
    if missing:
        raise UserError(
            f"{folder} is no whole text-to-image pipeline folder: it lacks {', '.join(missing)}.\n"
            "Weights are read from safetensors only; `save_pretrained` of diffusers writes them."
        )
    return folder


def _download(name: str) -> Path:
    """A snapshot of a hub model, from the cache when it is there."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=WANTED, etag_timeout=5))
    except Exception as error:
        raise UserError(
            f"the base model {name!r} is neither a folder nor in the local hub cache, and could not be downloaded "
            f"({type(error).__name__}).\n"
            f"  - with a network: hf download {name}\n"
            "  - from another machine: copy the pipeline folder and pass --set base=PATH\n"
            "  - without it: --preset tiny runs on the embedded base model"
        ) from None


def _autoencoder_kind(folder: Path) -> type:
    """The class that the folder names, if it is one whose latents we understand."""
    import diffusers

    known = {kind.__name__: kind for kind in (diffusers.AutoencoderKL, diffusers.AutoencoderDC)}
    name = read_json(folder / "vae" / "config.json")["_class_name"]
    if name not in known:
        raise UserError(f"{folder}: its autoencoder is a {name}; known are {', '.join(known)}")
    return known[name]


def _frozen(kind: type, folder: Path, device: torch.device) -> nn.Module:
    """One part in float32, no gradients. Only safetensors are read, and no code from the folder runs."""
    wanted = {"use_safetensors": True} | ({"torch_dtype": torch.float32} if "diffusers" in kind.__module__ else {})
    if "transformers" in kind.__module__:
        wanted["dtype"] = torch.float32
    return kind.from_pretrained(folder, **wanted).to(device).eval().requires_grad_(False)


def identity_of(folder: Path) -> str:
    """Digest of every part's configuration and of the weight files, each known by 64 pieces of it."""
    configs = {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.glob("*/*.json"))}
    weights = {str(p.relative_to(folder)): _pieces(p) for p in sorted(folder.glob("*/*.safetensors"))}
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
