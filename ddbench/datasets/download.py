"""Get a dataset's images below the data root: download or link, verify, unpack. No torch."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from pathlib import Path

from ddbench.datasets.archives import NoRoomError, unpack
from ddbench.datasets.info import DataPaths, DatasetError, DatasetInfo, MissingDataError
from ddbench.datasets.listing import how_to_get, list_files
from ddbench.utils.files import locked, make_once

log = logging.getLogger("ddbench")
RETRIES = 3  # of a transfer that broke off
TIMEOUT = 60  # seconds without a byte


def fetch(info: DatasetInfo, data_paths: DataPaths, from_path: Path | None = None) -> Path:
    """Return the folder <root>/<name> with the whole dataset below it, made now if there is none.

    from_path: the user's archive, which is unpacked, or folder, which is linked; None downloads the archive. An
    interrupted download continues. Data that is not the whole dataset leaves no folder. Raises DatasetError if the
    data cannot be had, naming the way out.
    """
    if data_paths.root is None:
        raise DatasetError(f"{info.base} needs a data root, and none was given.\n{how_to_get(info)}")
    folder = data_paths.root.absolute() / info.base
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(f"{folder.name}.fetching")):  # two processes download once
        if folder.exists():
            _require_complete(info, folder, data_paths, f"{folder} exists already: remove it, then repeat the command.")
        elif from_path is None:
            _download_and_unpack(info, folder, data_paths, data_paths.root.absolute() / ".downloads")
        elif from_path.is_dir():
            _require_complete(info, from_path.absolute(), data_paths, f"{from_path} was not linked.")
            folder.symlink_to(from_path.absolute(), target_is_directory=True)
        else:
            make_once(folder, lambda partial: _unpack_whole(info, from_path, partial, data_paths))
    return folder


def published_lists(info: DatasetInfo, data_paths: DataPaths) -> dict[str, str]:
    """Return "train" or "test" by file name, of the published lists; downloaded once, below data_paths.shared."""
    sides: dict[str, str] = {}
    if info.lists is None:
        raise DatasetError(f"{info.base} has no published lists: use a ratio (@50) or your list (@FILE.csv)")
    for side, checksum in info.lists.checksums.items():
        path = data_paths.shared / f"lists-{info.base}" / f"{side}.txt"
        download_file(info.lists.address.format(side=side), path, f"SHA-256 {checksum}", data_paths.quiet)
        sides |= dict.fromkeys(path.read_text(encoding="utf-8").split(), side)
    return sides


def download_file(address: str, path: Path, checksum: str, quiet: bool) -> None:
    """Download a file unless it exists; continue an interrupted download.

    checksum: "SHA-256 <hex>" or "MD5 <hex>", empty if none is published. Raises DatasetError if the address does not
    answer, or sends another file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path):
        if path.exists():
            return
        partial = path.with_name(f"{path.name}.arriving")
        _transfer(address, partial, quiet)
        kind, _, expected = checksum.partition(" ")
        if expected:
            with open(partial, "rb") as file:
                actual = hashlib.file_digest(file, kind.replace("-", "").lower()).hexdigest()
            if actual != expected:
                partial.unlink()
                raise DatasetError(
                    f"{address} sent a file with {kind} {actual}, not {expected}. It was deleted. Try again. If the "
                    "error remains, the published file has changed."
                )
        partial.rename(path)


def _download_and_unpack(info: DatasetInfo, folder: Path, data_paths: DataPaths, downloads: Path) -> None:
    """Download the archive to the folder `downloads`, unpack it to `folder`, and delete it."""
    if not info.address:
        raise DatasetError(f"{info.base} cannot be downloaded: it has no stable public address.\n{how_to_get(info)}")
    if not info.checksum:
        log.warning("%s has no published checksum; only classes and counts are checked", info.base)
    archive = downloads / (info.archive or info.address.rpartition("/")[2])
    download_file(info.address, archive, info.checksum, data_paths.quiet)
    try:
        make_once(folder, lambda partial: _unpack_whole(info, archive, partial, data_paths))
    except DatasetError as error:
        if info.checksum or isinstance(error, NoRoomError):
            raise
        archive.unlink()
        raise DatasetError(f"{error}\nThe download was deleted: repeat the command to download it again.") from None
    archive.unlink()


def _transfer(address: str, path: Path, quiet: bool) -> None:
    import gdown  # requests: half a second
    import requests

    try:
        gdown.download(
            address, str(path), quiet=quiet, resume=True, use_cookies=False, timeout=TIMEOUT, retries=RETRIES
        )
    except (gdown.exceptions.DownloadError, requests.exceptions.RequestException) as error:
        raise DatasetError(
            f"{address} cannot be downloaded ({error}).\n"
            "Repeat the command to continue, or get the file elsewhere and use --from FILE."
        ) from None


def _unpack_whole(info: DatasetInfo, archive: Path, partial: Path, data_paths: DataPaths) -> None:
    if not archive.is_file():
        raise DatasetError(f"there is no file {archive}")
    count = (info.unpack or unpack)(archive, partial, data_paths.quiet)
    _require_complete(info, partial, data_paths, f"Nothing of {archive} was kept.")
    log.info("unpacked %d images of %s", count, archive)


def _require_complete(info: DatasetInfo, folder: Path, data_paths: DataPaths, consequence: str) -> None:
    """Raise DatasetError, ending with `consequence`, unless all classes and images of the dataset are in `folder`."""
    try:
        list_files(replace(info, folders=(str(folder),)), data_paths)
    except MissingDataError:
        some = ", ".join(info.classes[:3])
        raise DatasetError(f"{folder} has no class folder of {info.base} ({some}, ...). {consequence}") from None
    except DatasetError as error:
        raise DatasetError(f"{str(error).splitlines()[0]}\n{consequence}") from None
