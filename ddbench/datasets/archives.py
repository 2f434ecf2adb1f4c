"""Unpack the images of a ZIP or TAR file into a folder, and nothing outside it. No torch."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

from ddbench.datasets.facts import DatasetError
from ddbench.datasets.layout import image_like

OTHERS = (".rar", ".7z")  # nothing in Python unpacks these by itself
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, folder: Path, quiet: bool) -> int:
    """Write the archive's image files below `folder`, which exists; how many there were.

    Everything else in it is left out, links too. Raises DatasetError for what is no archive or a damaged one, for names
    that lead out of the folder, for images that do not fit the disk, and where there is none.
    """
    with _members(archive) as members:
        _check(archive, members, folder)
        for member in tqdm(members, desc=f"unpacking {archive.name}", disable=quiet, leave=False, dynamic_ncols=True):
            path = folder / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            with member.open() as source, open(path, "wb") as out:
                shutil.copyfileobj(source, out)
    return len(members)


def _check(archive: Path, members: list[_Member], folder: Path) -> None:
    if not members:
        raise DatasetError(f"{archive} holds no image")
    if outside := [
        m.name for m in members if ".." in PurePosixPath(m.name).parts or PurePosixPath(m.name).is_absolute()
    ]:
        raise DatasetError(f"{archive} holds {outside[0]}, which leads out of its folder: nothing was unpacked")
    need, free = sum(m.size for m in members), shutil.disk_usage(folder).free
    if need > free:
        raise DatasetError(f"{archive} needs {need / 1e9:.1f} GB unpacked, {folder} has {free / 1e9:.1f} GB free")


@contextmanager
def _members(archive: Path) -> Iterator[list[_Member]]:
    """The images in an archive of a kind that is told by its content."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as box:
                yield _of_zip(archive, box)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as box:
                yield _of_tar(archive, box)
        else:
            raise DatasetError(_no_archive(archive))
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, NotImplementedError, RuntimeError) as error:
        raise DatasetError(f"{archive} cannot be unpacked ({error}). Get it again.") from None


def _of_zip(archive: Path, box: zipfile.ZipFile) -> list[_Member]:
    files = [info for info in box.infolist() if not info.is_dir()]
    _refuse_nested(archive, [info.filename for info in files])
    return [
        _Member(info.filename, info.file_size, lambda info=info: box.open(info))
        for info in files
        if _wanted(info.filename)
    ]


def _of_tar(archive: Path, box: tarfile.TarFile) -> list[_Member]:
    files = [info for info in box.getmembers() if info.isfile()]
    _refuse_nested(archive, [info.name for info in files])
    return [
        _Member(info.name, info.size, lambda info=info: box.extractfile(info)) for info in files if _wanted(info.name)
    ]


def _wanted(name: str) -> bool:
    path = PurePosixPath(name)
    return image_like(path.name) and not any(part == "__MACOSX" for part in path.parts)


def _refuse_nested(archive: Path, names: list[str]) -> None:
    if nested := [name for name in names if name.lower().endswith((*OTHERS, ".zip"))]:
        raise DatasetError(
            f"{archive} holds {len(nested)} archives ({nested[0]}, ...): unpack it and them, then give the folder"
        )


def _no_archive(archive: Path) -> str:
    if archive.name.lower().endswith(OTHERS):
        kind = archive.suffix[1:].upper()
        return (
            f"{archive} is a {kind} archive, which cannot be unpacked here. Unpack it yourself, for example by\n"
            f"`unar {archive.name}` or `bsdtar -xf {archive.name}`, then give the folder by --from FOLDER"
        )
    return f"{archive} is no archive that can be unpacked here ({', '.join(SUFFIXES)})"
