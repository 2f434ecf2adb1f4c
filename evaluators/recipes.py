"""What a training row is made of: augmentation, optimizer, steps. No torch.

Anybody may write rows: methods train their teachers and embeddings with rows of their own. The published ones, which
rank methods, are in `evaluators.protocols`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any

OPTIMIZERS = ("sgd", "adamw", "adam")
INITS = ("scratch", "imagenet")
LABELS = ("own", "hard")
RANGES = {  # of Recipe's fields
    "weight_decay": (0, math.inf), "momentum": (0, 0.9999999), "beta2": (0, 0.9999999), "clip": (0, math.inf),
    "label_smoothing": (0, 1), "gamma": (0, 1), "temperature": (0, math.inf),
}  # fmt: skip
DSA = ("color", "crop", "cutout", "flip", "scale", "rotate")


def later(default: Any) -> Any:
    """A field that came after rows were published: while it is at its default it is not in a row's identity."""
    return field(default=default, metadata={"later": True})


@dataclass(frozen=True)
class Augment:
    """What is drawn anew for every image at every step. The defaults change nothing.

    crop_area: range of the crop's share of the image's area. crop_ratio: range of its width to height, drawn on a log
    scale. crop_tries: 0 cuts a side that is longer than the image's; k draws again, k times at most, and then takes the
    whole image (torchvision's RandomResizedCrop has k = 10). flip_x, flip_y, transpose: probabilities; all three at 0.5
    are the eight symmetries of a square, which an overhead picture's class does not depend on. brightness, contrast,
    saturation: half-widths x of factors from U[1-x, 1+x]. cutout: side of a square set to mid-grey, as a share of the
    image's side. dsa: operations of differentiable Siamese augmentation (evaluators.dsa), of which each batch draws
    one. cutmix: probability that a square of another image of the batch is pasted in; its share of the area, from
    U[0, 1], is cut at the border, and what is left of it is the share of that image's label.
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
    crop_tries: int = later(0)
    dsa: tuple[str, ...] = later(())
    cutmix: float = later(0.0)

    def __post_init__(self) -> None:
        low, high = self.crop_area
        widths = {name: getattr(self, name) for name in ("brightness", "contrast", "saturation", "cutout")}
        if off := [f"{name} {value}" for name, value in widths.items() if not 0 <= value <= 1]:
            raise ValueError(f"{', '.join(off)}: half-widths of factors and the side of a cutout are in 0..1")
        shares = (self.flip_x, self.flip_y, self.transpose, self.cutmix)
        if not 0 < low <= high <= 1 or not 0 < self.crop_ratio[0] <= self.crop_ratio[1] or self.crop_tries < 0:
            raise ValueError("crop_area is a range in 0..1, crop_ratio one above 0, crop_tries at least 0")
        if not all(0 <= share <= 1 for share in shares):
            raise ValueError("flip_x, flip_y, transpose and cutmix are probabilities, 0..1")
        for name in self.dsa:
            if name not in DSA:
                raise ValueError(unknown("operation of dsa", name, DSA))


@dataclass(frozen=True)
class Recipe:
    """How one student is trained.

    optimizer: "sgd", "adamw", or "adam" (whose decay is part of the gradient). lr: the highest learning rate.
    weight_decay: on weights of two or more dimensions. batch: images per step. epochs: passes over the set, see
    `steps`. min_steps, max_steps: bounds of the steps (0: no upper one). momentum: of SGD, or Adam's beta1. beta2:
    Adam's. warmup: share of the steps over which the learning rate rises linearly from 0 to lr; then it falls to 0
    along half a cosine, unless there are milestones. clip: largest gradient norm, 0 for none. label_smoothing: in
    cross-entropy with hard labels; soft ones are learned as they are. augment: what is drawn anew for every image.
    decay_all: weight decay also on biases and norms.
    whole_epochs: an epoch is a permutation cut into batches, of which the last is what is left; else batches are cut
    from an endless chain of permutations, and every step has exactly as many, also when the set is smaller than that.
    milestones: shares of all steps at which the learning rate is multiplied by gamma instead of following the cosine.
    gamma: the factor at each milestone. nesterov: Nesterov's momentum, of SGD. temperature: 0 for cross-entropy; else
    the Kullback-Leibler divergence of targets and predictions, both softened by it, as knowledge distillation has it
    (Hinton et al. 2015, arXiv:1503.02531), without its factor of T squared.
    """

    optimizer: str
    lr: float
    weight_decay: float
    batch: int
    epochs: int
    min_steps: int = 1
    max_steps: int = 0
    momentum: float = 0.9
    beta2: float = 0.999
    warmup: float = 0.1
    clip: float = 0.0
    label_smoothing: float = 0.0
    augment: Augment = Augment()
    decay_all: bool = later(False)
    whole_epochs: bool = later(False)
    milestones: tuple[float, ...] = later(())
    gamma: float = later(0.1)
    nesterov: bool = later(True)
    temperature: float = later(0.0)

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"unknown optimizer {self.optimizer!r}: {' or '.join(OPTIMIZERS)}")
        if min(self.batch, self.epochs) < 1:
            raise ValueError(f"batch and epochs are at least 1, not {self.batch} and {self.epochs}")
        rising = (0.0, *self.milestones, 1.0)
        if not 0 < self.lr < math.inf or not 0 <= self.warmup < 1 or sorted({*rising}) != list(rising):
            raise ValueError("lr is above 0, warmup a share below 1, milestones are rising shares between 0 and 1")
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not (low <= value <= high and math.isfinite(value)):
                raise ValueError(f"{name} {value} is not in {low}..{high}")
        if self.min_steps < 1 or self.max_steps < 0 or (self.max_steps and self.max_steps < self.min_steps):
            raise ValueError(f"min_steps {self.min_steps} and max_steps {self.max_steps} (0: no limit) leave no steps")
        if self.temperature and self.label_smoothing:
            raise ValueError("label_smoothing is of cross-entropy: with a temperature it must be 0")

    def steps(self, images: int) -> int:
        """Optimizer steps for a set of `images`: `epochs` passes, at least min_steps, at most max_steps (0: no limit).

        With whole_epochs exactly `epochs` passes.
        """
        if self.whole_epochs:
            return self.epochs * -(-images // self.batch)
        passes = -(-self.epochs * images // self.batch)
        return max(self.min_steps, min(self.max_steps or passes, passes))

    def longer(self, times: int) -> Recipe:
        """The same with so many times the passes and the bounds of the steps."""
        return replace(self, **{name: times * getattr(self, name) for name in ("epochs", "min_steps", "max_steps")})


@dataclass(frozen=True)
class Protocol:
    """A named row of recipes, one per student.

    init: "scratch", or "imagenet" for torchvision's weights. source: where the numbers are from. teacher: (student,
    protocol) of the network that gives a set without soft labels its soft labels; None for none. labels: "own" for a
    set's own soft labels where it has some, "hard" for the classes' alone. judges: whether it is for judging distilled
    sets; one that is not trains networks on real images only. size: pixels of the images that it was published with, 0
    for any.
    """

    name: str
    version: int
    recipes: Mapping[str, Recipe]
    source: str
    init: str = "scratch"
    teacher: tuple[str, str] | None = None
    labels: str = "own"
    judges: bool = True
    size: int = 0

    def __post_init__(self) -> None:
        for kind, word, known in (("init", self.init, INITS), ("labels", self.labels, LABELS)):
            if word not in known:
                raise ValueError(unknown(kind, word, known))
        if self.teacher and self.labels == "hard":
            raise ValueError('a teacher gives soft labels: labels = "hard" has no use for one')

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
        row = {"protocol": self.title, "init": self.init, "student": student, "recipe": _row(self.recipe(student))}
        row |= {"teacher": self.teacher} if self.teacher else {}
        row |= {"labels": self.labels} if self.labels != "own" else {}
        text = json.dumps(row, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


def _row(record: Recipe | Augment) -> dict[str, Any]:
    """Fields by name, without the later ones that change nothing: a published row's identity must stay what it was."""
    values = {f.name: getattr(record, f.name) for f in fields(record) if not _idle(record, f)}
    return {name: _row(value) if isinstance(value, Augment) else value for name, value in values.items()}


def _idle(record: Recipe | Augment, one: Field[Any]) -> bool:
    return "later" in one.metadata and getattr(record, one.name) == one.default


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """What to say about a name that is not known: the nearest, and all."""
    near = get_close_matches(str(name), list(known), n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"unknown {kind} {name!r}{hint} Known: {', '.join(known)}"
