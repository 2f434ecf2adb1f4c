"""The fields of augmentation, and how fields of a training row are declared. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field
from difflib import get_close_matches
from textwrap import fill
from typing import Any

DSA = ("color", "crop", "cutout", "flip", "scale", "rotate")
RANDAUGMENT = (  # the fifteen operations of RandAugment as DeiT has it
    *("rotate", "shear_x", "shear_y", "translate_x", "translate_y"),
    *("brightness", "contrast", "saturation", "sharpness"),
    *("posterize", "solarize", "solarize_add", "autocontrast", "equalize", "invert"),
)
OPERATIONS = (*RANDAUGMENT, "grayscale", "blur", "elastic")
MOST = 100  # operations of an image, draws of a crop: memory is reserved for all of them


def setting(meaning: str, unit: str = "", default: Any = MISSING) -> Any:
    """Declare a field with its meaning in one line and its unit or range; `ddbench show` prints both."""
    return field(default=default, metadata={"help": meaning, "unit": unit})


def added_later(default: Any, meaning: str, unit: str = "") -> Any:
    """Declare a field that was added after rows were published: at its default it is not in a row's identity."""
    return field(default=default, metadata={"help": meaning, "unit": unit, "added_later": True})


@dataclass(frozen=True)
class Augment:
    """Random changes that every image draws anew at every step. The defaults change nothing.

    flip_x, flip_y and transpose at 0.5 are the eight symmetries of a square: an overhead image keeps its class.
    """

    crop_area: tuple[float, float] = setting("range of the crop's share of the image's area", "0 to 1", (1.0, 1.0))
    crop_ratio: tuple[float, float] = setting(
        "range of the crop's width / height, drawn on a log scale", "above 0", (1.0, 1.0)
    )
    flip_x: float = setting("probability of a flip left to right", "0 to 1", 0.0)
    flip_y: float = setting("probability of a flip upside down", "0 to 1", 0.0)
    transpose: float = setting("probability of exchanging rows and columns", "0 to 1", 0.0)
    brightness: float = setting("half-width x of a factor from U[1-x, 1+x]", "0 to 1", 0.0)
    contrast: float = setting("half-width x of a factor from U[1-x, 1+x]", "0 to 1", 0.0)
    saturation: float = setting("half-width x of a factor from U[1-x, 1+x]", "0 to 1", 0.0)
    cutout: float = setting("side of a mid-grey square, as a share of the image's side", "0 to 1", 0.0)
    crop_tries: int = added_later(
        0,
        "draws of a crop until one fits, then the whole image (torchvision's RandomResizedCrop: 10); 0: one draw, each "
        "side cut to the image's",
    )
    dsa: tuple[str, ...] = added_later(
        (), "operations of differentiable Siamese augmentation (evaluators.dsa); each batch draws one"
    )
    cutmix: float = added_later(
        0.0,
        "probability that a square of another image of the batch is pasted in, of an area from U[0, 1], cut at the "
        "border; labels are mixed by the pixels replaced",
        "0 to 1",
    )
    operations: tuple[str, ...] = added_later(
        (), "pool of operations (evaluators.operations) from which every image draws, as in RandAugment; [] for none"
    )
    operations_per_image: int = added_later(1, "operations that an image draws (RandAugment's N)", f"1 to {MOST}")
    operation_chance: float = added_later(1.0, "probability that a drawn operation is applied", "0 to 1")
    magnitude: float = added_later(0.5, "strength of the operations (RandAugment's M / 10)", "0 to 1")
    magnitude_deviation: float = added_later(
        0.0, "standard deviation of each image's magnitude, which is cut to 0..1", "0 or more"
    )
    erasing: float = added_later(
        0.0,
        "probability that a mid-grey rectangle of 2 to 33 % of the area covers a part of the image (random erasing)",
        "0 to 1",
    )
    mixup: float = added_later(
        0.0,
        "probability that an image and its label are blended with another of the batch, by a share from U[0, 1] "
        "(mixup_alpha); never together with cutmix",
        "0 to 1",
    )
    mixup_alpha: float = added_later(
        1.0, "both parameters of the beta distribution of mixup's share; 1: U[0, 1]", "above 0"
    )
    mix_batch: bool = added_later(
        False,
        "one square or share for all images of a batch; cutmix and mixup are then probabilities of batches",
    )
    lighting: float = added_later(
        0.0, "deviation of noise along the principal colours of ImageNet (AlexNet's), added to every image", "0 or more"
    )
    shuffle_pieces: int = added_later(
        0,
        "exchange the columns, then the rows, of so many times so many pieces at random, before the crop (RDED); 0: "
        "not",
        f"0 to {MOST}",
    )

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation", "cutout", "magnitude"):
            if not 0 <= getattr(self, name) <= 1:
                kind = "a strength" if name == "magnitude" else "a half-width of factors or a share"
                raise ValueError(f"{name} {getattr(self, name)} is not in 0..1: {kind}")
        low, high = self.crop_area
        if not 0 < low <= high <= 1 or not 0 < self.crop_ratio[0] <= self.crop_ratio[1]:
            raise ValueError("crop_area must be a range in 0..1, crop_ratio a range above 0")
        for name in ("crop_tries", "shuffle_pieces"):
            if not 0 <= getattr(self, name) <= MOST:
                raise ValueError(f"{name} must be from 0 to {MOST}, not {getattr(self, name)}")
        for name in ("flip_x", "flip_y", "transpose", "cutmix", "mixup", "erasing", "operation_chance"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)} is not in 0..1: a probability")
        if self.cutmix + self.mixup > 1:
            raise ValueError(f"cutmix {self.cutmix} and mixup {self.mixup} add up to more than 1: no image has both")
        if not 0 < self.mixup_alpha < math.inf:
            raise ValueError(f"mixup_alpha must be above 0 and finite, not {self.mixup_alpha}")
        if not 1 <= self.operations_per_image <= MOST:
            raise ValueError(f"operations_per_image must be from 1 to {MOST}, not {self.operations_per_image}")
        for name in ("magnitude_deviation", "lighting"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more and finite, not {getattr(self, name)}")
        for kind, drawn, known in (("operation of dsa", self.dsa, DSA), ("operation", self.operations, OPERATIONS)):
            for name in drawn:
                if name not in known:
                    raise ValueError(unknown_name(kind, name, known))

    @property
    def mixes(self) -> bool:
        """Return True if images and labels of a batch are mixed: labels are then probabilities."""
        return self.cutmix > 0 or self.mixup > 0


def wrap(*paragraphs: str) -> str:
    """Wrap paragraphs at 119 characters, each from a new line: the source of a row."""
    return "\n".join(fill(paragraph, 119, break_on_hyphens=False) for paragraph in paragraphs)


def unknown_name(kind: str, name: str, names: Iterable[str]) -> str:
    """Return an error message for an unknown name, with the nearest known name and all of them."""
    near = get_close_matches(str(name), list(names), n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"unknown {kind} {name!r}{hint} Known: {', '.join(names)}"
