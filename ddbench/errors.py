"""Errors that users can catch, nearest-name suggestions, and out of memory. No torch."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from difflib import get_close_matches

DISK_ERRORS = {  # of a disk that cannot be written, with the text that libraries without OSError have
    errno.ENOSPC: "No space left on device",
    errno.EDQUOT: "Disk quota exceeded",
    errno.EROFS: "Read-only file system",
}
OUT_OF_MEMORY_TEXTS = ("can't allocate memory", "not enough memory", "out of memory", "STATUS_ALLOC_FAILED")


class Error(Exception):
    """Any error of ddbench whose message says what is wrong and what to do."""


class UserError(Error):
    """Invalid arguments or missing user data: printed without a trace, exit status 2."""


class FailedRunError(Error):
    """A distillation or the training of a student failed; the message names each with its reason."""


def unknown(kind: str, name: str, names: Iterable[str]) -> UserError:
    """Return the error for a `name` that is none of `names`: it gives the nearest, then all of them."""
    names = sorted(names)
    by_lower = {word.lower(): word for word in names}
    close = [by_lower[word] for word in get_close_matches(name.lower(), by_lower, n=3, cutoff=0.6)]
    hint = f"; did you mean {' or '.join(close)}?" if close else "."
    return UserError(f"unknown {kind} '{name}'{hint} Known: {', '.join(names) or 'none'}.")


def is_out_of_memory(error: BaseException) -> bool:
    """Return True for Python's and PyTorch's out of memory, and for that of a library below them."""
    types = {cls.__name__ for cls in type(error).__mro__}
    return bool(types & {"MemoryError", "OutOfMemoryError"}) or any(text in str(error) for text in OUT_OF_MEMORY_TEXTS)


def disk_error(error: BaseException | None) -> OSError | None:
    """Return the error of a disk that is full or read-only, if it is this one or its origin; None for any other.

    It names the file if one of them does.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            return error
        for number, text in DISK_ERRORS.items():
            if text in str(error):
                return OSError(number, text, getattr(error, "filename", None))
        error = error.__cause__ or error.__context__
    return None
