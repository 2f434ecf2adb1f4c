"""Copies of images on both sides of a split, found among the packed images: a stage of each dataset and size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ddbench.datasets.info import Split
from ddbench.datasets.verification import duplicates, trace
from ddbench.types import Dataset, ImageSet
from ddbench.utils.files import digest, make_once, read_json, write_json
from ddbench.utils.images import to_array
from ddbench.utils.progress import progress_bar

VERSION = 1  # of the stage's content


@dataclass(frozen=True)
class SplitCopies:
    """Pairs of one training and one test image.

    exact, near: pairs of equal pixels, and of near images (`verification.duplicates`).
    train, test: whether each image has a copy on the other side, bool (n,).
    """

    exact: int
    near: int
    train: np.ndarray
    test: np.ndarray


def split_copies(data: Dataset, train_id: str, shared: Path, quiet: bool) -> SplitCopies:
    """Return the copies across the split of a dataset, found once. train_id: identity of its training images."""

    def find(folder: Path) -> None:
        names, traces = [*data.train.names, *data.test.names], {}
        images = (
            image for side in (data.train, data.test) for part in side.images.split(256) for image in to_array(part)
        )
        bar = progress_bar(images, desc="hashing images", total=len(names), hidden=quiet)
        for name, image in zip(names, bar, strict=True):
            traces[name] = trace(Image.fromarray(image), image.tobytes())
        pairs = duplicates(traces, Split("", "", _by_class(data.train), _by_class(data.test)))
        groups: dict[str, set[str]] = {}
        for pair in pairs.exact:  # of equal images the first is paired with each other one
            groups.setdefault(pair.one, {pair.one}).add(pair.other)
        in_train = set(data.train.names)
        twice = {name for group in groups.values() if group & in_train and group - in_train for name in group}
        twice |= {name for pair in pairs.near if pair.leak for name in (pair.one, pair.other)}
        counts = {kind: sum(pair.leak for pair in getattr(pairs, kind)) for kind in ("exact", "near")}
        write_json(folder / "copies.json", {**counts, "names": sorted(twice)})

    folder = shared / f"copies-{digest({'version': VERSION, 'train': train_id})[:16]}"
    make_once(folder, find)
    record = read_json(folder / "copies.json")
    twice = set(record["names"])
    train, test = (np.array([name in twice for name in side.names]) for side in (data.train, data.test))
    return SplitCopies(record["exact"], record["near"], train, test)


def _by_class(side: ImageSet) -> tuple[tuple[str, ...], ...]:
    rows = [side.of_class(label).tolist() for label in range(len(side.classes))]
    return tuple(tuple(side.names[row] for row in of_class) for of_class in rows)
