"""Where a dataset's class folders lie: as its archive has them, or as copies of it do. No torch, no file is opened.

Folder names match a class without regard to case, spaces, underscores, hyphens (a hub copy's "bare land" is
"BareLand"), or by another name that the facts know. Class folders may be nested in groups (RSI-CB256) and may be
several for one class (copies with a folder for each side of a split): their files are then one class's.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ddbench.datasets.info import DatasetError, Facts, MissingDataError, Place
from ddbench.utils.files import LEFT_BY_ARCHIVERS, image_like

DEPTH = 4  # folders between the place and a class folder


@dataclass
class Layout:
    """base: what was searched. folders: a class's, by its name. others: folders with images that are no class's."""

    base: Path
    folders: dict[str, list[Path]] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)


def find(facts: Facts, place: Place) -> Layout:
    """The candidate folder in which most classes were found. Raises MissingDataError where none was."""
    if place.root is None and not all(os.path.isabs(f) for f in facts.folders):
        raise MissingDataError(f"{facts.name} needs a data root, and none was given.\n{way_out(facts)}")
    root = Path(place.root or "/")
    named = _matching(facts)
    found = [_searched(root / folder, named, folder != ".") for folder in candidates(facts)]
    best = max(found, key=lambda layout: len(layout.folders))
    if not best.folders:
        raise MissingDataError(_missing(facts, [layout.base for layout in found]))
    return best


def candidates(facts: Facts) -> list[str]:
    """Where class folders may lie, below the data root; `data prepare` unpacks into the one that bears its name."""
    if facts.given_by_path or os.path.isabs(facts.folders[0]):
        return list(facts.folders)
    return list(dict.fromkeys([*facts.folders, facts.base]))


def plain(name: str) -> str:
    """A name without what copies change: letters and digits, folded."""
    return "".join(c for c in unicodedata.normalize("NFC", name).casefold() if c.isalnum())


def class_folders(folder: Path) -> list[str]:
    """Names of the folders in `folder` that can be classes, sorted."""
    return sorted(e.name for e in entries(folder) if e.name[0] != "." and e.name != LEFT_BY_ARCHIVERS and e.is_dir())


def entries(folder: Path) -> Iterator[os.DirEntry]:
    """What is in a folder; raises DatasetError where it cannot be listed."""
    try:
        with os.scandir(folder) as found:
            yield from found
    except OSError as error:
        raise DatasetError(f"cannot list {folder}: {error.strerror}") from None


def way_out(facts: Facts) -> str:
    """How to get the data, and how to say where it lies."""
    layout = Path("DATA_ROOT", facts.folders[0], facts.classes[0])
    lines = [f"Expected layout: {layout}/*.tif, *.jpg or *.png, one folder per class."]
    if facts.address:
        checksum = f" ({facts.checksum})" if facts.checksum else ""
        lines += [f"Get it: ddbench data prepare {facts.base} downloads {facts.address}{checksum}."]
    elif not facts.given_by_path:
        lines += [
            f"Get it: from {facts.source or facts.homepage}, then "
            f"ddbench data prepare {facts.base} --from ARCHIVE_OR_FOLDER. See {facts.homepage}"
        ]
    return "\n".join([*lines, "Say where DATA_ROOT is with --data-root DIR or the environment variable DDBENCH_DATA."])


def _matching(facts: Facts) -> Callable[[str], str | None]:
    """The class that a folder's name means: its own name first, then what copies make of it."""
    loose: dict[str, str] = {}
    twice = set()
    for name, label in [*((c, c) for c in facts.classes), *facts.also]:
        if loose.setdefault(plain(name), label) != label:
            twice.add(plain(name))
    exact = set(facts.classes)
    return lambda name: name if name in exact else None if plain(name) in twice else loose.get(plain(name))


def _searched(base: Path, named: Callable[[str], str | None], nested: bool) -> Layout:
    layout = Layout(base.absolute())
    if base.is_dir():
        _search(base, named, DEPTH if nested else 0, layout)
    return layout


def _search(folder: Path, named: Callable[[str], str | None], depth: int, layout: Layout) -> None:
    for name in class_folders(folder):
        if label := named(name):
            layout.folders.setdefault(label, []).append(folder / name)
        elif any(image_like(entry.name) for entry in entries(folder / name)):
            layout.others.append(name)
        elif depth:
            _search(folder / name, named, depth - 1, layout)


def _missing(facts: Facts, looked_in: Sequence[Path]) -> str:
    some = ", ".join(facts.classes[:3])
    looked = [f"  {f}  ({'none of them is in it' if f.is_dir() else 'no such folder'})" for f in looked_in]
    head = f"{facts.name} ({facts.title}) was not found. Looked for its {len(facts.classes)} class folders"
    return "\n".join([f"{head} ({some}, ...) in", *looked, way_out(facts)])
