"""The facts of a dataset of class folders, and the types that all datasets share. No torch, data alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal, Self

from ddbench.datasets.name import CSV, DatasetName
from ddbench.errors import UserError
from ddbench.utils.units import format_bytes

LISTS = "torchgeo"  # the split by the lists of Neumann et al., which torchgeo uses
RECORD = ".ddbench.json"  # beside downloaded images: their address, or copy and revision


class DatasetError(UserError):
    """Data is missing, incomplete or damaged; the message names the data, the folder and the way out."""


class MissingDataError(DatasetError):
    """No class folder of the dataset was found."""


class UnreachableError(DatasetError):
    """An address does not answer, or the transfer broke off."""


@dataclass(frozen=True)
class DataPaths:
    """The folders of raw and packed data, and the options of reading it.

    root: the folder below which raw data lies; None if the user named none.
    shared: the folder for packs.
    quiet: no progress bars.
    resize: the filter that scales images; "lanczos" is DPD's choice, "bilinear" is what its release tests with.
    """

    root: Path | None
    shared: Path
    quiet: bool = False
    resize: Literal["lanczos", "bilinear"] = "lanczos"


@dataclass(frozen=True)
class Split:
    """The files that train and the files that test.

    rule: a sentence; its first word is the split's name.
    fingerprint: SHA-256 (hex) of both sides.
    train, test: file names of each class in label order, sorted ("beach/beach07.tif": class name, then file name).
    """

    rule: str
    fingerprint: str
    train: tuple[tuple[str, ...], ...]
    test: tuple[tuple[str, ...], ...]

    def left_out(self, files: Sequence[Sequence[str]]) -> tuple[str, ...]:
        """Return the names in `files` (of each class) that are on neither side."""
        used = set(chain.from_iterable((*self.train, *self.test)))
        return tuple(name for name in chain.from_iterable(files) if name not in used)


@dataclass(frozen=True)
class Lists:
    """Published lists of files.

    address: URL with "{side}" for "train" or "test".
    checksums: SHA-256 (hex) of the list of each side.
    """

    address: str
    checksums: Mapping[str, str]


@dataclass(frozen=True)
class HubCopy:
    """A copy of a dataset's images on the Hugging Face hub.

    repo: OWNER/NAME.
    encoding: how its files differ from the release's, as text.
    reference: where its address and contents were read, as text.
    revision: commit; empty for the newest at the time of the download.
    files: glob of its files: Parquet tables, or images in class folders.
    label: column of the classes, of tables with several.
    size: bytes to download, as its page states; 0 if unknown.
    """

    repo: str
    encoding: str
    reference: str
    revision: str = ""
    files: str = "data/*.parquet"
    label: str = ""
    size: int = 0

    @property
    def description(self) -> str:
        """The copy as a sentence without its end."""
        revision = f"revision {self.revision}" if self.revision else "newest revision"
        return f"copy {self.repo} of the Hugging Face hub, {revision}"


@dataclass(frozen=True)
class DatasetInfo:
    """The facts of a dataset with one folder of images per class.

    name: as users write it, "ucm" or "ucm@20".
    title: the full name.
    classes: folder names in label order.
    readable: the classes as words for prompts, in label order.
    counts: images per class; one number if all are equal, None if unknown.
    pixels: px, native side of an image (the shorter side where they differ).
    resolution: ground size of a pixel, with its unit.
    licence: as text.
    homepage: URL.
    citation: as text.
    folders: paths below the data root at which the class folders may lie.
    also: pairs of another folder name and its class.
    total: images in all, if only the sum is known; else 0.
    address: URL of an archive that stays available; empty if there is none.
    checksum: "SHA-256 <hex>" or "MD5 <hex>" of that archive; empty if none was published.
    archive: file name of that archive, if the address does not end with it.
    size: bytes of that archive; 0 if unknown.
    reference: where that address and its checksum were read, if not at the homepage; as text.
    copy: a copy on the Hugging Face hub, for datasets without an address, or whose address does not answer.
    unpack: (archive, folder, quiet) -> number of images that it wrote below the folder, for an archive that holds no
        image files; None for `archives.unpack`.
    source: another place to get the data from, as text.
    defects: known defects, as text.
    sides: folders of the training and of the test side, each of which holds the class folders: that is the split, and
        other folders beside them are left out. Empty if the class folders hold both sides.
    train_fraction: share of each class that trains.
    numbered: files numbered up to this train; 0 splits by train_fraction.
    ratios: per cent to train, as in the literature.
    lists: published lists of files.
    split: the split after "@"; empty for the default.
    revision: commit of the hub's dataset.
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
    size: int = 0
    reference: str = ""
    copy: HubCopy | None = None
    unpack: Callable[[Path, Path, bool], int] | None = None
    source: str = ""
    defects: str = ""
    sides: tuple[str, str] | tuple[()] = ()
    train_fraction: float = 0.8
    numbered: int = 0
    ratios: tuple[int, ...] = ()
    lists: Lists | None = None
    split: str = ""
    revision: str = ""

    @property
    def base(self) -> str:
        """The name without its split."""
        return DatasetName.parse(self.name).base

    @property
    def slug(self) -> str:
        """The name as a part of a path (`DatasetName.slug`)."""
        return DatasetName.parse(self.name).slug

    @property
    def registered(self) -> bool:
        """False for folder:PATH and hf:OWNER/NAME, whose counts and download address are unknown."""
        return DatasetName.parse(self.name).registered

    def with_split(self, split: str) -> Self:
        """Return the same images with the split "20" (per cent to train), "torchgeo" (published lists) or "FILE.csv".

        The default split's own ratio returns the default. Raises DatasetError for any other split, naming these.
        """
        if split.isdecimal() and 1 <= int(split) <= 99:
            percent = int(split)
            if not (self.numbered or self.sides or self.split) and percent == round(100 * self.train_fraction):
                return self
            return replace(self, name=f"{self.name}@{percent}", split=str(percent), train_fraction=percent / 100)
        if split.endswith(CSV) or (split == LISTS and self.lists):
            return replace(self, name=f"{self.name}@{Path(split).name}", split=split)
        lists = f"@{LISTS} (published lists), " if self.lists else ""
        raise DatasetError(
            f"{self.name}@{split} is not a split of {self.title}; known: @1 to @99 (per cent for training), "
            f"{lists}@FILE.csv (your list)"
        )

    @property
    def download_size(self) -> int:
        """Bytes that `data prepare` downloads; 0 if unknown."""
        return self.size if self.address or not self.copy else self.copy.size

    @property
    def expected(self) -> tuple[int, ...] | None:
        """Images per class in label order, None if unknown."""
        return (self.counts,) * len(self.classes) if isinstance(self.counts, int) else self.counts

    @property
    def split_rule(self) -> str:
        """The split as a sentence; its first word is the split's name."""
        percent = round(100 * self.train_fraction)
        if self.split == LISTS:
            rule = f"{LISTS} lists of files (arXiv:1911.06721), those to validate left out"
        elif self.split.endswith(CSV):
            rule = f"{Path(self.split).name} of the {'hub' if self.revision else 'user'}'s"
        elif self.sides and not self.split:
            rule = f"{self.sides[0]}/{self.sides[1]} folders"
        elif self.numbered and not self.split:
            rule = f"1-{self.numbered}/rest of each class by the number in the file's name"
        else:
            rule = f"{percent}/{100 - percent} of each class by SHA-256 of class and file name"
        return f"{rule}, revision {self.revision}" if self.revision else rule

    def card(self) -> list[tuple[str, str]]:
        """Return (label, text) rows for `ddbench show`, without empty ones."""
        if self.expected is None:
            images = str(self.total or "counted when listed")
        else:
            low, high = min(self.expected), max(self.expected)
            images = f"{sum(self.expected)}, {low if low == high else f'{low} to {high}'} per class"
        other_splits = [*map(str, self.ratios), *([LISTS] if self.lists else [])]
        rows = [
            ("title", self.title),
            ("classes", f"{len(self.classes)}: {', '.join(self.classes)}"),
            ("images", images),
            ("pixels", str(self.pixels)),
            ("ground resolution", self.resolution),
            ("split", self.split_rule),
            ("other splits", ", ".join(f"{self.base}@{name}" for name in other_splits)),
            ("licence", self.licence),
            ("homepage", self.homepage),
            ("citation", self.citation),
            ("known", self.defects),
            ("download", self.address or (self.copy.description if self.copy else self.source)),
            ("checksum", self.checksum),
            ("read at", self.reference or (self.copy.reference if self.copy else "")),
            ("size", format_bytes(self.download_size) if self.download_size else ""),
            ("other copy", self.copy.description if self.copy and self.address else ""),
            ("copy's files", self.copy.encoding if self.copy else ""),
            ("looked for in", ", ".join(self.folders)),
        ]
        return [(label, text) for label, text in rows if text]


def check_encoding(path: str) -> None:
    """Raise DatasetError for a path that is no UTF-8: it could be written to no table and no result."""
    try:
        path.encode()
    except UnicodeEncodeError:
        printable = os.fsencode(path).decode(errors="replace")
        raise DatasetError(
            f"{printable} has a name that is not UTF-8: rename it (convmv -f latin1 -t utf8 --notest PATH)"
        ) from None


def describe_left_out(names: Sequence[str]) -> str:
    """Count the images that a list puts on neither side of the split, and name the first."""
    return f"{len(names)} images are on neither side of the split and are not used, such as {names[0]}"


def describe_ignored(paths: Sequence[str]) -> str:
    """Count files that are not read by their suffix, and name the first of each: "2 files of .mpo (a/1.MPO)"."""
    groups: dict[str, list[str]] = {}
    for path in paths:
        name = path.rpartition("/")[2]
        kind = f" of {suffix.lower()}" if (suffix := Path(name).suffix) else " without a suffix"
        groups.setdefault(" that are hidden" if name[0] == "." else kind, []).append(path)
    return "; ".join(f"{len(group)} files{kind}, such as {group[0]}" for kind, group in sorted(groups.items()))


def flatten(per_class: Sequence[Sequence[str]]) -> list[str]:
    """Return all names, class by class."""
    return list(chain.from_iterable(per_class))
