"""The fields of a training row: augmentation, optimizer, steps. No torch.

Any code may build rows: methods train their teachers and embeddings with rows of their own. The published rows, which
rank methods, are in `evaluators.protocols`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any

OPTIMIZERS = ("sgd", "adamw", "adam")
INITS = ("scratch", "imagenet")
LABELS = ("own", "hard")
NORMALISATIONS = ("constant", "data", "zca")
PRECISIONS = ("auto", "fp32")
RANGES = {  # of Recipe's fields, both ends included; every value is finite
    "weight_decay": (0, math.inf),
    "momentum": (0, 0.9999999),
    "beta2": (0, 0.9999999),
    "clip": (0, math.inf),
    "label_smoothing": (0, 1),
    "gamma": (0, 1),
    "temperature": (0, math.inf),
}
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
        "probability that an image and its label are blended with another of the batch, by a share from U[0, 1]; never "
        "together with cutmix",
        "0 to 1",
    )

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation", "cutout", "magnitude"):
            if not 0 <= getattr(self, name) <= 1:
                kind = "a strength" if name == "magnitude" else "a half-width of factors or a share"
                raise ValueError(f"{name} {getattr(self, name)} is not in 0..1: {kind}")
        low, high = self.crop_area
        if not 0 < low <= high <= 1 or not 0 < self.crop_ratio[0] <= self.crop_ratio[1]:
            raise ValueError("crop_area must be a range in 0..1, crop_ratio a range above 0")
        if not 0 <= self.crop_tries <= MOST:
            raise ValueError(f"crop_tries must be from 0 to {MOST}, not {self.crop_tries}")
        for name in ("flip_x", "flip_y", "transpose", "cutmix", "mixup", "erasing", "operation_chance"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)} is not in 0..1: a probability")
        if self.cutmix + self.mixup > 1:
            raise ValueError(f"cutmix {self.cutmix} and mixup {self.mixup} add up to more than 1: no image has both")
        if not 1 <= self.operations_per_image <= MOST:
            raise ValueError(f"operations_per_image must be from 1 to {MOST}, not {self.operations_per_image}")
        if not 0 <= self.magnitude_deviation < math.inf:
            raise ValueError(f"magnitude_deviation must be 0 or more and finite, not {self.magnitude_deviation}")
        for kind, drawn, known in (("operation of dsa", self.dsa, DSA), ("operation", self.operations, OPERATIONS)):
            for name in drawn:
                if name not in known:
                    raise ValueError(unknown_name(kind, name, known))

    @property
    def mixes(self) -> bool:
        """Return True if images and labels of a batch are mixed: labels are then probabilities."""
        return self.cutmix > 0 or self.mixup > 0


@dataclass(frozen=True)
class Recipe:
    """The training of one student."""

    optimizer: str = setting("sgd, adamw, or adam, whose weight decay is part of the gradient")
    lr: float = setting("highest learning rate", "above 0")
    weight_decay: float = setting("weight decay of weights with two or more dimensions", "0 or more")
    batch: int = setting("images per step", "1 or more")
    epochs: int = setting("passes over the set, within min_steps and max_steps", "1 or more")
    min_steps: int = setting("least number of steps", "1 or more", 1)
    max_steps: int = setting("largest number of steps, 0 for no limit", "", 0)
    momentum: float = setting("SGD's momentum, or Adam's beta1", "0 to 1", 0.9)
    beta2: float = setting("Adam's beta2", "0 to 1", 0.999)
    warmup: float = setting(
        "share of the steps in which the learning rate rises linearly from 0 to lr; then it falls to 0 along half a "
        "cosine, unless there are milestones",
        "0 to 1",
        0.1,
    )
    clip: float = setting("largest gradient norm, 0 for none", "", 0.0)
    label_smoothing: float = setting("label smoothing of cross-entropy with hard labels", "0 to 1", 0.0)
    augment: Augment = setting("random changes of every image", "", Augment())  # noqa: RUF009  it is frozen
    decay_all: bool = added_later(False, "weight decay also of biases and norms")
    whole_epochs: bool = added_later(
        False,
        "True cuts each permutation of the set into batches, the last of which may be smaller, and takes exactly "
        "`epochs` passes; False cuts equal batches from an endless chain of permutations",
    )
    milestones: tuple[float, ...] = added_later(
        (), "shares of all steps at which the learning rate is multiplied by gamma; they replace the cosine", "0 to 1"
    )
    gamma: float = added_later(0.1, "factor at each milestone", "0 to 1")
    nesterov: bool = added_later(True, "Nesterov's momentum, for SGD")
    temperature: float = added_later(
        0.0,
        "0: cross-entropy; else the Kullback-Leibler divergence of targets and predictions, both softened by it "
        "(Hinton et al. 2015, arXiv:1503.02531), without the factor of its square",
    )
    normalise: str = added_later(
        "constant",
        "how a student from scratch normalises images: constant (mean 0.5, deviation 0.25), data (statistics of the "
        "real training images), or zca (whitening, by the set's matrix if it has one: evaluators.normalisation)",
    )
    learned_rate: bool = added_later(False, "the learning rate that the set carries (MTT) takes the place of lr")
    new_optimizer: bool = added_later(False, "make a new optimizer at each milestone: momentum starts at 0 again")
    precision: str = added_later(
        "auto", "auto: fp32 on a CPU, bf16 autocast on a GPU; fp32: on a GPU too, without TF32"
    )

    def __post_init__(self) -> None:
        choices = {"optimizer": OPTIMIZERS, "normalise": NORMALISATIONS, "precision": PRECISIONS}
        for name, values in choices.items():
            if getattr(self, name) not in values:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}: {' or '.join(values)}")
        if min(self.batch, self.epochs) < 1:
            raise ValueError(f"batch and epochs must be at least 1, not {self.batch} and {self.epochs}")
        rising = (0.0, *self.milestones, 1.0)
        if not 0 < self.lr < math.inf or not 0 <= self.warmup < 1 or sorted({*rising}) != list(rising):
            raise ValueError("lr must be above 0, warmup a share below 1, milestones increasing shares between 0 and 1")
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not (low <= value <= high and math.isfinite(value)):
                raise ValueError(f"{name} {value} is not in {low}..{high}")
        if self.min_steps < 1 or self.max_steps < 0 or (self.max_steps and self.max_steps < self.min_steps):
            raise ValueError(f"min_steps {self.min_steps} and max_steps {self.max_steps} (0: no limit) leave no steps")
        if self.temperature and self.label_smoothing:
            raise ValueError("label_smoothing must be 0 with a temperature: it belongs to cross-entropy")

    def steps(self, images: int) -> int:
        """Return the number of optimizer steps for a set of `images`.

        That is `epochs` passes, at least min_steps, at most max_steps; with whole_epochs exactly `epochs` passes.
        """
        if self.whole_epochs:
            return self.epochs * -(-images // self.batch)
        passes = -(-self.epochs * images // self.batch)
        return max(self.min_steps, min(self.max_steps or passes, passes))

    def longer(self, times: int) -> Recipe:
        """Multiply the passes, and both bounds of the steps, by `times`."""
        return replace(self, **{name: times * getattr(self, name) for name in ("epochs", "min_steps", "max_steps")})


@dataclass(frozen=True)
class Protocol:
    """A named row of recipes, one per student.

    name, version: "quick" and 1 of quick@1.
    recipes: by student.
    source: origin of the numbers, as text.
    init: "scratch", or "imagenet" for torchvision's weights.
    teacher: (student, protocol) of the network that gives a set without soft labels its soft labels; None for none.
    labels: "own" for a set's own soft labels if it has some, "hard" for hard labels always.
    evaluates: True if it evaluates distilled sets; False if it only trains networks on real images.
    size: px, side of the images that it was published for, 0 for any.
    float_images: True to train on a set's float images if it has some; False for its 8-bit images always.
    """

    name: str
    version: int
    recipes: Mapping[str, Recipe]
    source: str
    init: str = "scratch"
    teacher: tuple[str, str] | None = None
    labels: str = "own"
    evaluates: bool = True
    size: int = 0
    float_images: bool = False

    def __post_init__(self) -> None:
        for kind, value, values in (("init", self.init, INITS), ("labels", self.labels, LABELS)):
            if value not in values:
                raise ValueError(unknown_name(kind, value, values))
        if self.init == "imagenet" and any(recipe.normalise != "constant" for recipe in self.recipes.values()):
            raise ValueError("ImageNet weights have a normalisation of their own: leave out normalise")
        if self.teacher and self.labels == "hard":
            raise ValueError('a teacher gives soft labels: with labels = "hard", leave it out')

    @property
    def title(self) -> str:
        """Name and version, as users write it: "quick@1"."""
        return f"{self.name}@{self.version}"

    def recipe(self, student: str) -> Recipe:
        """Return the student's recipe; raises ValueError naming the nearest and all students that have one."""
        if student not in self.recipes:
            raise ValueError(unknown_name(f"student of protocol {self.title}", student, self.recipes))
        return self.recipes[student]

    def at_rate(self, student: str, rate: float | None) -> Protocol:
        """Return the protocol with the learned `rate` of a set in place of the student's lr, if its recipe wants that.

        Raises ValueError if the set has no rate, or one that is not above 0.
        """
        recipe = self.recipe(student)
        if not recipe.learned_rate:
            return self
        if rate is None:
            raise ValueError(
                f"{self.title} trains at the learning rate that a distilled set carries, and this set has none. Only "
                "a method that learns it, such as mtt, stores one; try another protocol, such as dc"
            )
        if not rate > 0:
            raise ValueError(f"{self.title} trains at the set's learned rate, which is {rate}: it must be above 0")
        return replace(self, recipes={student: replace(recipe, lr=rate, learned_rate=False)})

    def identity(self, student: str) -> str:
        """Compute the SHA-256 (hex) of everything in the student's row that can change a result; results record it."""
        recipe = _identity_fields(self.recipe(student))
        row: dict[str, Any] = {"protocol": self.title, "init": self.init, "student": student, "recipe": recipe}
        row |= {"teacher": self.teacher} if self.teacher else {}
        row |= {"labels": self.labels} if self.labels != "own" else {}
        row |= {"float_images": True} if self.float_images else {}
        text = json.dumps(row, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


def _identity_fields(record: Recipe | Augment) -> dict[str, Any]:
    """Return fields by name, without fields that were added later and are at their default.

    So the identity of a published row never changes.
    """
    values = {}
    for f in fields(record):
        value = getattr(record, f.name)
        if "added_later" not in f.metadata or value != f.default:
            values[f.name] = _identity_fields(value) if isinstance(value, Augment) else value
    return values


def unknown_name(kind: str, name: str, names: Iterable[str]) -> str:
    """Return an error message for an unknown name, with the nearest known name and all of them."""
    near = get_close_matches(str(name), list(names), n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"unknown {kind} {name!r}{hint} Known: {', '.join(names)}"
