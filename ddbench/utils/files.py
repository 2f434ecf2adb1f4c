"""Canonical JSON, digests, atomic writes, locks, folders that exist only when complete. No torch."""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
import platform
import shutil
import stat
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from filelock import FileLock, Timeout

from ddbench.errors import disk_error
from ddbench.utils.limits import LARGEST_JSON

log = logging.getLogger("ddbench")

PATIENCE = 2.0  # seconds until the number of a process that ends is free

MACOS_METADATA = "__MACOSX"

# suffixes of the image files that are read
IMAGES = frozenset({
    ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg",
    ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
})  # fmt: skip


def canonical(value: Any) -> str:
    """Return JSON text that is the same for equal values: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: Any) -> str:
    """Return the SHA-256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def digest_plain(value: Any) -> str:
    """Return `digest` of a value of lists, dicts, texts and whole numbers alone, in a sixth of its time."""
    try:
        text = msgspec.json.encode(value, order="deterministic")
    except UnicodeEncodeError:  # file names that are not UTF-8
        return digest(value)
    return hashlib.sha256(text).hexdigest() if text.isascii() and b"\x7f" not in text else digest(value)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a temporary file, flush it to the disk, then move it to `path`: the file is complete or absent.

    What a killed process left of the same file is removed. A link at `path` is replaced, not followed. Nor is one at
    the temporary name, whenever it was put there. Raises OSError that names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path.parent.glob(f".{glob.escape(path.name)}.*.tmp"))
    partial = path.with_name(f".{path.name}.{_this_machine()}-{os.getpid()}.tmp")
    try:
        partial.unlink(missing_ok=True)
        with open(partial, "xb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):  # on a disk that is read-only, even for a file that is not there
            partial.unlink(missing_ok=True)


def remove_stale_files(folder: Path) -> None:
    """Remove the temporary files below `folder` of processes that were killed inside `write_bytes`.

    Those of other machines stay, because their processes may live; so do all on a disk that cannot be written. A
    process that ends gives up its locks before its number, so the end of a living one is waited for, up to PATIENCE.
    """
    _remove_stale(folder.rglob(".*.tmp"), PATIENCE)


def _remove_stale(paths: Iterable[Path], patience: float = 0.0) -> None:
    for path in paths:
        machine, _, process = path.name.split(".")[-2].rpartition("-")
        if machine not in ("", _this_machine()) or not process.isdigit():
            continue
        deadline = time.monotonic() + patience
        while (alive := _alive(int(process))) and path.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        if not alive:
            with suppress(OSError):
                path.unlink(missing_ok=True)


@cache
def _this_machine() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's process
        pass
    return True


def write_json(path: Path, value: Any) -> None:
    """Atomically write indented JSON with sorted keys."""
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode())


def read_bytes(path: Path, largest: int) -> bytes:
    """Read a whole file. Raises ValueError for one of more than `largest` bytes, and for a pipe or a device."""
    # without waiting for the writer of a pipe; read whole, so a buffer would only cost
    with open(path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        state = os.fstat(file.fileno())
        if not stat.S_ISREG(state.st_mode):
            raise ValueError(f"{path} is a pipe or a device, not a file")
        if state.st_size > largest:
            raise ValueError(f"{path} has {state.st_size} bytes, more than the {largest} that are read")
        return file.read()


def read_json(path: Path, largest: int = LARGEST_JSON) -> Any:
    """Read a JSON file, with Python's Infinity and NaN if need be. Raises ValueError that names the file."""
    data = read_bytes(path, largest)
    try:
        return msgspec.json.decode(data)
    except (ValueError, RecursionError):
        pass
    try:
        value = json.loads(data)
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair can be written nowhere
        return value
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not readable JSON ({error})") from None


def make_once(folder: Path, make: Callable[[Path], None]) -> bool:
    """Have `make` fill a hidden temporary folder, then rename it to `folder`; return True if it was made now.

    Existence means complete. A lock keeps two processes from making the same folder. After a kill the folder is made
    anew; after an error nothing of it is kept. Files that `make` writes beside its folder, under a longer name, outlive
    a kill (checkpoints); they are removed when the folder is complete. The OSError of a disk that is full or read-only
    names a file or the folder.
    """
    if folder.is_dir():
        _remove_beside(folder)
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        if folder.is_dir():
            return False
        partial = folder.with_name(f".{folder.name}.partial")
        if partial.is_symlink():
            partial.unlink()
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            make(partial)
        except Exception as error:
            shutil.rmtree(partial, ignore_errors=True)
            disk = disk_error(error)
            if disk is None or disk.filename is not None:
                raise
            # of an open file the system names none, and safetensors raises no OSError
            raise OSError(disk.errno, disk.strerror, str(folder)) from error
        for path in partial.rglob("*"):
            if path.is_file():
                with open(path, "rb") as handle:
                    os.fsync(handle.fileno())
        os.replace(partial, folder)
        _remove_beside(folder)
    return True


def _remove_beside(folder: Path) -> None:
    for path in folder.parent.glob(f".{glob.escape(folder.name)}.partial.*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def locked(path: Path, patience: float | None = None) -> AbstractContextManager:
    """Lock a file or folder until the end of the `with`; log a line when another process must be waited for.

    patience: seconds to wait before filelock.Timeout; None waits for ever.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        return lock.acquire(timeout=1 if patience is None else patience)
    except Timeout:
        if patience is not None:
            raise
        log.info("waiting for another process that computes %s", path)
        return lock.acquire()


class Stopwatch:
    """A clock that starts when it is created."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start


def has_image_suffix(name: str) -> bool:
    """Return True for the name of an image file that is not hidden."""
    return name[0] != "." and os.path.splitext(name)[1].lower() in IMAGES
