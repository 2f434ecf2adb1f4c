"""Methods by name, real images, distilled images. No torch until images are asked for."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ddbench.datasets.lookup import ImageSource, find_dataset
from ddbench.errors import UserError
from ddbench.registry import names
from ddbench.runner.options import SMALLEST, GlobalOptions

if TYPE_CHECKING:
    import os

    from ddbench.api.distilled import DistilledImages
    from ddbench.datasets.memory import Items
    from ddbench.types import Dataset


def list_methods() -> tuple[str, ...]:
    """Return the names of all methods, sorted; those of installed packages too. Nothing is imported.

    >>> "random" in ddbench.list_methods()
    True
    """
    return names("methods")


def load_dataset(  # noqa: PLR0913
    dataset: str | tuple[Items, Items],
    *,
    size: int | None = None,
    classes: Sequence[str] | None = None,
    dataset_name: str = "",
    data_root: str | os.PathLike[str] | None = None,
    shared: str | os.PathLike[str] | None = None,
    resize: Literal["lanczos", "bilinear"] = "lanczos",
    quiet: bool = False,
) -> Dataset:
    """Return a dataset's training and test images as a run sees them, packed below `shared` the first time.

    `data.train` and `data.test` have `images`, uint8 (n, 3, size, size), `labels`, int64 (n,), and `classes`. The
    images are mapped from a file and read when they are used. Nothing is downloaded: `ddbench data prepare` does that.

    dataset: a name (`ddbench list datasets`), "folder:PATH", "hf:OWNER/NAME", with "@SPLIT" after it for another split;
        or (train, test), two torch datasets of (image, label), or of dicts with "image" and "label" (torchgeo).
    size: side of the images, px, 8 or more; None for the dataset's own.
    classes, dataset_name: of two torch datasets, see `run`.
    data_root, shared, resize, quiet: see `run`.

    Raises UserError for an unknown name, and for missing, incomplete or damaged images (with how to get them).

    >>> data = ddbench.load_dataset("folder:images", size=8)
    >>> data.train.images.shape[1:]
    torch.Size([3, 8, 8])
    """
    options = GlobalOptions.of_call(quiet, resize, data=data_root, shared=shared)
    source = find_source(dataset, classes, dataset_name, options.quiet)
    return source.load(options.data_paths, whole_number("size", size, SMALLEST) or source.pixels)


def load_distilled(folder: str | os.PathLike[str]) -> DistilledImages:
    """Return a distilled set as a torch dataset of (image, label, target, weight); see `DistilledImages`.

    folder: a run, its distilled/, or anybody's images with one sub-folder per class (then classes are in the order of
        their names; soft_labels.safetensors is read, as `ddbench evaluate` does).

    Raises UserError for a folder that is no such set, or that was changed since it was written.

    >>> run = ddbench.run("random", dataset="folder:images", ipc=2)
    >>> distilled = ddbench.load_distilled(run.folder)
    >>> image, label, target, weight = distilled[0]
    >>> image.shape, label, target.tolist(), weight
    (torch.Size([3, 8, 8]), 0, [1.0, 0.0], 1.0)
    """
    from ddbench.api.distilled import DistilledImages, read_pictures

    return DistilledImages(*read_pictures(Path(folder).expanduser()))


def find_source(
    dataset: str | tuple[Items, Items], classes: Sequence[str] | None, dataset_name: str, quiet: bool
) -> ImageSource:
    """Return the source of a dataset by name, or of two torch datasets. Raises UserError."""
    if isinstance(dataset, str):
        if classes is not None or dataset_name:
            raise UserError(
                f"classes and dataset_name are for two torch datasets; {dataset} has its own: leave them out"
            )
        return find_dataset(dataset)
    if not isinstance(dataset, tuple | list) or len(dataset) != 2:
        raise UserError(f"dataset is a name or (train, test), two torch datasets, not a {type(dataset).__name__}")
    from ddbench.datasets.memory import pair_source

    return pair_source(*dataset, classes, dataset_name, quiet)


def whole_number(name: str, value: Any, least: int) -> Any:
    """Return an integer argument of at least `least`, or None for None. Raises UserError."""
    if value is None:
        return None
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise UserError(f"{name} = {value!r} is invalid; expected an integer, {least} or more")
    return number
