"""The settings of every method that samples a latent diffusion model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ddbench.config import param
from ddbench.methods.latent_diffusion.prompts import check_template
from ddbench.methods.shared.validation import at_least, rising, shares

PoolChoice = Literal["confident", "doubtful", "group"]
TUNE_WEIGHT = "weight of the loss over time: min-SNR's (min-snr), or the same for every time (even)"


@dataclass(frozen=True)
class DiffusionSettings:
    """Settings of fine-tuning, sampling and polishing."""

    base: str = param(
        "lcybuaa/Text2Earth",
        "base model: a hub id or a pipeline folder of the Stable Diffusion family or of DiT, or tiny (embedded)",
    )
    prompt: str = param("A satellite image of {}", "template; {} becomes the readable class name")
    weights: Literal["lora", "all", "difffit", "none"] = param(
        "lora",
        "trained weights: LoRA layers (lora); every weight of the denoiser (all); biases, norms, class embeddings and "
        "new scales of a DiT (difffit); nothing (none)",
    )
    rank: int = param(4, "rank and alpha of LoRA")
    tune_steps: int = param(20_000, "AdamW steps of fine-tuning")
    tune_class_steps: int = param(0, "steps of fine-tuning for each class, added to tune_steps", added_later=True)
    tune_batch: int = param(8, "images per fine-tuning step")
    tune_rate: float = param(5e-4, "AdamW's learning rate after the warm-up")
    tune_cosine: bool = param(
        False, "let the learning rate fall in a cosine, down to a hundredth at the last step; else it stays constant",
        added_later=True,
    )  # fmt: skip
    tune_warmup: int = param(200, "steps of linear warm-up")
    tune_empty: float = param(
        0.0, "share of prompts replaced by the empty one, which keeps classifier-free guidance working", "0 to 1"
    )
    tune_ema: float = param(0.0, "decay of the weight average that replaces the weights at the end; 0 for none")
    tune_prompts: float = param(
        0.0,
        "AdamW's rate for vectors that each class learns with the denoiser and that are added to its embedded prompts, "
        "after textual inversion (Gal et al., arXiv 2208.01618); 0 for none. For a base conditioned by text, which may "
        "embed names that it does not know alike",
        added_later=True,
    )
    scheduler: str = param("base", "the base's own (base), or a diffusers scheduler by class name")
    steps: int = param(50, "sampling steps")
    spacing: Literal["base", "beta", "leading", "linspace", "trailing"] = param(
        "base",
        "spacing of the sampling times: the base's own (base); close together at much and at little noise, for DEIS, "
        "DPM-Solver++ and UniPC (beta: Lee et al., arXiv 2407.12173); of 50 in 1000 from 980 to 0, or one more where "
        "the base says so (leading), from 999 to 0, as in DiT's public code (linspace), or from 999 to 19 (trailing)",
        added_later=True,
    )
    guidance: float = param(7.5, "classifier-free guidance scale")
    guidance_low: float = param(
        0.0, "guide only at noise times from this share of the schedule on", "0 to 1", added_later=True
    )
    guidance_high: float = param(
        1.0,
        "guide only at noise times up to this share of the schedule; outside the interval the scale is 1 (Kynkäänniemi "
        "et al., arXiv 2404.07724)",
        "0 to 1",
        added_later=True,
    )
    batch: int = param(64, "images per sampling batch; changes speed and memory, not the images")
    precision: Literal["auto", "bf16", "fp16", "fp32"] = param(
        "auto",
        "bf16 or fp16 (autocast), fp32, or auto: bf16 on a GPU. With fp16, for GPUs without bf16, fine-tuning and "
        "polishing stay in fp32: gradients would underflow",
    )

    polish_steps: int = param(
        0, "steps of Adam in which each sampled latent lowers the base's own error (CaO2); 0 for none",
        added_later=True,
    )  # fmt: skip
    polish_rate: float = param(
        6e-4, "rate of these steps: about how far a number of a latent moves in one", added_later=True
    )
    polish_until: float = param(
        0.25, "share of the sampling steps, the last ones, at whose noise the error is taken", "0 to 1",
        added_later=True,
    )  # fmt: skip
    polish_condition: Literal["class", "empty"] = param(
        "class", "condition of the base then: the image's prompt or class (class), or none (empty)", added_later=True
    )

    # constants, no fields (hence not annotated): methods that may change one declare a field of its name
    negative = ""
    tune_decay = 1e-2
    tune_weight = "min-snr"
    tune_average = "warm"
    tune_mirror = False
    guidance_channels = 0
    base_size = 0
    base_classes = ""
    tune_epochs = 0
    tune_parts = 1
    variance = "fixed"
    strength = 1.0
    pull = 0.0
    moving: ClassVar[tuple[str, ...]] = ("pull",)  # settings whose guidances move the latents between steps
    windows: ClassVar[tuple[tuple[str, str], ...]] = ()  # settings: shares of the steps between which a guidance acts
    captioner = "template"

    def __post_init__(self) -> None:
        at_least(self, rank=1, tune_steps=0, tune_batch=1, steps=1, batch=1, tune_warmup=0, tune_decay=0, guidance=0)
        at_least(self, guidance_channels=0, base_size=0, tune_epochs=0, tune_class_steps=0)
        at_least(self, polish_steps=0, tune_prompts=0)
        shares(self, "strength", "tune_empty", "polish_until")
        for window in (("guidance_low", "guidance_high"), *self.windows):
            rising(self, *window)
        if not (self.tune_steps or self.tune_class_steps):
            raise ValueError("tune_steps must be at least 1, or tune_class_steps")
        if not 0 <= self.tune_ema < 1:
            raise ValueError("tune_ema must be at least 0 and below 1")
        if not self.tune_rate > 0:
            raise ValueError("tune_rate must be above 0")
        if not self.polish_rate > 0:
            raise ValueError("polish_rate must be above 0")
        check_template(self.prompt)


@dataclass(frozen=True)
class BaselineSettings(DiffusionSettings):
    """Settings of the baselines alone: size and classes of the base, details of fine-tuning, a pool of draws."""

    base_size: int = param(
        0, "side of the images that the base encodes and samples, resized from and to --size; 0: --size", "px",
        added_later=True,
    )  # fmt: skip
    base_classes: str = param(
        "",
        "numbers of the dataset's classes in a base conditioned by class, which then draws them without fine-tuning: a "
        "TOML file with a line `class = number` for each, or an embedded map: imagenet, imagenet10 (IDC's classes), "
        "imagenette, imagewoof",
        added_later=True,
    )
    tune_epochs: int = param(
        0, "passes over the training images, which replace all other steps; 0 for none", added_later=True
    )
    negative: str = param("", "prompt that guidance leads away from, for a base conditioned by text")
    tune_decay: float = param(1e-2, "AdamW's weight decay")
    tune_weight: Literal["min-snr", "even"] = param("min-snr", TUNE_WEIGHT)
    tune_average: Literal["warm", "constant"] = param(
        "warm",
        "decay of the weight average: rises from 1/10 to tune_ema, so that the base's weights are forgotten (warm), or "
        "is tune_ema from the first step on: the base's weights keep a share of tune_ema ** tune_steps (constant)",
        added_later=True,
    )
    tune_mirror: bool = param(
        False, "mirror each training image with probability 0.5, before it is encoded", added_later=True
    )
    guidance_channels: int = param(
        0,
        "first channels of the latent that classifier-free guidance changes; the others stay as under the prompt alone "
        "(DiT's public code: 3); 0: all",
        added_later=True,
    )
    variance: Literal["fixed", "learned"] = param(
        "fixed",
        "variance of DDPM's noise: the posterior's (fixed), or the one that a DiT learned (learned); its term of the "
        "loss then joins fine-tuning",
        added_later=True,
    )
    pool: int = param(
        1, "draws of the whole set, each with seeds of its own, from which its images are chosen", "1 or more",
        added_later=True,
    )  # fmt: skip
    pool_choice: PoolChoice = param(
        "confident",
        "images chosen from the pool: of each class those that a classifier gets right, the surest first (confident) "
        "or the least sure (doubtful), as in CaO2; or, as S3 of IMS3, the draw of each class that is near the class's "
        "real images and far from the other classes (group)",
        added_later=True,
    )
    pool_network: Literal["convnet", "resnet18"] = param(
        "convnet", "network that chooses, trained on the training images; convnet is that of herding", added_later=True
    )
    pool_epochs: int = param(
        0, "passes of this network over the training images; 0 for herding's 300 steps", added_later=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, pool=1, pool_epochs=0)
