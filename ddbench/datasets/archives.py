"""Unpack the images of a ZIP or TAR file into a folder, and nothing outside it. No torch."""

from __future__ import annotations

import errno
import gzip
import logging
import lzma
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, cast

from ddbench.datasets.info import DatasetError, describe_ignored
from ddbench.utils.files import MACOS_METADATA, has_image_suffix
from ddbench.utils.limits import LARGEST_IMAGE
from ddbench.utils.progress import progress_bar
from ddbench.utils.units import format_bytes

log = logging.getLogger("ddbench")

UNSUPPORTED = (".rar", ".7z")  # Python's standard library does not unpack these
DAMAGED = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, EOFError, NotImplementedError,
    RuntimeError, ValueError, OverflowError, struct.error,
)  # fmt: skip
TWICE = (errno.EEXIST, errno.EISDIR, errno.ENOTDIR)  # a file in the place of another, or of a folder
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


class NoRoomError(DatasetError):
    """The images need more room than the disk has."""


@dataclass(frozen=True)
class Member:
    """A file in an archive. size: bytes, unpacked. open: opens it for reading. link: True for a link."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]
    link: bool = False


def unpack(archive: Path, folder: Path, quiet: bool) -> int:
    """Write the archive's image files below the existing `folder`; return their number.

    Everything else is left out, links too, and counted in a warning. Raises DatasetError for a file that is no archive
    or is damaged, for names that lead out of the folder, for images that do not fit the disk, and for an archive
    without images.
    """
    with open_archive(archive) as members:
        every, members = members, _only_images(archive, members)
        outside = [m.name for m in members if ".." in PurePosixPath(m.name).parts or m.name.startswith("/")]
        if outside:
            raise DatasetError(f"{archive} contains {outside[0]}, a path outside its folder: nothing was unpacked")
        need, free = sum(m.size for m in members), shutil.disk_usage(folder).free
        if need > free:
            raise NoRoomError(f"{archive} needs {format_bytes(need)} unpacked, {folder} has {format_bytes(free)} free")
        for member in progress_bar(members, desc=f"unpacking {archive.name}", hidden=quiet):
            path = folder / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            with member.open() as source, open(path, "xb") as out:
                shutil.copyfileobj(source, out)
        unpacked = {member.name for member in members}
        if ignored := [f"{one.name} (a link)" if one.link else one.name for one in every if one.name not in unpacked]:
            log.warning("%s: files that are not unpacked: %s", archive, describe_ignored(ignored))
    return len(members)


class _Header(tarfile.TarInfo):
    """The header of a file. A damaged or missing one is an error, where Python's module sees the archive's end."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> _Header:
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # a block of zeros: the end
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} at byte {tar.offset}") from None


@contextmanager
def open_archive(archive: Path) -> Iterator[list[Member]]:
    """Open an archive, whose kind its content decides; give all its files. Errors become DatasetError."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                yield [
                    Member(
                        info.filename.replace("\\", "/"),  # as on Windows
                        info.file_size,
                        partial(file.open, info),
                        stat.S_ISLNK(info.external_attr >> 16),
                    )
                    for info in file.infolist()
                    if not info.is_dir()
                ]
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive, tarinfo=_Header) as tar:
                members = [info for info in tar.getmembers() if not info.isdir()]
                while rest := cast(IO[bytes], tar.fileobj).read(1 << 20):  # the compression's checksum is at the end
                    if rest.strip(b"\0"):
                        raise DatasetError(
                            f"{archive} holds data behind its end (two archives in one file?), which would not be "
                            "read. Unpack it yourself (`tar -xif`), then use --from FOLDER."
                        )
                # extractfile returns None only for links and folders
                extract = cast(Callable[[tarfile.TarInfo], IO[bytes]], tar.extractfile)
                yield [Member(info.name, info.size, partial(extract, info), not info.isfile()) for info in members]
        elif archive.name.lower().endswith(UNSUPPORTED):
            raise DatasetError(
                f"{archive} is a {archive.suffix[1:].upper()} archive, which ddbench cannot unpack. Unpack it yourself,"
                f" for example with\n`unar {archive.name}` or `bsdtar -xf {archive.name}`, then use --from FOLDER."
            )
        else:
            raise DatasetError(f"{archive} is not an archive of a known kind ({', '.join(SUFFIXES)})")
    except DAMAGED as error:
        raise DatasetError(f"{archive} cannot be unpacked ({error}). Download it again.") from None
    except OSError as error:
        if error.errno in (None, errno.EINVAL):  # of a decompressor, of an offset before the beginning
            raise DatasetError(f"{archive} cannot be unpacked ({error}). Download it again.") from None
        if error.errno in TWICE:
            raise DatasetError(f"{archive} contains two files of one name: {error.filename}") from None
        if error.errno == errno.ENAMETOOLONG:
            text = f"{archive} contains a file name that is too long for this disk: {error.filename}"
            raise DatasetError(text) from None
        raise


def _only_images(archive: Path, members: list[Member]) -> list[Member]:
    """Return the images; raises DatasetError for an archive without any."""
    images = [
        member
        for member in members
        if not member.link
        and has_image_suffix(PurePosixPath(member.name).name)
        and MACOS_METADATA not in PurePosixPath(member.name).parts
    ]
    if large := [member for member in images if member.size > LARGEST_IMAGE]:
        raise DatasetError(f"{archive} contains {large[0].name} of {large[0].size} bytes, more than an image has")
    nested = [member.name for member in members if member.name.lower().endswith((*UNSUPPORTED, *SUFFIXES))]
    if nested and not images:
        raise DatasetError(
            f"{archive} contains {len(nested)} archives ({nested[0]}, ...): unpack all of them, then use --from FOLDER"
        )
    if not images:
        raise DatasetError(f"{archive} contains no image")
    return images
