"""Unpack the images of a ZIP or TAR file into a folder, and nothing outside it. No torch."""

from __future__ import annotations

import errno
import gzip
import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, cast

from tqdm import tqdm

from ddbench.datasets.info import DatasetError
from ddbench.utils.files import MACOS_METADATA, has_image_suffix

OTHERS = (".rar", ".7z")  # nothing in Python unpacks these by itself
DAMAGED = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, EOFError, NotImplementedError,
    RuntimeError,
)  # fmt: skip
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


class NoRoomError(DatasetError):
    """The images do not fit the disk."""


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
        raise NoRoomError(f"{archive} needs {need / 1e9:.1f} GB unpacked, {folder} has {free / 1e9:.1f} GB free")


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
    except DAMAGED as error:
        raise DatasetError(f"{archive} cannot be unpacked ({error}). Get it again.") from None
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise DatasetError(f"{archive} holds a name that is too long for this disk: {error.filename}") from None


def _of_zip(archive: Path, box: zipfile.ZipFile) -> list[_Member]:
    files = [info for info in box.infolist() if not info.is_dir()]
    named = [(info.filename.replace("\\", "/"), info) for info in files]  # as some tools of Windows write it
    return _wanted(archive, [_Member(name, info.file_size, partial(box.open, info)) for name, info in named])


def _of_tar(archive: Path, box: tarfile.TarFile) -> list[_Member]:
    files = [info for info in box.getmembers() if info.isfile()]

    def content(info: tarfile.TarInfo) -> IO[bytes]:
        return cast(IO[bytes], box.extractfile(info))  # None only for what is no file

    return _wanted(archive, [_Member(info.name, info.size, partial(content, info)) for info in files])


def _wanted(archive: Path, members: list[_Member]) -> list[_Member]:
    """The images; DatasetError for an archive that has none, but archives."""
    images = [member for member in members if _is_image(PurePosixPath(member.name))]
    nested = [member.name for member in members if member.name.lower().endswith((*OTHERS, *SUFFIXES))]
    if nested and not images:
        raise DatasetError(
            f"{archive} holds {len(nested)} archives ({nested[0]}, ...): unpack it and them, then give the folder"
        )
    return images


def _is_image(path: PurePosixPath) -> bool:
    return has_image_suffix(path.name) and MACOS_METADATA not in path.parts


def _no_archive(archive: Path) -> str:
    if archive.name.lower().endswith(OTHERS):
        kind = archive.suffix[1:].upper()
        return (
            f"{archive} is a {kind} archive, which cannot be unpacked here. Unpack it yourself, for example by\n"
            f"`unar {archive.name}` or `bsdtar -xf {archive.name}`, then give the folder by --from FOLDER"
        )
    return f"{archive} is no archive that can be unpacked here ({', '.join(SUFFIXES)})"
