"""The images of a registered dataset from a copy on the Hugging Face hub. No torch.

The files are downloaded as they are, at one revision, beside the data; a download that was interrupted goes on. A copy
is a table of images and classes (Parquet, read with the library `datasets`), or files in class folders.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ddbench.datasets.archives import NoRoomError
from ddbench.datasets.hub_images import HubName, WrittenImages, write_images
from ddbench.datasets.info import DatasetError, DatasetInfo, HubCopy, UnreachableError
from ddbench.datasets.transfer import TIMEOUT, download_file
from ddbench.errors import UserError
from ddbench.utils.files import has_image_suffix
from ddbench.utils.progress import progress_bar
from ddbench.utils.units import format_bytes

log = logging.getLogger("ddbench")

PARQUET = ".parquet"
AT_ONCE = 8  # files
FEW = 20  # files that have progress of their own


def download_copy(info: DatasetInfo, copy: HubCopy, downloads: Path, quiet: bool) -> tuple[Path, str]:
    """Download a copy's files below `downloads`; return their folder and revision: the one in the facts, or the newest.

    Files that arrived earlier stay, and parts of files are continued. Raises UnreachableError if the hub cannot be
    reached or lacks the revision, NoRoomError if the disk is too small.
    """
    if copy.files.endswith(PARQUET):
        _require_datasets(info)
    from huggingface_hub import HfApi, hf_hub_url
    from huggingface_hub.hf_api import RepoFile

    try:
        revision = str(HfApi().dataset_info(copy.repo, revision=copy.revision or None, timeout=TIMEOUT).sha)
        tree = HfApi().list_repo_tree(copy.repo, revision=revision, repo_type="dataset", recursive=True)
        files = [file for file in tree if isinstance(file, RepoFile) and fnmatch(file.path, copy.files)]
        if any(".." in Path(file.path).parts for file in files):
            raise ValueError("a path leaves its folder")
    except Exception as error:  # the hub, its client and the network raise errors of several libraries
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UnreachableError(_unreachable(info, copy, reason)) from None
    log.info("%s: from https://huggingface.co/datasets/%s, revision %s", info.base, copy.repo, revision)
    folder = downloads / f"{info.base}-{revision[:12]}.hub"
    # twice the size: the files, and the images that are then written
    need, free = 2 * sum(file.size for file in files), shutil.disk_usage(downloads).free + _size(folder)
    if need > free:
        room = f"{downloads} has {format_bytes(free)} free"
        raise NoRoomError(f"{info.base} needs {format_bytes(need)} while it is downloaded, {room}")

    def download(file: RepoFile) -> None:
        address = hf_hub_url(copy.repo, file.path, repo_type="dataset", revision=revision)
        checksum = f"SHA-256 {file.lfs.sha256}" if file.lfs else ""
        download_file(address, folder / file.path, checksum, quiet or len(files) > FEW)

    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        done = pool.map(download, files)
        for _ in progress_bar(done, desc=f"downloading {info.base}", total=len(files), hidden=quiet):
            pass
    except UnreachableError as error:
        raise UnreachableError(_unreachable(info, copy, str(error).splitlines()[0])) from None
    finally:
        pool.shutdown(cancel_futures=True)
    return folder, revision


def _unreachable(info: DatasetInfo, copy: HubCopy, reason: str) -> str:
    return (
        f"{info.base}: the copy {copy.repo} of the Hugging Face hub cannot be downloaded ({reason}).\n"
        f"Repeat the command to continue, or get the images from {info.source or info.homepage} and use --from "
        "ARCHIVE_OR_FOLDER."
    )


def write_copy(info: DatasetInfo, copy: HubCopy, files: Path, folder: Path) -> dict[str, Any]:
    """Write the images among the downloaded `files` into class folders in `folder`.

    Returns facts about them as JSON values: their number by suffix, and if they have the names that the copy stored.
    Raises DatasetError if there are none, or one cannot be read.
    """
    tables = sorted(files.rglob(f"*{PARQUET}")) if copy.files.endswith(PARQUET) else []
    if not tables:
        return {"images": _copy_folders(info, files, folder), "names": "of the copy's files"}
    import datasets

    data = datasets.load_dataset(
        "parquet", data_files={"row": list(map(str, tables))}, streaming=True, cache_dir=str(files / ".cache")
    )
    try:
        written = write_images(HubName(copy.repo, label=copy.label), data, folder, ())
    except UserError as error:
        raise DatasetError(f"{info.base}: {error}") from None
    named = _restore_names(written, folder)
    return {
        "images": dict(Counter(Path(path).suffix for path in written.files["row"])),
        "names": "as stored in the copy" if named else "numbers of the copy's rows",
    }


def _copy_folders(info: DatasetInfo, files: Path, folder: Path) -> dict[str, int]:
    """Copy the image files of class folders; return their number by suffix."""
    images = [path for path in sorted(files.rglob("*")) if has_image_suffix(path.name) and path.parent != files]
    if not images:
        raise DatasetError(f"{info.base}: the copy on the Hugging Face hub has no image")
    for path in images:
        (folder / path.parent.name).mkdir(exist_ok=True)
        shutil.copy2(path, folder / path.parent.name / path.name)
    return dict(Counter(path.suffix.lower() for path in images))


def _restore_names(written: WrittenImages, folder: Path) -> bool:
    """Rename the images to the file names that their rows have; return False unless all have one of their own.

    Names decide the split: with the release's names a copy is split as the release is.
    """
    names = {path: f"{Path(path).parent}/{Path(name).stem}{Path(path).suffix}" for path, name in written.stored.items()}
    all_named = all(has_image_suffix(name) for name in written.stored.values() if name) and all(written.stored.values())
    if not all_named or len({name.casefold() for name in names.values()}) < len(names):
        return False
    for path, name in names.items():
        (folder / path).rename(folder / name)
    return True


def _size(folder: Path) -> int:
    """Return the bytes of the files below a folder, 0 if there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _require_datasets(info: DatasetInfo) -> None:
    """Raise DatasetError unless the library `datasets` is installed."""
    from importlib.util import find_spec

    if find_spec("datasets") is None:
        raise DatasetError(
            f"{info.base}: its copy on the Hugging Face hub is a table, which needs the library `datasets`: "
            "pip install 'ddbench[hf]'"
        )
