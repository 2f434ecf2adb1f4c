"""The border to latent diffusion models of diffusers: a pipeline folder or a hub id becomes one `LatentModel`.

There are two kinds: a U-Net conditioned by text (the Stable Diffusion family), and a transformer conditioned by class
(DiT). diffusers is imported inside the functions: `ddbench run` on a finished run must not pay its nine seconds.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddbench.errors import UserError, unknown
from ddbench.methods.latent_diffusion.diffusion import PREDICTIONS
from ddbench.methods.latent_diffusion.model_files import class_name, find_model, identity_of, parts_of, scheduler_name
from ddbench.methods.shared.device import in_batches, mixed_precision
from ddbench.utils.files import digest, read_json
from ddbench.utils.images import resize, to_float, to_uint8

MULTISTEP_SCHEDULERS = {"DPMSolverSinglestepScheduler", "SASolverScheduler", "UniPCMultistepScheduler"}
CLASS_EMBEDDINGS = (None, "timestep")  # kinds that take a number


@dataclass(frozen=True)
class LatentModel:
    """A latent diffusion model: frozen weights, float32, evaluation mode.

    identity: digest of all weights; it, or the next one, is part of every stage's key.
    vae_identity: digest of the autoencoder's weights.
    text, tokenizer: None for a base conditioned by class.
    size: px, side of the images that it encodes and samples, which are resized; 0 for their own size.
    class_numbers: of a base conditioned by class, its number of each class of the dataset; empty for 0, 1, 2 ...
    """

    denoiser: Any  # parts of diffusers and transformers: no type tells their configs
    vae: Any
    scheduler: Any
    identity: str
    vae_identity: str
    device: torch.device
    text: Any = None
    tokenizer: Any = None
    size: int = 0
    class_numbers: tuple[int, ...] = ()

    def adapted(self, size: int, class_numbers: tuple[int, ...]) -> LatentModel:
        """Return the model with `size` and `class_numbers`. They join its identities, and so the keys of all stages."""
        more: dict[str, Any] = {"size": size} if size else {}
        vae_identity = digest([self.vae_identity, more])[:16] if more else self.vae_identity
        more |= {"class_numbers": class_numbers} if class_numbers else {}
        identity = digest([self.identity, more])[:16] if more else self.identity
        return replace(self, size=size, class_numbers=class_numbers, identity=identity, vae_identity=vae_identity)

    @property
    def prediction(self) -> str:
        """The output of the denoiser: epsilon, v_prediction or sample."""
        return self.scheduler.config.prediction_type

    @property
    def learned_variance(self) -> bool:
        """True if the denoiser outputs a variance beside the mean."""
        return self.denoiser.config.out_channels == 2 * self.denoiser.config.in_channels

    @property
    def factor(self) -> int:
        """Pixels per latent cell along one axis."""
        config = self.vae.config
        return 2 ** (len(getattr(config, "block_out_channels", None) or config.encoder_block_out_channels) - 1)

    def check_size(self, size: int) -> None:
        """Raise UserError unless images of `size` x `size` pixels, resized to its own, have latents that it takes."""
        size = self.size or size
        if self.text is None and size != (only := self.denoiser.config.sample_size * self.factor):
            ways = f"try --set base_size={only} or --size {only}"
            raise UserError(f"{size} px: this base, a transformer, takes {only} px only; {ways}")
        if size % self.factor:
            near = [n for n in (size // self.factor * self.factor, -(-size // self.factor) * self.factor) if n]
            raise UserError(f"{size} px: this base takes multiples of {self.factor}; try {' or '.join(map(str, near))}")

    def check_classes(self, count: int, tuned: bool) -> None:
        """Raise UserError for a base conditioned by class that has too few, or would draw classes of its own.

        count: classes of the dataset. tuned: the base is fine-tuned on them.
        """
        if self.text is not None:
            if self.class_numbers:
                raise UserError("base_classes: this base is conditioned by text and has no numbers of classes")
            return
        of_base = self.denoiser.config.num_embeds_ada_norm
        if (largest := max(self.class_numbers, default=0)) >= of_base:
            raise UserError(f"base_classes has the number {largest}, but this base has {of_base} classes, from 0 on")
        if count > of_base:
            raise UserError(
                f"{count} classes: this base is conditioned by class and has {of_base}; try a text-conditioned base"
            )
        if count < of_base and not tuned and not self.class_numbers:
            raise UserError(
                f"weights=none: this base is conditioned by class and would sample the first {count} of its {of_base} "
                "classes; give their numbers (base_classes=FILE.toml), fine-tune it (weights=lora, weights=all) or try "
                "a text-conditioned base"
            )

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str], labels: Sequence[int]) -> Tensor:
        """Return the condition of the denoiser, one row per prompt: text embeddings (n, tokens, d).

        For a base conditioned by class it is the class, int64 (n,): `labels`, or their `class_numbers`, where -1, the
        empty prompt's, is "no class". Prompts longer than the text encoder reads are cut.
        """
        if self.text is None:
            no_class = self.denoiser.config.num_embeds_ada_norm
            numbers = self.class_numbers or range(no_class)
            return torch.tensor([no_class if label < 0 else numbers[label] for label in labels], device=self.device)
        length = min(self.tokenizer.model_max_length, self.text.config.max_position_embeddings)
        tokens = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        ).input_ids
        return torch.cat([self.text(part.to(self.device)).last_hidden_state for part in tokens.split(256)])

    def denoise(self, z: Tensor, t: Tensor, condition: Tensor, variance: bool = False) -> Tensor:
        """Return the denoiser's output u (n, c, h, w) for z at time t, (n,) or a scalar, under `encode_prompts`' rows.

        A U-Net with class embeddings of its own (Text2Earth: ground resolution) is given class 0. A transformer that
        learned its variance too outputs the mean and the variance; u is the mean, with `variance` both (n, 2 c, h, w).
        """
        if self.text is None:
            output = self.denoiser(z, t.expand(len(z)).to(z.device), class_labels=condition).sample
            return output if variance else output[:, : z.shape[1]]
        classes = {}
        if self.denoiser.class_embedding is not None:
            classes = {"class_labels": torch.zeros(len(z), dtype=torch.long, device=z.device)}
        return self.denoiser(z, t, encoder_hidden_states=condition.float(), **classes).sample

    @torch.no_grad()
    def encode(self, images: Tensor, progress: Callable[[Iterable], Iterable], batch: int) -> tuple[Tensor, Tensor]:
        """Return posterior mean and std, unscaled, float16 (n, c, h/f, w/f), of uint8 images (n, 3, h, w)."""

        def compute(part: slice) -> list[Tensor]:
            pixels = resize(to_float(images[part].to(self.device)), self.size)
            return [t.half().cpu() for t in posterior(self.vae, pixels)]

        means, stds = zip(*in_batches(compute, len(images), batch, progress), strict=True)
        return torch.cat(means).contiguous(), torch.cat(stds).contiguous()

    @torch.no_grad()
    def decode(self, z: Tensor, batch: int, progress: Callable[[Iterable], Iterable] = iter, size: int = 0) -> Tensor:
        """Return uint8 images (n, 3, h, w) of scaled latents (n, c, h/f, w/f), resized to `size` px; 0: as they are."""

        def compute(part: slice) -> Tensor:
            pixels = self.vae.decode(z[part].to(self.device) / self.vae.config.scaling_factor).sample
            return to_uint8(resize(pixels, size)).cpu()

        return torch.cat(list(in_batches(compute, len(z), batch, progress)))

    def make_scheduler(self, name: str, pulled: bool = False, spacing: str = "base", variance: str = "fixed") -> Any:
        """Build the base's own scheduler (name "base") or another of diffusers, with the base's noise levels.

        DDIM replaces a base's own scheduler that scales its noise (Euler's), which the sampler does not support. PNDM
        starts without its Runge-Kutta steps, which restart from latents of their own, as in the configurations of
        Stable Diffusion (its second step still repeats the first from the latents before it, and with them before the
        first pull). No scheduler clips: that default is for pixels in [-1, 1].

        pulled: the latents are moved between steps. spacing: of the times of sampling, "base" for the base's own.
        variance: "learned" for DDPM's noise as the base learned it. Raises UserError for an unknown name, for a
        scheduler that scales its noise, with `pulled` for one that continues from its own copy of the latents, and for
        a spacing or variance that the scheduler or the base does not have.
        """
        kinds = {kind.__name__: kind for kind in (type(self.scheduler), *self.scheduler.compatibles)}
        kinds = {"base": type(self.scheduler)} | dict(sorted(kinds.items()))
        if name not in kinds:
            raise unknown("scheduler", name, kinds)
        config = dict(self.scheduler.config)
        config |= {"timestep_spacing": spacing} if spacing != "base" else {}
        config |= {"variance_type": "learned_range"} if variance == "learned" else {}
        kind = kinds[name].__name__
        if spacing != "base" and "timestep_spacing" not in inspect.signature(kinds[name]).parameters:
            raise UserError(f"scheduler {kind} knows no spacing: set spacing=base")
        scheduler = build_scheduler(kinds[name], config)
        if variance == "learned" and kind != "DDPMScheduler":
            raise UserError(f"variance=learned: scheduler {kind} draws no such noise: set scheduler=DDPMScheduler")
        if variance == "learned" and (self.text is not None or not self.learned_variance):
            raise UserError("variance=learned: this base did not learn its variance: set variance=fixed")
        if pulled and kind in MULTISTEP_SCHEDULERS:
            raise UserError(f"scheduler {kind} keeps its own latents, which undoes the guidance: set pull=0")
        if float(scheduler.init_noise_sigma) == 1:
            return scheduler
        if name != "base":
            raise UserError(f"scheduler {name} is not variance preserving: use DDIMScheduler, for example")
        from diffusers import DDIMScheduler

        return build_scheduler(DDIMScheduler, config)


def check_steps(scheduler: Any, steps: int) -> None:
    """Raise UserError when the scheduler does not have so many steps: now, not after the training."""
    try:
        scheduler.set_timesteps(steps)
    except ValueError as error:
        raise UserError(f"steps={steps}: {error}") from None


def build_scheduler(kind: Any, config: Any) -> Any:
    """Build a scheduler with the noise levels of `config`, without clipping. Raises UserError without its package."""
    settings = {"clip_sample": False, "thresholding": False, "skip_prk_steps": True}
    accepted = {name: value for name, value in settings.items() if name in inspect.signature(kind).parameters}
    try:
        return kind.from_config(config, **accepted)
    except ImportError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"scheduler {kind.__name__} cannot be built: {reason}; DDIMScheduler works without further packages"
        ) from None


def posterior(vae: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and std, unscaled, (n, c, h/f, w/f), of images in [-1, 1]; a deterministic autoencoder has std 0."""
    output = vae.encode(images)
    if hasattr(output, "latent"):
        return output.latent, torch.zeros_like(output.latent)
    return output.latent_dist.mean, output.latent_dist.std


def denoiser_of(
    model: LatentModel, precision: str, variance: bool = False
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return `model.denoise` under autocast, with float32 output."""

    def network(z: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        with mixed_precision(model.device, precision):
            return model.denoise(z, t, condition, variance).float()

    return network


def load_model(name: str, device: torch.device) -> LatentModel:
    """Load `tiny` (embedded), a pipeline folder, or a hub id. Raises UserError with the name and the ways out."""
    folder = find_model(name)
    import diffusers
    import transformers

    transformers.utils.logging.disable_progress_bar()  # ours shows the progress
    scheduler_class = scheduler_name(folder)
    if not hasattr(diffusers, scheduler_class):
        version = diffusers.__version__
        raise UserError(f"{folder}: its scheduler {scheduler_class} does not exist in diffusers {version}")
    scheduler = getattr(diffusers, scheduler_class).from_pretrained(folder / "scheduler")
    if (prediction := getattr(scheduler.config, "prediction_type", None)) not in PREDICTIONS:
        raise UserError(f"{folder}: its denoiser predicts {prediction!r}; known are {', '.join(PREDICTIONS)}")

    def load_part(part: str, classes: tuple[str, ...]) -> Any:
        kind = class_name(folder / part)
        if kind not in classes:
            raise UserError(f"{folder}: its {part} is a {kind}; known are {', '.join(classes)}")
        kind = "DiTTransformer2DModel" if kind == "Transformer2DModel" else kind  # a DiT of the hub has the older name
        return _load_frozen(getattr(diffusers, kind), folder / part, device, torch_dtype=torch.float32)

    vae = load_part("vae", ("AutoencoderKL", "AutoencoderDC"))
    shared = {
        "scheduler": scheduler,
        "device": device,
        "identity": identity_of(folder),
        "vae_identity": identity_of(folder / "vae", ""),
    }
    if "transformer" in parts_of(folder):
        return LatentModel(load_part("transformer", ("DiTTransformer2DModel", "Transformer2DModel")), vae, **shared)
    _check_unet(folder, vae.config.latent_channels)
    unet = load_part("unet", ("UNet2DConditionModel",))
    text = _load_frozen(transformers.CLIPTextModel, folder / "text_encoder", device, dtype=torch.float32)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer")
    return LatentModel(unet, vae, **shared, text=text, tokenizer=tokenizer)


def _check_unet(folder: Path, channels: int) -> None:
    """Raise UserError for a U-Net that needs more than noisy latents of `channels`, a time, a text and a class."""
    unet = read_json(folder / "unet" / "config.json")
    more = unet.get("addition_embed_type") or unet.get("encoder_hid_dim_type")
    takes, kind, width = unet["in_channels"], unet.get("class_embed_type"), unet["cross_attention_dim"]
    text = read_json(folder / "text_encoder" / "config.json")["hidden_size"]
    reasons = {
        f"it takes {takes} channels, the autoencoder gives {channels}": takes != channels,
        f"it needs more than a text ({more})": bool(more),
        f"its class embedding is {kind!r}": kind not in CLASS_EMBEDDINGS,
        f"it reads texts of width {width}, the text encoder writes {text}": width != text,
    }
    if problems := [reason for reason, holds in reasons.items() if holds]:
        raise UserError(f"{folder}: its U-Net is not a text-to-image model: {'; '.join(problems)}")


def _load_frozen(kind: Any, folder: Path, device: torch.device, **dtype: torch.dtype) -> Any:
    """Load one part in evaluation mode, without gradients. Reads safetensors only, and runs no code of the folder."""
    return kind.from_pretrained(folder, use_safetensors=True, **dtype).to(device).eval().requires_grad_(False)
