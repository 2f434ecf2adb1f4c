"""What is known about a dataset of class folders, and the words every dataset source shares. No torch.

A *source* has `name`, `slug`, `title`, `classes`, `readable`, `pixels`, `licence`, `homepage`, `citation` and the
methods `describe`, `load`, `verify` and `card`. `Facts` is the source of everything that lies in class folders; the
work is done in `listing` (find, count, split), `images` (decode), `pack` (once, to disk) and `tensors` (memory-map).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ddbench.errors import UserError

if TYPE_CHECKING:
    from ddbench.datasets.images import Report
    from ddbench.types import Dataset


class DatasetError(UserError):
    """Data is missing, incomplete or damaged; the message says what, where and what to do."""


class MissingDataError(DatasetError):
    """No class folder of the dataset was found."""


@dataclass(frozen=True)
class Place:
    """root: the folder below which raw data lies, if given. shared: where packs go. quiet: no progress bars."""

    root: Path | None
    shared: Path
    quiet: bool = False


@dataclass(frozen=True)
class Split:
    """Which file is on which side.

    rule: in words. fingerprint: SHA-256 (hex) of the sides. train, test: per class, in label order, relative names in
    alphabetical order ("beach/beach07.tif").
    """

    rule: str
    fingerprint: str
    train: tuple[tuple[str, ...], ...]
    test: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Facts:
    """A dataset with one folder of images per class.

    classes: folder names in label order. readable: the same as words, for prompts. counts: images per class, one
    number when all are equal, None when unknown. pixels: native side (of the shorter one, where they differ).
    resolution: ground size of a pixel. folders: where the class folders may lie, below the data root. address,
    checksum: where to get it. train_fraction: of each class.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    readable: tuple[str, ...]
    counts: int | tuple[int, ...] | None
    pixels: int
    resolution: str
    licence: str
    homepage: str
    citation: str
    folders: tuple[str, ...]
    address: str = ""
    checksum: str = ""
    train_fraction: float = 0.8

    @property
    def slug(self) -> str:
        """A name that is safe in a path: letters, digits, '.', '_' and '-'."""
        kind, _, path = self.name.partition(":")
        words = [kind, Path(path).resolve().name] if path else [kind]
        return "-".join("".join(c if c.isalnum() or c in "._" else "-" for c in word) for word in words)

    @property
    def expected(self) -> tuple[int, ...] | None:
        """Images per class in label order, None when unknown."""
        return (self.counts,) * len(self.classes) if isinstance(self.counts, int) else self.counts

    @property
    def split_rule(self) -> str:
        """The split in words."""
        train = round(100 * self.train_fraction)
        return f"{train}/{100 - train} of each class by SHA-256 of class and file name"

    def describe(self, place: Place) -> Split:
        """List the files, verify the classes and their counts, split. Raises DatasetError."""
        from ddbench.datasets.listing import list_files, split_files

        return split_files(self, list_files(self, place))

    def load(self, place: Place, size: int) -> Dataset:
        """The split images at size x size pixels, packed below place.shared the first time. Raises DatasetError."""
        from ddbench.datasets.folder import load_folders

        return load_folders(self, place, size)

    def verify(self, place: Place) -> Report:
        """Decode every image and report. Raises DatasetError when folders or counts are wrong."""
        from ddbench.datasets.folder import verify_folders

        return verify_folders(self, place)

    def card(self) -> list[tuple[str, str]]:
        """What to print about it: (label, text)."""
        rows = [
            ("title", self.title),
            ("classes", f"{len(self.classes)}: {', '.join(self.classes)}"),
            ("images", self._images()),
        ]
        rows += [("pixels", str(self.pixels)), ("ground resolution", self.resolution), ("split", self.split_rule)]
        rows += [("licence", self.licence), ("homepage", self.homepage), ("citation", self.citation)]
        rows += [("download", self.address), ("checksum", self.checksum), ("looked for in", ", ".join(self.folders))]
        return [(label, text) for label, text in rows if text]

    def _images(self) -> str:
        if self.expected is None:
            return "counted when listed"
        low, high = min(self.expected), max(self.expected)
        return f"{sum(self.expected)}, {low if low == high else f'{low} to {high}'} per class"
