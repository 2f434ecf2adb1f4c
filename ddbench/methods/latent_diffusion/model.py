"""The border to latent diffusion models of diffusers: a pipeline folder or a hub id becomes one `LatentModel`.

Two kinds: a U-Net conditioned by text (the Stable Diffusion family), and a transformer conditioned by class (DiT).
diffusers is imported inside the functions: `ddbench run` on something finished must not pay its nine seconds.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddbench.errors import UserError, unknown
from ddbench.methods.latent_diffusion.diffusion import PREDICTIONS
from ddbench.methods.latent_diffusion.model_files import class_name, find_model, identity_of, parts_of, scheduler_name
from ddbench.methods.shared.device import in_batches, mixed_precision
from ddbench.utils.files import read_json

MULTISTEP_SCHEDULERS = {"DPMSolverSinglestepScheduler", "SASolverScheduler", "UniPCMultistepScheduler"}
PNDM = "PNDMScheduler"
CLASSES = (None, "timestep")  # kinds of class embedding that a number says enough to


@dataclass(frozen=True)
class LatentModel:
    """A latent diffusion model: weights frozen until somebody unfreezes them, float32, evaluation mode.

    text, tokenizer: None where classes, not texts, say what to draw. identity: a digest of what the weights are, and
    vae_identity of the autoencoder's alone: one of them is part of the key of every stage.
    """

    denoiser: Any  # parts of diffusers and transformers: no type tells their configs
    vae: Any
    scheduler: Any
    identity: str
    vae_identity: str
    device: torch.device
    text: Any = None
    tokenizer: Any = None

    @property
    def prediction(self) -> str:
        """What the denoiser outputs: epsilon, v_prediction or sample."""
        return self.scheduler.config.prediction_type

    @property
    def factor(self) -> int:
        """Pixels per latent cell along one axis."""
        config = self.vae.config
        return 2 ** (len(getattr(config, "block_out_channels", None) or config.encoder_block_out_channels) - 1)

    def check_size(self, size: int) -> None:
        """UserError unless images of `size` x `size` pixels have latents that the denoiser takes."""
        if self.text is None and size != (own := self.denoiser.config.sample_size * self.factor):
            raise UserError(f"{size} px: this base, a transformer, takes {own} px only; try --size {own}")
        if size % self.factor:
            near = [n for n in (size // self.factor * self.factor, -(-size // self.factor) * self.factor) if n]
            raise UserError(f"{size} px: this base takes multiples of {self.factor}; try {' or '.join(map(str, near))}")

    def check_classes(self, count: int, tuned: bool) -> None:
        """UserError when the base is conditioned by class and has fewer than `count`, or untuned would draw others."""
        if self.text is not None:
            return
        own = self.denoiser.config.num_embeds_ada_norm
        if count > own:
            raise UserError(f"{count} classes: this base, conditioned by class, has {own}; try one by text")
        if count < own and not tuned:
            raise UserError(
                f"weights=none: this base, conditioned by class, would draw the first {count} of its own {own}; "
                "fine-tune it (weights=lora, weights=all) or try one by text"
            )

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str], labels: Sequence[int]) -> Tensor:
        """What conditions the denoiser, one row per prompt: its text embeddings (n, tokens, d).

        Of a base conditioned by class the class instead, (n,): `labels` says it, and -1 is "no class", the empty
        prompt's. Prompts longer than the text encoder reads are cut.
        """
        if self.text is None:
            none = self.denoiser.config.num_embeds_ada_norm
            return torch.tensor([none if label < 0 else label for label in labels], device=self.device)
        length = min(self.tokenizer.model_max_length, self.text.config.max_position_embeddings)
        tokens = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        ).input_ids
        return torch.cat([self.text(part.to(self.device)).last_hidden_state for part in tokens.split(256)])

    def denoise(self, z: Tensor, t: Tensor, words: Tensor) -> Tensor:
        """The denoiser's output u (n, c, h, w) for z at time t, (n,) or a scalar, under `words`.

        A U-Net with class embeddings of its own (Text2Earth: ground resolution), looked up or computed from the number,
        is given class 0. Of a transformer that
        learned its variance too, u is the mean's half.
        """
        if self.text is None:
            return self.denoiser(z, t.expand(len(z)).to(z.device), class_labels=words).sample[:, : z.shape[1]]
        more = {}
        if self.denoiser.class_embedding is not None:
            more = {"class_labels": torch.zeros(len(z), dtype=torch.long, device=z.device)}
        return self.denoiser(z, t, encoder_hidden_states=words.float(), **more).sample

    @torch.no_grad()
    def encode(self, images: Tensor, progress: Callable[[Iterable], Iterable], batch: int) -> tuple[Tensor, Tensor]:
        """Posterior mean and std, unscaled, float16 (n, c, h/f, w/f) each, of uint8 images (n, 3, h, w)."""

        def one(part: slice) -> list[Tensor]:
            return [t.half().cpu() for t in posterior(self.vae, to_float(images[part].to(self.device)))]

        means, stds = zip(*in_batches(one, len(images), batch, progress), strict=True)
        return torch.cat(means).contiguous(), torch.cat(stds).contiguous()

    @torch.no_grad()
    def decode(self, z: Tensor, batch: int, progress: Callable[[Iterable], Iterable] = iter) -> Tensor:
        """uint8 (n, 3, h, w) of scaled latents (n, c, h/f, w/f)."""

        def one(part: slice) -> Tensor:
            return to_uint8(self.vae.decode(z[part].to(self.device) / self.vae.config.scaling_factor).sample).cpu()

        return torch.cat(list(in_batches(one, len(z), batch, progress)))

    def scheduler_named(self, name: str, pulled: bool = False) -> Any:
        """The base's own scheduler, or another of diffusers by its class name, with the base's noise levels.

        One that scales its noise (Euler's) the sampler does not know: where the base's own is one, DDIM takes its
        place. UserError for one that was asked for by name, for an unknown one and, when it pulls, for one that goes on
        from its own copy of the latents and would forget the pull. PNDM starts without its Runge-Kutta steps, which
        restart from latents of their own; so it does in the configurations of Stable Diffusion (its second step still
        repeats the first from the latents before it, and with them before the first pull). No scheduler clips: its
        default is for pixels in [-1, 1], and these are latents.
        """
        known = {kind.__name__: kind for kind in (type(self.scheduler), *self.scheduler.compatibles)}
        known = {"base": type(self.scheduler)} | dict(sorted(known.items()))
        if name not in known:
            raise unknown("scheduler", name, known)
        kind = known[name].__name__
        made = _made(known[name], self.scheduler.config)
        if pulled and kind in MULTISTEP_SCHEDULERS:
            raise UserError(f"scheduler {kind} restarts from latents of its own, which undoes the pull: set pull=0")
        if float(made.init_noise_sigma) == 1:
            return made
        if name != "base":
            raise UserError(f"scheduler {name} is not variance preserving: use DDIMScheduler, for one")
        from diffusers import DDIMScheduler

        return _made(DDIMScheduler, self.scheduler.config)


def check_steps(scheduler: Any, steps: int) -> None:
    """UserError now, not after the training, when the scheduler does not have so many steps."""
    try:
        scheduler.set_timesteps(steps)
    except ValueError as error:
        raise UserError(f"steps={steps}: {error}") from None


def _made(kind: Any, config: Any) -> Any:
    """A scheduler with the noise levels of `config`, which clips nothing. UserError for one that lacks a package."""
    wanted = {"clip_sample": False, "thresholding": False, "skip_prk_steps": True}
    changes = {name: value for name, value in wanted.items() if name in inspect.signature(kind).parameters}
    try:
        return kind.from_config(config, **changes)
    except ImportError as error:
        said = str(error).strip().splitlines()[0]
        raise UserError(f"scheduler {kind.__name__} cannot be made: {said}; DDIMScheduler needs nothing") from None


def posterior(vae: Any, images: Tensor) -> tuple[Tensor, Tensor]:
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
    scheduler = _scheduler(folder, diffusers)
    own = {"identity": identity_of(folder), "vae_identity": identity_of(folder / "vae", "")}
    shared = {"scheduler": scheduler, "device": device, **own}
    vae = _frozen(_kind(folder / "vae", diffusers, ("AutoencoderKL", "AutoencoderDC")), folder / "vae", device)
    if "transformer" in parts_of(folder):
        kind = _kind(folder / "transformer", diffusers, ("DiTTransformer2DModel", "Transformer2DModel"))
        return LatentModel(_frozen(kind, folder / "transformer", device), vae, **shared)
    unet = _kind(folder / "unet", diffusers, ("UNet2DConditionModel",))
    _check_fit(folder, read_json(folder / "unet" / "config.json"), vae.config.latent_channels)
    return LatentModel(
        _frozen(unet, folder / "unet", device), vae, **shared,
        text=_frozen(transformers.CLIPTextModel, folder / "text_encoder", device),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer"),
    )  # fmt: skip


def _scheduler(folder: Path, diffusers: Any) -> Any:
    """The pipeline's own scheduler; UserError for one that diffusers lacks or that predicts what we do not know."""
    name = scheduler_name(folder)
    if not hasattr(diffusers, name):
        raise UserError(f"{folder}: its scheduler is a {name}, which diffusers {diffusers.__version__} does not have")
    made = getattr(diffusers, name).from_pretrained(folder / "scheduler")
    if (found := getattr(made.config, "prediction_type", None)) not in PREDICTIONS:
        raise UserError(f"{folder}: its denoiser predicts {found!r}; known are {', '.join(PREDICTIONS)}")
    return made


def _check_fit(folder: Path, unet: dict[str, Any], channels: int) -> None:
    """UserError for a U-Net that wants more than noisy latents, a time, a text and a class: before any work."""
    more = unet.get("addition_embed_type") or unet.get("encoder_hid_dim_type")
    takes, kind, width = unet["in_channels"], unet.get("class_embed_type"), unet["cross_attention_dim"]
    text = read_json(folder / "text_encoder" / "config.json")["hidden_size"]
    reasons = {
        f"it takes {takes} channels, the autoencoder gives {channels}": takes != channels,
        f"it wants more than a text ({more})": bool(more),
        f"its class embedding is {kind!r}": kind not in CLASSES,
        f"it reads texts of width {width}, the text encoder writes {text}": width != text,
    }
    off = [reason for reason, holds in reasons.items() if holds]
    if off:
        raise UserError(f"{folder}: its U-Net is not one for text to image: {'; '.join(off)}")


def _kind(folder: Path, diffusers: Any, known: tuple[str, ...]) -> Any:
    """The class that a part's folder names, if it is one that we understand."""
    name = class_name(folder)
    if name not in known:
        raise UserError(f"{folder.parent}: its {folder.name} is a {name}; known are {', '.join(known)}")
    # a DiT of the hub calls itself by the older name
    return getattr(diffusers, "DiTTransformer2DModel" if name == "Transformer2DModel" else name)


def _frozen(kind: Any, folder: Path, device: torch.device) -> Any:
    """One part in float32, no gradients. Only safetensors are read, and no code from the folder runs."""
    wanted = {"use_safetensors": True} | ({"torch_dtype": torch.float32} if "diffusers" in kind.__module__ else {})
    if "transformers" in kind.__module__:
        wanted["dtype"] = torch.float32
    return kind.from_pretrained(folder, **wanted).to(device).eval().requires_grad_(False)


def to_float(images: Tensor) -> Tensor:
    """uint8 0..255 to float32 [-1, 1]."""
    return images.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """float [-1, 1] to the nearest uint8 0..255, values outside clipped."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def denoiser_of(model: LatentModel, precision: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The model's denoiser as a function of z, t and words, under autocast."""

    def network(z: Tensor, t: Tensor, words: Tensor) -> Tensor:
        with mixed_precision(model.device, precision):
            return model.denoise(z, t, words).float()

    return network
