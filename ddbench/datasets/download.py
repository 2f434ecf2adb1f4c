"""Get a dataset's images below the data root: download, or take what the user has; verify, unpack. No torch."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from pathlib import Path

from ddbench.datasets.archives import NoRoomError, unpack
from ddbench.datasets.info import DataPaths, DatasetError, DatasetInfo, MissingDataError
from ddbench.datasets.listing import list_files, way_out
from ddbench.utils.files import locked, make_once

log = logging.getLogger("ddbench")
RETRIES, PATIENCE = 3, 60  # of a transfer that broke off; seconds without a byte


def fetch(info: DatasetInfo, data_paths: DataPaths, given: Path | None = None) -> Path:
    """The folder <root>/<name>, with the whole dataset below it; made now if there is none.

    given: the user's archive, which is unpacked, or folder, to which a link is made; else the archive is downloaded. An
    interrupted download goes on where it stopped. What does not hold the dataset, whole, leaves no folder. Raises
    DatasetError where that cannot be done, saying what can.
    """
    if data_paths.root is None:
        raise DatasetError(f"where shall {info.base} lie?\n{way_out(info)}")
    folder = data_paths.root.absolute() / info.base
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(f"{folder.name}.fetching")):  # two at once download once
        if folder.exists():
            _whole(info, folder, data_paths, f"{folder} is there already: remove it, then run again.")
        elif given is not None and given.is_dir():
            _whole(info, given.absolute(), data_paths, f"{given} was not linked to.")
            folder.symlink_to(given.absolute(), target_is_directory=True)
        elif given is not None:
            make_once(folder, lambda partial: _unpacked(info, given, partial, data_paths))
        else:
            _downloaded(info, folder, data_paths)
    return folder


def published(info: DatasetInfo, data_paths: DataPaths) -> dict[str, str]:
    """The published lists of `facts`: "train" or "test" by file name; downloaded once, below data_paths.shared."""
    sides: dict[str, str] = {}
    if info.lists is None:
        raise DatasetError(f"{info.base} has no published lists")
    for side, checksum in info.lists.checksums.items():
        path = data_paths.shared / f"lists-{info.base}" / f"{side}.txt"
        get(info.lists.address.format(side=side), path, f"SHA-256 {checksum}", data_paths.quiet)
        sides |= dict.fromkeys(path.read_text(encoding="utf-8").split(), side)
    return sides


def get(address: str, path: Path, checksum: str, quiet: bool) -> None:
    """Download a file, unless it is there; what another attempt left is gone on with.

    checksum: "SHA-256 <hex>" or "MD5 <hex>", empty where none is published. Raises DatasetError when the address does
    not answer, or what it sent is not that file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path):
        if not path.exists():
            arriving = path.with_name(f"{path.name}.arriving")
            _transfer(address, arriving, quiet)
            _check(arriving, address, checksum)
            arriving.rename(path)


def _downloaded(info: DatasetInfo, folder: Path, data_paths: DataPaths) -> None:
    archive = data_paths.root.absolute() / ".downloads" / (info.archive or info.address.rpartition("/")[2])
    _download(info, archive, data_paths.quiet)
    try:
        make_once(folder, lambda partial: _unpacked(info, archive, partial, data_paths))
    except DatasetError as error:
        if info.checksum or isinstance(error, NoRoomError):
            raise
        archive.unlink()
        raise DatasetError(f"{error}\nWhat was downloaded was thrown away: run again to get it anew.") from None
    archive.unlink()


def _download(info: DatasetInfo, archive: Path, quiet: bool) -> None:
    if not info.address:
        raise DatasetError(f"{info.base} has no address from which it can be downloaded.\n{way_out(info)}")
    if not info.checksum:
        log.warning("%s: no checksum was ever published; classes and counts are what is checked", info.base)
    get(info.address, archive, info.checksum, quiet)


def _transfer(address: str, path: Path, quiet: bool) -> None:
    import gdown  # requests: half a second
    import requests

    try:
        gdown.download(
            address, str(path), quiet=quiet, resume=True, use_cookies=False, timeout=PATIENCE, retries=RETRIES
        )
    except (gdown.exceptions.DownloadError, requests.exceptions.RequestException) as error:
        raise DatasetError(
            f"{address} cannot be downloaded ({error}).\n"
            "Run the same command again to go on where it stopped, or get the file elsewhere and say --from FILE."
        ) from None


def _check(path: Path, address: str, checksum: str) -> None:
    kind, _, wanted = checksum.partition(" ")
    if not wanted:
        return
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, kind.replace("-", "").lower()).hexdigest()
    if found != wanted:
        path.unlink()
        raise DatasetError(
            f"what {address} sent has {kind} {found}, not {wanted}: it was thrown away. Try again; if that does not "
            "help, somebody changed the file."
        )


def _unpacked(info: DatasetInfo, archive: Path, partial: Path, data_paths: DataPaths) -> None:
    if not archive.is_file():
        raise DatasetError(f"there is no {archive}")
    count = unpack(archive, partial, data_paths.quiet)
    _whole(info, partial, data_paths, f"{archive} was unpacked, and nothing of it kept.")
    log.info("unpacked %d images of %s", count, archive)


def _whole(info: DatasetInfo, folder: Path, data_paths: DataPaths, otherwise: str) -> None:
    """DatasetError, ending with `otherwise`, unless all classes and images of the dataset are in `folder`."""
    try:
        list_files(replace(info, folders=(str(folder),)), data_paths)
    except MissingDataError:
        some = ", ".join(info.classes[:3])
        raise DatasetError(f"{folder} holds no class folder of {info.base} ({some}, ...). {otherwise}") from None
    except DatasetError as error:
        raise DatasetError(f"{str(error).splitlines()[0]}\n{otherwise}") from None
