"""What a training row is made of: augmentation, optimizer, steps. No torch.

Anybody may write rows: methods train their teachers and embeddings with rows of their own. The published ones, which
rank methods, are in `evaluators.protocols`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches


@dataclass(frozen=True)
class Augment:
    """What is drawn anew for every image at every step. The defaults change nothing.

    crop_area: range of the crop's share of the image's area. crop_ratio: range of its width to height, drawn on a log
    scale. flip_x, flip_y, transpose: probabilities; all three at 0.5 are the eight symmetries of a square, which an
    overhead picture's class does not depend on. brightness, contrast, saturation: half-widths x of factors from
    U[1-x, 1+x]. cutout: side of a square set to mid-grey, as a share of the image's side.
    """

    crop_area: tuple[float, float] = (1.0, 1.0)
    crop_ratio: tuple[float, float] = (1.0, 1.0)
    flip_x: float = 0.0
    flip_y: float = 0.0
    transpose: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    cutout: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """How one student is trained.

    optimizer: "sgd" (Nesterov when momentum > 0) or "adamw" (momentum is beta1, beta2 its partner). weight_decay: on
    weights of two or more dimensions only. batch: images per step; batches are cut from an endless chain of
    permutations, so every step has exactly as many, also when the set is smaller than that. epochs, min_steps,
    max_steps: see `steps`. warmup: share of the steps over which the learning rate rises linearly from 0 to `lr`; then
    it falls to 0 along half a cosine. clip: largest gradient norm, 0 for none. label_smoothing: in cross-entropy.
    """

    optimizer: str
    lr: float
    weight_decay: float
    batch: int
    epochs: int
    min_steps: int
    max_steps: int
    momentum: float = 0.9
    beta2: float = 0.999
    warmup: float = 0.1
    clip: float = 0.0
    label_smoothing: float = 0.0
    augment: Augment = Augment()

    def __post_init__(self) -> None:
        if self.optimizer not in ("sgd", "adamw"):
            raise ValueError(f"unknown optimizer {self.optimizer!r}: sgd or adamw")

    def steps(self, images: int) -> int:
        """Optimizer steps for a set of `images`: `epochs` passes, kept between min_steps and max_steps."""
        return max(self.min_steps, min(self.max_steps, -(-self.epochs * images // self.batch)))


@dataclass(frozen=True)
class Protocol:
    """A named row of recipes, one per student. init: "scratch", or what the weights start from. source: where from."""

    name: str
    version: int
    recipes: Mapping[str, Recipe]
    source: str
    init: str = "scratch"

    @property
    def title(self) -> str:
        """Name and version, as users write it: "quick@1"."""
        return f"{self.name}@{self.version}"

    def recipe(self, student: str) -> Recipe:
        """The student's recipe; ValueError naming the nearest and all students that have one."""
        if student not in self.recipes:
            raise ValueError(unknown(f"student of protocol {self.title}", student, self.recipes))
        return self.recipes[student]

    def identity(self, student: str) -> str:
        """SHA-256 (hex) of everything in the student's row that can move a number: goes into every result."""
        row = {"protocol": self.title, "init": self.init, "student": student, "recipe": asdict(self.recipe(student))}
        text = json.dumps(row, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


def unknown(kind: str, name: str, known: Mapping[str, object]) -> str:
    """What to say about a name that is not known: the nearest, and all."""
    near = get_close_matches(str(name), known, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"unknown {kind} {name!r}{hint} Known: {', '.join(known)}"
