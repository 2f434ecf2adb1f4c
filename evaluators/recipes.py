"""The fields of a training row: augmentation, optimizer, steps. No torch.

Any code may build rows: methods train their teachers and embeddings with rows of their own. The published rows, which
rank methods, are in `evaluators.protocols`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from evaluators.fields import DSA, OPERATIONS, RANDAUGMENT, Augment, added_later, setting, unknown_name

__all__ = ("DSA", "OPERATIONS", "RANDAUGMENT", "Augment", "Protocol", "Recipe", "unknown_name")
OPTIMIZERS = ("sgd", "adamw", "adam")
INITS = ("scratch", "imagenet")
LABELS = ("own", "hard", "views")
NORMALISATIONS = ("constant", "data", "zca", "cifar10", "cifar100", "imagenet")
PRECISIONS = ("auto", "fp32")
STATISTICS = ("running", "batch")
RANGES = {  # of Recipe's fields, both ends included; every value is finite
    "weight_decay": (0, math.inf),
    "momentum": (0, 0.9999999),
    "beta2": (0, 0.9999999),
    "clip": (0, math.inf),
    "label_smoothing": (0, 1),
    "gamma": (0, 1),
    "temperature": (0, math.inf),
    "cosine_share": (0, 1),
}


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
        "(Hinton et al. 2015, arXiv:1503.02531)",
    )
    temperature_squared: bool = added_later(
        False, "multiply that divergence by the temperature's square, as Hinton does"
    )
    normalise: str = added_later(
        "constant",
        "how a student from scratch normalises images: constant (mean 0.5, deviation 0.25), data (statistics of the "
        "real training images), zca (whitening, by the set's matrix if it has one: evaluators.normalisation), or the "
        "literature's constants of cifar10, cifar100, imagenet",
    )
    learned_rate: bool = added_later(False, "the learning rate that the set carries (MTT) takes the place of lr")
    new_optimizer: bool = added_later(False, "make a new optimizer at each milestone: momentum starts at 0 again")
    precision: str = added_later(
        "auto", "auto: fp32 on a CPU, bf16 autocast on a GPU; fp32: on a GPU too, without TF32"
    )

    epochs_by_ipc: tuple[tuple[int, int], ...] = added_later(
        (),
        "pairs (images per class, epochs), rising: the first pair with at least as many images per class as the set "
        "gives the epochs; `epochs` for larger sets",
    )
    epochs_by_classes: tuple[tuple[int, int, int], ...] = added_later(
        (),
        "triples (classes, images per class, epochs), which replace epochs_by_ipc for sets of exactly so many classes: "
        "the first with at least as many images per class as the set, or 0 images, gives the epochs",
    )
    batch_by_ipc: tuple[tuple[int, int], ...] = added_later(
        (), "pairs (images per class, batch), read as epochs_by_ipc"
    )
    batch_by_classes: tuple[tuple[int, int, int], ...] = added_later(
        (), "triples (classes, images per class, batch), read as epochs_by_classes"
    )
    cosine_share: float = added_later(
        1.0, "share of half a cosine along which the rate falls: 1 to 0, 0.5 to half of lr", "0 to 1"
    )
    tests: int = added_later(
        0,
        "tests on the test images during training, evenly spaced; the best accuracy is stored as best_on_test and used "
        "nowhere",
        "0 or more",
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
        for name, unit in (("epochs_by_ipc", "epochs"), ("batch_by_ipc", "batch")):
            pairs = getattr(self, name)
            limits = [limit for limit, _ in pairs]
            if limits != sorted({*limits}) or any(min(pair) < 1 for pair in pairs):
                raise ValueError(f"{name} must be pairs (images per class, {unit}) of 1 or more, rising")
        for name in ("epochs_by_classes", "batch_by_classes"):
            if any(classes < 2 or ipc < 0 or value < 1 for classes, ipc, value in getattr(self, name)):
                raise ValueError(f"{name} must be triples (classes, images per class or 0, value of 1 or more)")
        if self.tests < 0:
            raise ValueError(f"tests must be 0 or more, not {self.tests}")
        if self.temperature and self.label_smoothing:
            raise ValueError("label_smoothing must be 0 with a temperature: it belongs to cross-entropy")

    def for_set(self, images: int, classes: int | None) -> Recipe:
        """Return the recipe with the epochs and the batch of a set of `images`, and without the tables of them.

        Raises ValueError if they depend on the classes, and the number of classes is not given.
        """
        tables: dict[str, Any] = {f"{name}_by_{of}": () for name in ("epochs", "batch") for of in ("ipc", "classes")}
        if not any(getattr(self, name) for name in tables):
            return self
        if classes is None:
            raise ValueError("epochs or batch depend on the images per class: give the number of classes")
        for name in ("epochs", "batch"):
            triples = [(ipc, value) for n, ipc, value in getattr(self, f"{name}_by_classes") if n == classes]
            pairs = triples or getattr(self, f"{name}_by_ipc")
            fitting = (value for ipc, value in pairs if ipc == 0 or images <= ipc * classes)
            tables[name] = next(fitting, getattr(self, name))
        return replace(self, **tables)

    def steps(self, images: int, classes: int | None = None) -> int:
        """Return the number of optimizer steps for a set of `images`.

        That is `epochs` passes, at least min_steps, at most max_steps; with whole_epochs exactly `epochs` passes.
        classes: needed if epochs or batch depend on the images per class (`for_set`).
        """
        recipe = self.for_set(images, classes)
        if recipe.whole_epochs:
            return recipe.epochs * -(-images // recipe.batch)
        passes = -(-recipe.epochs * images // recipe.batch)
        return max(self.min_steps, min(self.max_steps or passes, passes))

    def views(self, images: int, classes: int) -> int:
        """Return the number of augmented images that a training on a set of `images` sees."""
        recipe = self.for_set(images, classes)
        return recipe.epochs * images if recipe.whole_epochs else recipe.steps(images) * recipe.batch

    def with_steps(self, steps: int, images: int, classes: int | None = None) -> Recipe:
        """Return the recipe with `steps` optimizer steps on a set of `images`; its schedule ends with the last one.

        With whole_epochs it has the nearest number of passes, at least one.
        """
        if self.steps(images, classes) == steps:
            return self
        recipe = self.for_set(images, classes)
        if recipe.whole_epochs:
            return replace(recipe, epochs=max(1, round(steps / -(-images // recipe.batch))))
        return replace(recipe, min_steps=steps, max_steps=steps)

    def longer(self, times: int) -> Recipe:
        """Multiply the passes, and both bounds of the steps, by `times`."""
        values: dict[str, Any] = {n: times * getattr(self, n) for n in ("epochs", "min_steps", "max_steps")}
        for table in ("epochs_by_ipc", "epochs_by_classes"):
            values[table] = tuple((*limits, times * epochs) for *limits, epochs in getattr(self, table))
        return replace(self, **values)


@dataclass(frozen=True)
class Protocol:
    """A named row of recipes, one per student.

    name, version: "quick" and 1 of quick@1.
    recipes: by student.
    source: origin of the numbers, as text.
    init: "scratch", or "imagenet" for torchvision's weights.
    teacher: (student, protocol) of the network that gives soft labels; None for none.
    labels: "own" for a set's own soft labels if it has some, else a teacher's of each image, else hard labels; "hard"
        for hard labels always; "views" for the teacher's labels of every augmented view always.
    evaluates: True if it evaluates distilled sets; False if it only trains networks on real images.
    size: px, side of the images that it was published for, 0 for any.
    float_images: True to train on a set's float images if it has some; False for its 8-bit images always.
    image_weights: True to weigh each image's loss by a set's weights if it has some; False for equal weights always.
    teacher_statistics: of the batch norms of a teacher of views: "running" for those of its training, "batch" for
        those of the views of a step.
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
    teacher_statistics: str = "running"
    image_weights: bool = False

    def __post_init__(self) -> None:
        choices = {"init": INITS, "labels": LABELS, "teacher_statistics": STATISTICS}
        for kind, values in choices.items():
            if (value := getattr(self, kind)) not in values:
                raise ValueError(unknown_name(kind, value, values))
        if self.teacher_statistics == "batch" and self.labels != "views":
            raise ValueError('teacher_statistics = "batch" needs labels = "views"; for other labels set "running"')
        if self.image_weights and self.labels == "views":
            raise ValueError('image_weights: the labels of "views" have no weights; for labels = "own" they have')
        if self.init == "imagenet" and any(recipe.normalise != "constant" for recipe in self.recipes.values()):
            raise ValueError("ImageNet weights have a normalisation of their own: leave out normalise")
        if self.teacher and self.labels == "hard":
            raise ValueError('a teacher gives soft labels: with labels = "hard", leave it out')
        if self.labels == "views" and not (self.teacher and all(r.temperature for r in self.recipes.values())):
            raise ValueError('labels = "views" needs a teacher, and a temperature in every recipe')

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
        row |= {"teacher_statistics": self.teacher_statistics} if self.teacher_statistics != "running" else {}
        row |= {"image_weights": True} if self.image_weights else {}
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
