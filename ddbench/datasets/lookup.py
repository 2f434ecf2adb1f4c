"""Find the source of a dataset by its name. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ddbench.datasets.info import DataPaths, Split
from ddbench.datasets.name import FOLDER, HUB, MEMORY, DatasetName, is_folder_name
from ddbench.errors import UserError
from ddbench.registry import load_entry, names

if TYPE_CHECKING:
    from ddbench.datasets.verification import Report
    from ddbench.types import Dataset


class ImageSource(Protocol):
    """A dataset as a run needs it."""

    @property
    def name(self) -> str:
        """The name, as users write it."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        ...

    @property
    def readable(self) -> tuple[str, ...]:
        """The classes as words for prompts."""
        ...

    @property
    def pixels(self) -> int:
        """Native side of an image, px."""
        ...

    def describe(self, data_paths: DataPaths) -> Split:
        """Return the split of the files that exist. Raises DatasetError."""
        ...

    def load(self, data_paths: DataPaths, size: int) -> Dataset:
        """Return the split images at size x size pixels. Raises DatasetError."""
        ...


class Source(ImageSource, Protocol):
    """A dataset by name. `source.ClassFolders` is the source of everything in class folders.

    A source that can be split otherwise also has `with_split(split)`, as `DatasetInfo` does.
    """

    @property
    def slug(self) -> str:
        """The name as a part of a path."""
        ...

    @property
    def title(self) -> str:
        """The full name."""
        ...

    @property
    def licence(self) -> str:
        """The licence, as text."""
        ...

    @property
    def homepage(self) -> str:
        """URL; may be empty."""
        ...

    @property
    def citation(self) -> str:
        """The citation, as text."""
        ...

    def verify(self, data_paths: DataPaths) -> Report:
        """Decode every image and report. Raises DatasetError."""
        ...

    def sizes(self, data_paths: DataPaths) -> dict[tuple[int, int], int]:
        """Count the images by (width, height) in pixels."""
        ...

    def card(self) -> list[tuple[str, str]]:
        """Return (label, text) rows for `ddbench show`."""
        ...


def find_dataset(text: str) -> Source:
    """Return the source of a dataset, with the split after "@" if the name has one.

    Raises UserError for an unknown name, a folder without classes, a class whose name leaves its folder, and an unknown
    split.
    """
    name = DatasetName.parse(text)
    if name.prefix == MEMORY:
        raise UserError(
            f"{text} was given in memory, and no command can find it: use ddbench.run(..., dataset=(train, test))"
        )
    if name.base == FOLDER:
        raise UserError("folder: needs a path, for example folder:images (one sub-folder per class)")
    if name.prefix == FOLDER:
        from ddbench.datasets.source import folder_source  # Pillow: a name alone does not need it

        source = folder_source(Path(name.location))
    elif name.prefix == HUB:
        from ddbench.datasets.huggingface import hub_source

        source = hub_source(name.location)
    elif name.base not in names("datasets") and Path(text).expanduser().is_dir():
        raise UserError(f"unknown dataset {text!r}. There is a folder of that name: folder:{text} reads its images")
    else:
        source = load_entry("datasets", name.base)
    if unfit := [one for one in source.classes if not is_folder_name(one)]:
        raise UserError(f"{text}: the class {unfit[0]!r} cannot name a folder: rename it")
    if not name.split:
        return source
    if not hasattr(source, "with_split"):
        raise UserError(f"{text}: {name.base} has only its own split; use {name.base}")
    return source.with_split(name.split)
