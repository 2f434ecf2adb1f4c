"""Get a dataset's images below the data root: download or link, verify, unpack. No torch."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

from ddbench.datasets.archives import NoRoomError, unpack
from ddbench.datasets.folders import how_to_get
from ddbench.datasets.info import (
    RECORD,
    DataPaths,
    DatasetError,
    DatasetInfo,
    HubCopy,
    MissingDataError,
    UnreachableError,
)
from ddbench.datasets.listing import list_files
from ddbench.datasets.transfer import download_file
from ddbench.utils.files import locked, make_once, write_json

log = logging.getLogger("ddbench")


def fetch(info: DatasetInfo, data_paths: DataPaths, from_path: Path | None = None) -> Path:
    """Return the folder <root>/<name> with the whole dataset below it, made now if there is none.

    from_path: the user's archive, which is unpacked, or folder, which is linked; None downloads the archive, or the
    copy on the Hugging Face hub if there is no archive or its address does not answer. An interrupted download
    continues. Data that is not the whole dataset leaves no folder. Raises DatasetError if the data cannot be had,
    naming the way out.
    """
    if data_paths.root is None:
        raise DatasetError(f"{info.base} needs a data root, and none was given.\n{how_to_get(info)}")
    folder = data_paths.root.absolute() / info.base
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(f"{folder.name}.fetching")):  # two processes download once
        if folder.exists():
            _require_complete(info, folder, data_paths, f"{folder} exists already: remove it, then repeat the command.")
        elif from_path is None:
            _download(info, folder, data_paths, data_paths.root.absolute() / ".downloads")
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


def _download(info: DatasetInfo, folder: Path, data_paths: DataPaths, downloads: Path) -> None:
    """Download the dataset's archive, else its copy on the hub, and write its images to `folder`."""
    if not info.address and info.copy is None:
        raise DatasetError(f"{info.base} cannot be downloaded: it has no stable public address.\n{how_to_get(info)}")
    downloads.mkdir(parents=True, exist_ok=True)
    if info.address:
        try:
            _download_and_unpack(info, folder, data_paths, downloads)
            return
        except UnreachableError as error:
            if info.copy is None:
                raise
            log.warning("%s\nThe %s replaces it.", str(error).splitlines()[0], info.copy.description)
    if info.copy:
        _download_copy(info, info.copy, folder, data_paths, downloads)


def _download_copy(info: DatasetInfo, copy: HubCopy, folder: Path, data_paths: DataPaths, downloads: Path) -> None:
    """Download a copy of the hub to the folder `downloads`, write its images to `folder`, and delete the download."""
    from ddbench.datasets.hub_copy import download_copy, write_copy  # the hub's client: half a second

    files, revision = download_copy(info, copy, downloads, data_paths.quiet)

    def write(partial: Path) -> None:
        facts = write_copy(info, copy, files, partial)
        _require_complete(info, partial, data_paths, f"Nothing of the copy {copy.repo} was kept.")
        counts = ", ".join(f"{count} {suffix[1:].upper()}" for suffix, count in facts["images"].items())
        log.info("%s: %s. Files: %s; names: %s", info.base, copy.encoding, counts, facts["names"])
        write_json(partial / RECORD, {"hub": copy.repo, "revision": revision, "encoding": copy.encoding, **facts})

    try:
        make_once(folder, write)
    except NoRoomError:
        raise
    except DatasetError:
        shutil.rmtree(files)
        raise
    shutil.rmtree(files)


def _download_and_unpack(info: DatasetInfo, folder: Path, data_paths: DataPaths, downloads: Path) -> None:
    """Download the archive to the folder `downloads`, unpack it to `folder`, and delete it."""
    if not info.checksum:
        log.warning("%s has no published checksum; only classes and counts are checked", info.base)
    archive = downloads / (info.archive or info.address.rpartition("/")[2])
    download_file(info.address, archive, info.checksum, data_paths.quiet)

    def unpack_and_record(partial: Path) -> None:
        _unpack_whole(info, archive, partial, data_paths)
        write_json(partial / RECORD, {"address": info.address, "checksum": info.checksum})

    try:
        make_once(folder, unpack_and_record)
    except DatasetError as error:
        if info.checksum or isinstance(error, NoRoomError):
            raise
        archive.unlink()
        raise DatasetError(f"{error}\nThe download was deleted: repeat the command to download it again.") from None
    archive.unlink()


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
