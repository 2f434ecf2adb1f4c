"""Find a dataset's class folders below the data root. No torch, and no file is opened.

Folder names match a class without regard to case, spaces, underscores, hyphens (a hub copy's "bare land" is
"BareLand"), or by another name in the dataset's info. Class folders may be nested in groups (RSI-CB256). A class may
have several folders (copies with a folder for each side of a split): their files then belong to one class. Where these
sides are the dataset's own split (`DatasetInfo.sides`), the side is part of a file's name: "cat/train/0001.png".
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ddbench.datasets.info import RECORD, DataPaths, DatasetError, DatasetInfo, MissingDataError
from ddbench.utils.files import MACOS_METADATA, has_image_suffix

SIDES = ("train", "test")
DEPTH = 4  # folders between a candidate folder and a class folder


@dataclass
class FoundFolders:
    """The class folders in one candidate folder.

    base: the candidate folder.
    folders: folders of each class, by class name; each with the beginning of its images' names: "" or the side.
    others: names of folders that have images and match no class.
    ignored: paths of what is no class folder.
    """

    base: Path
    folders: dict[str, list[tuple[Path, str]]] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


def find_folders(info: DatasetInfo, data_paths: DataPaths) -> FoundFolders:
    """Search all candidate folders; return the one with most classes. Raises MissingDataError if none has any."""
    if data_paths.root is None and not all(os.path.isabs(folder) for folder in info.folders):
        raise MissingDataError(f"{info.name} needs a data root, and none was given.\n{how_to_get(info)}")
    root = Path(data_paths.root or "/")
    class_of = _class_matcher(info)
    results = []
    for folder in candidates(info):
        result = FoundFolders((root / folder).absolute())
        if result.base.is_dir() and not info.sides:
            _search(result.base, class_of, DEPTH if folder != "." else 0, result)
        elif result.base.is_dir():
            parents = (result.base, *(result.base / name for name in class_folders(result.base)))
            parent = next((p for p in parents if all((p / name).is_dir() for name in info.sides)), result.base)
            for name, side in zip(info.sides, SIDES, strict=True):
                if (parent / name).is_dir():
                    _search(parent / name, class_of, DEPTH, result, f"{side}/")
            if not info.registered:
                _ignore_files(parent, result)
                others = set(class_folders(parent)) - set(info.sides)
                for entry in entries(parent):
                    if entry.name in others:
                        result.ignored += files_below(entry)
        results.append(result)
    best = max(results, key=lambda result: len(result.folders))
    if not best.folders:
        bases = [result.base for result in results]
        looked = [f"  {base}  ({'no class folder' if base.is_dir() else 'no such folder'})" for base in bases]
        head = f"{info.name} ({info.title}) was not found. Looked for its {len(info.classes)} class folders"
        lines = [f"{head} ({', '.join(info.classes[:3])}, ...) in", *looked, how_to_get(info)]
        raise MissingDataError("\n".join(lines))
    return best


def candidates(info: DatasetInfo) -> list[str]:
    """Return the folders below the data root that may hold class folders.

    `data prepare` unpacks into the one with the dataset's name.
    """
    if not info.registered or os.path.isabs(info.folders[0]):
        return list(info.folders)
    return list(dict.fromkeys([*info.folders, info.base]))


def normalised_name(name: str) -> str:
    """Keep only letters and digits, case-folded: copies of a dataset change the rest."""
    return "".join(c for c in unicodedata.normalize("NFC", name).casefold() if c.isalnum())


def class_folders(folder: Path) -> list[str]:
    """Return the names of the folders in `folder` that may be classes, sorted."""
    return sorted(e.name for e in entries(folder) if e.name[0] != "." and e.name != MACOS_METADATA and is_folder(e))


def is_folder(entry: os.DirEntry) -> bool:
    """Return True for a folder or a link to one; False also for a link in a circle, or to where nobody may look."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def entries(folder: Path) -> Iterator[os.DirEntry]:
    """Iterate over the entries of a folder; raises DatasetError if it cannot be listed."""
    try:
        with os.scandir(folder) as found_entries:
            yield from found_entries
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        raise DatasetError(f"cannot list {folder}: {getattr(error, 'strerror', error)}") from None


def how_to_get(info: DatasetInfo) -> str:
    """Explain how to get the data and how to name the data root."""
    example = Path("DATA_ROOT", info.folders[0], *info.sides[:1], info.classes[0])
    lines = [f"Expected layout: {example}/*.tif, *.jpg or *.png, one folder per class."]
    if info.address:
        checksum = f" ({info.checksum})" if info.checksum else ""
        lines += [f"Get it: ddbench data prepare {info.base} downloads {info.address}{checksum}."]
    elif info.copy:
        lines += [f"Get it: ddbench data prepare {info.base} downloads the {info.copy.description}."]
    elif info.registered:
        lines += [
            f"Get it: from {info.source or info.homepage}, then "
            f"ddbench data prepare {info.base} --from ARCHIVE_OR_FOLDER. See {info.homepage}"
        ]
    return "\n".join([*lines, "Say where DATA_ROOT is with --data-root DIR or the environment variable DDBENCH_DATA."])


def files_below(entry: os.DirEntry) -> list[str]:
    """Return the path of an entry that is no folder, or the paths of all files below a folder."""
    if not entry.is_dir(follow_symlinks=False):
        return [entry.path]
    return [os.path.join(folder, name) for folder, _, names in os.walk(entry.path) for name in names]


def _class_matcher(info: DatasetInfo) -> Callable[[str], str | None]:
    """Return a function from a folder's name to its class: an exact name first, then a normalised one."""
    by_normalised: dict[str, str] = {}
    ambiguous = set()
    for name, label in [*((c, c) for c in info.classes), *info.also]:
        if by_normalised.setdefault(normalised_name(name), label) != label:
            ambiguous.add(normalised_name(name))
    exact = set(info.classes)

    def class_of(name: str) -> str | None:
        normalised = normalised_name(name)
        return name if name in exact else None if normalised in ambiguous else by_normalised.get(normalised)

    return class_of


def side_folders(folder: Path) -> tuple[str, str] | tuple[()]:
    """Return the names of the folders of the two sides of a split in `folder`; empty if it is no such tree.

    The training side is called train or training. The test side is called test or testing, or, where there is none,
    val, valid or validation; in any case. Both sides have folders.
    """
    names = {normalised_name(name): name for name in class_folders(folder)}
    train = next((names[n] for n in ("train", "training") if n in names), None)
    test = next((names[n] for n in ("test", "testing", "val", "valid", "validation") if n in names), None)
    if train and test and all(class_folders(folder / name) for name in (train, test)):
        return train, test
    return ()


def _ignore_files(folder: Path, result: FoundFolders) -> None:
    """Add to `result` what lies in a folder and is no folder that may hold classes."""
    known = {*class_folders(folder), RECORD}
    for entry in entries(folder):
        if entry.name not in known:
            result.ignored += files_below(entry)


def _search(
    folder: Path, class_of: Callable[[str], str | None], depth: int, result: FoundFolders, side: str = ""
) -> None:
    """Add the class folders in `folder`, and up to `depth` levels below it, to `result`.

    side: "train/" or "test/" below the folder of a side, else "".
    """
    if depth:  # else a data root, which holds other datasets too
        _ignore_files(folder, result)
    for name in class_folders(folder):
        if label := class_of(name):
            result.folders.setdefault(label, []).append((folder / name, side))
        elif any(has_image_suffix(entry.name) for entry in entries(folder / name)):
            result.others.append(name)
        elif depth:
            _search(folder / name, class_of, depth - 1, result, side)
