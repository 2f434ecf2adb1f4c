"""Real images of both sides in one embedding, and the two attacks of an audit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddbench.runner.measured_run import MeasuredRun, features_title, find_extractor, real_features
from ddbench.runner.split_copies import SplitCopies
from evaluators.audit import (
    Attack,
    Distances,
    Floats,
    Mask,
    Rows,
    Side,
    attack,
    distance_ratio,
    distances,
    highest_cosines,
    unit_length,
)
from evaluators.augment import resize

PIXELS = "pixels"  # an embedding without weights
THUMBNAIL = 32  # px of the images that it compares
NO_ROWS: Rows = np.array([], dtype=np.int64)


def embedding_title(source: str) -> str:
    """Return an embedding without ambiguity: "pixels", or as `features_title`. Raises UserError."""
    return source if source == PIXELS else features_title(source)


def pixel_features(images: Tensor) -> Floats:
    """Return colours less the image's mean colour, at 32 px, float32 (n, 3072): their cosine is a correlation.

    `ddbench data verify` finds near images by the same correlation.
    """
    small = torch.cat([resize(part, THUMBNAIL) for part in images.split(1024)])
    pixels: Floats = (small - small.mean((2, 3), keepdim=True)).flatten(1).numpy()
    return pixels


@dataclass(frozen=True)
class Embedding:
    """Real images in one embedding.

    read: images uint8 (n, 3, h, w) -> features, float32 (n, d) of length 1.
    train, test: both sides.
    kept_train, kept_test: whether an image has no copy on the other side, bool (n,).
    classes: names in label order.
    weights: identity of the network; empty for pixels.
    trained: whether it was trained on the training images.
    """

    read: Callable[[Tensor], Floats]
    train: Side
    test: Side
    kept_train: Mask
    kept_test: Mask
    classes: tuple[str, ...]
    weights: str = ""
    trained: bool = False

    @classmethod
    def of(cls, run: MeasuredRun, source: str, copies: SplitCopies) -> Embedding:
        """Read the real images of a run. source: of `embedding_title`. Raises UserError for missing weights."""
        data = run.data
        kept, classes = (~copies.train, ~copies.test), data.train.classes
        if source == PIXELS:
            train, test = (
                Side(unit_length(pixel_features(s.images)), s.labels.numpy()) for s in (data.train, data.test)
            )
            return cls(lambda images: unit_length(pixel_features(images)), train, test, *kept, classes)
        extractor = find_extractor(run, source)
        train, test = (
            Side(unit_length(real_features(run, source, extractor, name).numpy()), side.labels.numpy())
            for name, side in (("train", data.train), ("test", data.test))
        )
        trained = not source.endswith("/imagenet")
        read = lambda images: unit_length(extractor.read(images, run.device).numpy())  # noqa: E731
        return cls(read, train, test, *kept, classes, extractor.weights, trained)

    def sides(self, left_out: Rows = NO_ROWS) -> tuple[Side, Side]:
        """Return the kept images of both sides. left_out: rows of test images that are in the set themselves."""
        kept_test = self.kept_test.copy()
        kept_test[left_out] = False
        return self.train.rows(self.kept_train), self.test.rows(kept_test)

    def use(self, distilled: Side, used: Mask, baseline: float = 0.5) -> Attack | None:
        """Attack the use of the training images that `used`, bool (n,), marks. baseline: of `attack`."""
        scores, _ = highest_cosines(self.train, distilled)
        return attack(scores, used, self.train.labels, self.classes, baseline)

    def membership(self, distilled: Side, left_out: Rows = NO_ROWS, baseline: float = 0.5) -> Attack | None:
        """Attack membership in the training split. left_out: of `sides`. baseline: of `attack`."""
        train, test = self.sides(left_out)
        scores = np.concatenate([highest_cosines(side, distilled)[0] for side in (train, test)])
        is_member = np.arange(len(scores)) < len(train.labels)
        return attack(scores, is_member, np.concatenate([train.labels, test.labels]), self.classes, baseline)

    def distances(
        self, distilled: Side, background: Floats, rng: np.random.Generator, left_out: Rows = NO_ROWS
    ) -> Distances:
        """Return the distances of a set. background: `background_cosines` of the training images."""
        return distances(distilled, self.train, background, distance_ratio(distilled, *self.sides(left_out), rng))
