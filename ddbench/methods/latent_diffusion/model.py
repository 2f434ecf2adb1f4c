"""The border to latent diffusion models of diffusers: a pipeline folder or a hub id becomes one `LatentModel`.

There are two kinds: a U-Net conditioned by text (the Stable Diffusion family), and a transformer conditioned by class
(DiT). diffusers is imported inside the functions: `ddbench run` on a finished run must not pay its nine seconds.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ddbench.errors import UserError, unknown
from ddbench.methods.latent_diffusion.diffusion import PREDICTIONS
from ddbench.methods.latent_diffusion.model_files import (
    class_name,
    find_model,
    model_identity,
    parts_of,
    scheduler_name,
)
from ddbench.methods.latent_diffusion.model_parts import as_user_error, check_unet, load_frozen, load_part
from ddbench.methods.shared.device import in_batches, mixed_precision
from evaluators.model_checks import check_tokenizer, equal_texts, long_texts

log = logging.getLogger("ddbench")

MULTISTEP_SCHEDULERS = {"DPMSolverSinglestepScheduler", "SASolverScheduler", "UniPCMultistepScheduler"}


@dataclass(frozen=True)
class LatentModel:
    """A latent diffusion model: frozen weights, float32, evaluation mode.

    identity: digest of all weights; it, or the next one, is part of every stage's key.
    vae_identity: digest of the autoencoder's weights.
    text, tokenizer: None for a base conditioned by class.
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
        """The output of the denoiser: epsilon, v_prediction or sample."""
        return self.scheduler.config.prediction_type

    @property
    def factor(self) -> int:
        """Pixels per latent cell along one axis."""
        config = self.vae.config
        return 2 ** (len(getattr(config, "block_out_channels", None) or config.encoder_block_out_channels) - 1)

    @property
    def tokens_read(self) -> int:
        """Tokens of a prompt that the text encoder reads, those at the ends included."""
        return int(min(self.tokenizer.model_max_length, self.text.config.max_position_embeddings))

    def check_size(self, size: int) -> None:
        """Raise UserError unless images of `size` x `size` pixels have latents that the denoiser takes."""
        if self.text is None and size != (only := self.denoiser.config.sample_size * self.factor):
            raise UserError(f"{size} px: this base, a transformer, takes {only} px only; try --size {only}")
        if size % self.factor:
            near = [n for n in (size // self.factor * self.factor, -(-size // self.factor) * self.factor) if n]
            raise UserError(f"{size} px: this base takes multiples of {self.factor}; try {' or '.join(map(str, near))}")

    def check_classes(self, count: int, tuned: bool) -> None:
        """Raise UserError for a base conditioned by class that has too few, or would draw classes of its own.

        count: classes of the dataset. tuned: the base is fine-tuned on them.
        """
        if self.text is not None:
            return
        of_base = self.denoiser.config.num_embeds_ada_norm
        if count > of_base:
            raise UserError(
                f"{count} classes: this base is conditioned by class and has {of_base}; try a text-conditioned base"
            )
        if count < of_base and not tuned:
            raise UserError(
                f"weights=none: this base is conditioned by class and would sample the first {count} of its {of_base} "
                "classes; fine-tune it (weights=lora, weights=all) or try a text-conditioned base"
            )

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str], labels: Sequence[int]) -> Tensor:
        """Return the condition of the denoiser, one row per prompt: text embeddings (n, tokens, d).

        For a base conditioned by class it is the class, int64 (n,): `labels`, where -1, the empty prompt's, is "no
        class". The ends of prompts that are longer than the text encoder reads are cut, with a warning.
        """
        if self.text is None:
            no_class = self.denoiser.config.num_embeds_ada_norm
            return torch.tensor([no_class if label < 0 else label for label in labels], device=self.device)
        if long := long_texts(self.tokenizer, prompts, self.tokens_read):
            text = (
                "%d of %d prompts have more tokens than the %d that the text encoder reads, up to %d: ends are cut: %s"
            )
            longest = max(long, key=lambda prompt: long[prompt])
            log.warning(text, len(long), len(prompts), self.tokens_read, long[longest], longest)
        tokens = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=self.tokens_read, return_tensors="pt"
        ).input_ids
        return torch.cat([self.text(part.to(self.device)).last_hidden_state for part in tokens.split(256)])

    def denoise(self, z: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Return the denoiser's output u (n, c, h, w) for z at time t, (n,) or a scalar, under `encode_prompts`' rows.

        A U-Net with class embeddings of its own (Text2Earth: ground resolution) is given class 0. A transformer that
        learned its variance too outputs the mean and the variance; u is the mean.
        """
        if self.text is None:
            return self.denoiser(z, t.expand(len(z)).to(z.device), class_labels=condition).sample[:, : z.shape[1]]
        classes = {}
        if self.denoiser.class_embedding is not None:
            classes = {"class_labels": torch.zeros(len(z), dtype=torch.long, device=z.device)}
        return self.denoiser(z, t, encoder_hidden_states=condition.float(), **classes).sample

    @torch.no_grad()
    def encode(self, images: Tensor, progress: Callable[[Iterable], Iterable], batch: int) -> tuple[Tensor, Tensor]:
        """Return posterior mean and std, unscaled, float16 (n, c, h/f, w/f), of uint8 images (n, 3, h, w)."""

        def compute(part: slice) -> list[Tensor]:
            return [t.half().cpu() for t in posterior(self.vae, to_float(images[part].to(self.device)))]

        means, stds = zip(*in_batches(compute, len(images), batch, progress), strict=True)
        return torch.cat(means).contiguous(), torch.cat(stds).contiguous()

    @torch.no_grad()
    def decode(self, z: Tensor, batch: int, progress: Callable[[Iterable], Iterable] = iter) -> Tensor:
        """Return uint8 images (n, 3, h, w) of scaled latents (n, c, h/f, w/f)."""

        def compute(part: slice) -> Tensor:
            return to_uint8(self.vae.decode(z[part].to(self.device) / self.vae.config.scaling_factor).sample).cpu()

        return torch.cat(list(in_batches(compute, len(z), batch, progress)))

    def make_scheduler(self, name: str, pulled: bool = False) -> Any:
        """Build the base's own scheduler (name "base") or another of diffusers, with the base's noise levels.

        DDIM replaces a base's own scheduler that scales its noise (Euler's), which the sampler does not support. PNDM
        starts without its Runge-Kutta steps, which restart from latents of their own, as in the configurations of
        Stable Diffusion (its second step still repeats the first from the latents before it, and with them before the
        first pull). No scheduler clips: that default is for pixels in [-1, 1].

        pulled: the latents are moved between steps. Raises UserError for an unknown name, for a scheduler that scales
        its noise, and with `pulled` for one that continues from its own copy of the latents.
        """
        kinds = {kind.__name__: kind for kind in (type(self.scheduler), *self.scheduler.compatibles)}
        kinds = {"base": type(self.scheduler)} | dict(sorted(kinds.items()))
        if name not in kinds:
            raise unknown("scheduler", name, kinds)
        scheduler = build_scheduler(kinds[name], self.scheduler.config)
        kind = kinds[name].__name__
        if pulled and kind in MULTISTEP_SCHEDULERS:
            raise UserError(f"scheduler {kind} keeps its own latents, which undoes the guidance: set pull=0")
        if float(scheduler.init_noise_sigma) == 1:
            return scheduler
        if name != "base":
            raise UserError(f"scheduler {name} is not variance preserving: use DDIMScheduler, for example")
        from diffusers import DDIMScheduler

        return build_scheduler(DDIMScheduler, self.scheduler.config)


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


def to_float(images: Tensor) -> Tensor:
    """Map uint8 0..255 to float32 [-1, 1]."""
    return images.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Map float [-1, 1] to the nearest uint8 0..255; values outside are clipped."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def denoiser_of(model: LatentModel, precision: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return `model.denoise` under autocast, with float32 output."""

    def network(z: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        with mixed_precision(model.device, precision):
            return model.denoise(z, t, condition).float()

    return network


def load_model(name: str, device: torch.device) -> LatentModel:
    """Load `tiny` (embedded), a pipeline folder, or a hub id. Raises UserError with the name and the ways out.

    A model that lacks weights, or has weights of another model, is refused.
    """
    folder = find_model(name)
    import diffusers
    import transformers

    scheduler_class = scheduler_name(folder)
    if not hasattr(diffusers, scheduler_class):
        version = diffusers.__version__
        raise UserError(f"{folder}: its scheduler {scheduler_class} does not exist in diffusers {version}")
    scheduler = load_part(getattr(diffusers, scheduler_class), folder / "scheduler")
    if (prediction := getattr(scheduler.config, "prediction_type", None)) not in PREDICTIONS:
        raise UserError(f"{folder}: its denoiser predicts {prediction!r}; known are {', '.join(PREDICTIONS)}")

    def load_network(part: str, classes: tuple[str, ...]) -> Any:
        kind = class_name(folder / part)
        if kind not in classes:
            raise UserError(f"{folder}: its {part} is a {kind}; known are {', '.join(classes)}")
        kind = "DiTTransformer2DModel" if kind == "Transformer2DModel" else kind  # a DiT of the hub has the older name
        return load_frozen(getattr(diffusers, kind), folder / part, device, torch_dtype=torch.float32)

    vae = load_network("vae", ("AutoencoderKL", "AutoencoderDC"))
    shared = {
        "scheduler": scheduler,
        "device": device,
        "identity": model_identity(name, folder),
        "vae_identity": model_identity(name, folder / "vae", ""),
    }
    if "transformer" in parts_of(folder):
        return LatentModel(load_network("transformer", ("DiTTransformer2DModel", "Transformer2DModel")), vae, **shared)
    check_unet(folder, vae.config.latent_channels)
    unet = load_network("unet", ("UNet2DConditionModel",))
    text = load_frozen(transformers.CLIPTextModel, folder / "text_encoder", device, dtype=torch.float32)
    tokenizer = load_part(transformers.CLIPTokenizer, folder / "tokenizer", truncation_side="right")
    as_user_error(folder, check_tokenizer, folder / "tokenizer", tokenizer, text.config.vocab_size)
    return LatentModel(unet, vae, **shared, text=text, tokenizer=tokenizer)


def check_base(name: str, template: str = "", readable: Sequence[str] = ()) -> None:
    """Raise UserError for a base that cannot be loaded, and for two classes that have one condition in it.

    template, readable: prompt and class names, see `class_prompts`.
    """
    if reader := _load_text_reader(name, model_identity(name, find_model(name))):
        check_prompts(*reader, [template.format(word) for word in readable], readable)


@cache
def _load_text_reader(name: str, identity: str) -> tuple[Any, int] | None:
    """Load a whole base once; return only its tokenizer and the tokens that its text encoder reads."""
    with torch.random.fork_rng(devices=[]):
        model = load_model(name, torch.device("cpu"))
    return None if model.text is None else (model.tokenizer, model.tokens_read)


def check_prompts(tokenizer: Any, length: int, prompts: Sequence[str], readable: Sequence[str]) -> None:
    """Raise UserError if the prompts of two classes are equal as far as `length` tokens go.

    readable: the names of the classes, in the order of `prompts`.
    """
    if equal := equal_texts(tokenizer, prompts, length):
        one, other = (repr(readable[i]) for i in equal)
        raise UserError(
            f"classes {one} and {other} have one condition: the text encoder reads {length} tokens, and their prompts "
            "are equal up to there. Give the folders shorter or other names, or try --set prompt='{}'"
        )
