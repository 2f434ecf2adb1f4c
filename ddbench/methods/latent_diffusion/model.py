"""The border to latent diffusion models of diffusers: a pipeline folder or a hub id becomes one `LatentModel`.

There are two kinds: a U-Net conditioned by text (the Stable Diffusion family), and a transformer conditioned by class
(DiT). diffusers is imported inside the functions: `ddbench run` on a finished run must not pay its nine seconds.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ddbench.errors import UserError
from ddbench.methods.latent_diffusion.class_vectors import call_transformer, class_tables, with_class_vectors
from ddbench.methods.latent_diffusion.diffusion import PREDICTIONS
from ddbench.methods.latent_diffusion.latents import factor_of, posterior
from ddbench.methods.latent_diffusion.model_files import (
    class_name,
    find_model,
    model_identity,
    parts_of,
    scheduler_name,
)
from ddbench.methods.latent_diffusion.model_parts import as_user_error, check_unet, load_frozen, load_part
from ddbench.methods.latent_diffusion.schedulers import check_schedule, choose_scheduler
from ddbench.methods.shared.device import in_batches, mixed_precision
from ddbench.utils.files import digest
from ddbench.utils.images import resize, to_float, to_uint8
from evaluators.model_checks import check_tokenizer, equal_texts, long_texts

log = logging.getLogger("ddbench")


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
        return factor_of(self.vae)

    @property
    def tokens_read(self) -> int:
        """Tokens of a prompt that the text encoder reads, those at the ends included."""
        return int(min(self.tokenizer.model_max_length, self.text.config.max_position_embeddings))

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

        Vectors that the classes have learned are added (`with_class_vectors`).

        For a base conditioned by class it is the class, int64 (n,): `labels`, or their `class_numbers`, where -1, the
        empty prompt's, is "no class". The ends of prompts that are longer than the text encoder reads are cut, with a
        warning.
        """
        if self.text is None:
            no_class = self.denoiser.config.num_embeds_ada_norm
            numbers = self.class_numbers or range(no_class)
            return torch.tensor([no_class if label < 0 else numbers[label] for label in labels], device=self.device)
        if long := long_texts(self.tokenizer, prompts, self.tokens_read):
            text = (
                "%d of %d prompts have more tokens than the %d that the text encoder reads, up to %d: ends are cut: %s"
            )
            longest = max(long, key=lambda prompt: long[prompt])
            log.warning(text, len(long), len(prompts), self.tokens_read, long[longest], longest)
        tokens = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=self.tokens_read, return_tensors="pt"
        ).input_ids
        embedded = torch.cat([self.text(part.to(self.device)).last_hidden_state for part in tokens.split(256)])
        return with_class_vectors(self.denoiser, embedded, torch.tensor(labels, device=self.device))

    @torch.no_grad()
    def embed(self, condition: Tensor) -> Tensor:
        """Return `encode_prompts`' rows as vectors (n, k, d), which `denoise` takes too: of tokens, or of a class.

        k is 1 for a class, or the number of a DiT's blocks if each has an embedding of its own.
        """
        if self.text is not None:
            return condition
        return torch.stack([table[condition] for table in class_tables(self.denoiser).values()], 1)

    def denoise(self, z: Tensor, t: Tensor, condition: Tensor, variance: bool = False) -> Tensor:
        """Return the denoiser's output u (n, c, h, w) for z at time t, (n,) or a scalar, under `encode_prompts`' rows.

        A U-Net with class embeddings of its own (Text2Earth: ground resolution) is given class 0. A transformer that
        learned its variance too outputs the mean and the variance; u is the mean, with `variance` both (n, 2 c, h, w).
        """
        if self.text is None:
            output = call_transformer(self.denoiser, z, t.expand(len(z)).to(z.device), condition)
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

        compute = lambda part: to_uint8(self.pixels(z[part].to(self.device), size)).cpu()  # noqa: E731
        return torch.cat(list(in_batches(compute, len(z), batch, progress)))

    def pixels(self, z: Tensor, size: int = 0) -> Tensor:
        """Return float images (n, 3, h, w), about [-1, 1], of scaled latents, resized to `size` px; differentiable.

        Resized ones are cut to [-1, 1]; those of the latents' own size (0) are not.
        """
        return resize(self.vae.decode(z / self.vae.config.scaling_factor).sample, size)

    def make_scheduler(
        self, name: str, moving: Sequence[str] = (), spacing: str = "base", variance: str = "fixed"
    ) -> Any:
        """Build the base's own scheduler (name "base") or another of diffusers: `schedulers.choose_scheduler`.

        variance: "learned" for DDPM's noise as the base learned it; UserError if it did not.
        """
        if variance == "learned" and (self.text is not None or not self.learned_variance):
            raise UserError("variance=learned: this base did not learn its variance: set variance=fixed")
        return choose_scheduler(self.scheduler, name, moving, spacing, variance)


def denoiser_of(
    model: LatentModel, precision: str, variance: bool = False
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return `model.denoise` under autocast, with float32 output."""

    def network(z: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        with mixed_precision(model.device, precision):
            return model.denoise(z, t, condition, variance).float()

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
    check_schedule(folder / "scheduler", scheduler)

    def load_network(part: str, classes: tuple[str, ...]) -> Any:
        kind = class_name(folder / part)
        if kind not in classes:
            raise UserError(f"{folder}: its {part} is a {kind}; known are {', '.join(classes)}")
        kind = "DiTTransformer2DModel" if kind == "Transformer2DModel" else kind  # a DiT of the hub has the older name
        return load_frozen(getattr(diffusers, kind), folder / part, device, torch_dtype=torch.float32)

    vae = load_network("vae", ("AutoencoderKL", "AutoencoderDC"))
    factor = vae.config.scaling_factor
    if not isinstance(factor, int | float) or not 0 < factor < math.inf:
        raise UserError(f"{folder / 'vae' / 'config.json'}: its scaling_factor is {factor!r}, not a number above 0")
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

    template, readable: prompt and class names, see `class_prompts`; without names no text is read.
    """
    reader = _load_text_reader(name, model_identity(name, find_model(name)))
    if reader and readable:
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
