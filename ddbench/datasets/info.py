"""What is known about a dataset of class folders, and the words every dataset source shares. No torch, data alone.

A *source* has `name`, `slug`, `title`, `classes`, `readable`, `pixels`, `licence`, `homepage`, `citation` and the
methods `describe`, `load`, `verify` and `card`. `source.ClassFolders` is the source of everything in class folders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal, Self

from ddbench.errors import UserError

FOLDER = "folder:"
HUB = "hf:"
LISTS = "torchgeo"  # a split by that name is the lists of Neumann et al., which torchgeo uses
CSV = ".csv"
LONGEST = 60  # characters of a slug: a file name has at most 255 bytes


class DatasetError(UserError):
    """Data is missing, incomplete or damaged; the message says what, where and what to do."""


class MissingDataError(DatasetError):
    """No class folder of the dataset was found."""


@dataclass(frozen=True)
class DataPaths:
    """root: the folder below which raw data lies, if given. shared: where packs go. quiet: no progress bars.

    resize: how images become the asked size. "lanczos" is DPD's choice; "bilinear" what its release tests with.
    """

    root: Path | None
    shared: Path
    quiet: bool = False
    resize: Literal["lanczos", "bilinear"] = "lanczos"


@dataclass(frozen=True)
class Split:
    """Which file is on which side.

    rule: in words, the first of which is its name. fingerprint: SHA-256 (hex) of the sides. train, test: per class, in
    label order, names in alphabetical order ("beach/beach07.tif": the class, whatever its folder is called, and file).
    """

    rule: str
    fingerprint: str
    train: tuple[tuple[str, ...], ...]
    test: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Lists:
    """Published lists of files. address: with "{side}". checksums: SHA-256 (hex) by side, "train" and "test"."""

    address: str
    checksums: Mapping[str, str]


@dataclass(frozen=True)
class DatasetInfo:
    """A dataset with one folder of images per class.

    classes: folder names in label order. readable: the same as words, for prompts. counts: images per class, one
    number when all are equal, None when unknown; then total may be known. pixels: native side (of the shorter one,
    where they differ). resolution: ground size of a pixel. folders: where the class folders may lie, below the data
    root. also: other names of class folders, each with its class. address, checksum: of an archive that stays where it
    is; archive: its name, where the address does not tell. source: where else to get it, in words. known: what is known
    to be odd. The split: train_fraction of each class, or files numbered up to `numbered` train. ratios: percentages
    that the literature trains on. lists: published ones. split: what was asked for after "@", empty for the default.
    revision: of the hub's set.
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
    also: tuple[tuple[str, str], ...] = ()
    total: int = 0
    address: str = ""
    checksum: str = ""
    archive: str = ""
    source: str = ""
    known: str = ""
    train_fraction: float = 0.8
    numbered: int = 0
    ratios: tuple[int, ...] = ()
    lists: Lists | None = None
    split: str = ""
    revision: str = ""

    @property
    def base(self) -> str:
        """The name without the split that was asked for."""
        return self.name.removesuffix(f"@{Path(self.split).name}") if self.split else self.name

    @property
    def given_by_path(self) -> bool:
        """Whether this is folder:PATH or hf:OWNER/NAME, of which nothing is known beforehand."""
        return self.name.startswith((FOLDER, HUB))

    def with_split(self, split: str) -> Self:
        """The same images parted otherwise: "20" (percent to train), "torchgeo" (published lists) or "FILE.csv".

        The default by its ratio is the default. Raises DatasetError for anything else, naming what there is.
        """
        if split.isdecimal() and 1 <= int(split) <= 99:
            percent = int(split)
            if not (self.numbered or self.split) and percent == round(100 * self.train_fraction):
                return self
            return replace(self, name=f"{self.name}@{percent}", split=str(percent), train_fraction=percent / 100)
        if split.endswith(CSV) or (split == LISTS and self.lists):
            return replace(self, name=f"{self.name}@{Path(split).name}", split=split)
        lists = f"@{LISTS} (published lists), " if self.lists else ""
        raise DatasetError(
            f"{self.name}@{split} is no split of {self.title}; known: @1 to @99 (percent of each class to train), "
            f"{lists}@FILE.csv (of your own)"
        )

    @property
    def slug(self) -> str:
        """A name that is safe in a path: letters, digits, '.', '_' and '-', at most LONGEST of them."""
        kind, _, path = self.name.partition(":")
        words = [kind, Path(path).resolve().name] if path else [kind]
        return "-".join("".join(c if c.isalnum() or c in "._" else "-" for c in word) for word in words)[:LONGEST]

    @property
    def expected(self) -> tuple[int, ...] | None:
        """Images per class in label order, None when unknown."""
        return (self.counts,) * len(self.classes) if isinstance(self.counts, int) else self.counts

    @property
    def split_rule(self) -> str:
        """The split in words, the first of which is its name."""
        rule = self._rule()
        return f"{rule}, revision {self.revision}" if self.revision else rule

    def _rule(self) -> str:
        if self.split == LISTS:
            return f"{LISTS} lists of files (arXiv:1911.06721), those to validate left out"
        if self.split.endswith(CSV):
            return f"{Path(self.split).name} of the {'hub' if self.revision else 'user'}'s"
        if self.numbered and not self.split:
            return f"1-{self.numbered}/rest of each class by the number in the file's name"
        train = round(100 * self.train_fraction)
        return f"{train}/{100 - train} of each class by SHA-256 of class and file name"

    def card(self) -> list[tuple[str, str]]:
        """What to print about it: (label, text)."""
        rows = [
            ("title", self.title),
            ("classes", f"{len(self.classes)}: {', '.join(self.classes)}"),
            ("images", self._images()),
        ]
        rows += [("pixels", str(self.pixels)), ("ground resolution", self.resolution), ("split", self.split_rule)]
        rows += [("other splits", self._others()), ("licence", self.licence), ("homepage", self.homepage)]
        rows += [("citation", self.citation), ("known", self.known), ("download", self.address or self.source)]
        rows += [("checksum", self.checksum), ("looked for in", ", ".join(self.folders))]
        return [(label, text) for label, text in rows if text]

    def _others(self) -> str:
        """Splits of the literature, as they are asked for."""
        named = [*map(str, self.ratios), *([LISTS] if self.lists else [])]
        return ", ".join(f"{self.base}@{name}" for name in named)

    def _images(self) -> str:
        if self.expected is None:
            return str(self.total or "counted when listed")
        low, high = min(self.expected), max(self.expected)
        return f"{sum(self.expected)}, {low if low == high else f'{low} to {high}'} per class"


def flat(per_class: Sequence[Sequence[str]]) -> list[str]:
    """All names, class by class."""
    return list(chain.from_iterable(per_class))
