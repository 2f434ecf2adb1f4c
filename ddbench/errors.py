"""What goes wrong because of what the user wrote or did not provide, or for want of memory. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

OUT_OF_MEMORY_TEXTS = ("can't allocate memory", "not enough memory", "out of memory", "STATUS_ALLOC_FAILED")


class UserError(Exception):
    """The words are off, or something the user must provide is missing: printed without a trace, exit status 2."""


def unknown(what: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a `name` that is none of the `known`: gives the nearest ones, then all of them."""
    known = sorted(known)
    by_lower = {word.lower(): word for word in known}
    close = [by_lower[word] for word in get_close_matches(name.lower(), by_lower, n=3, cutoff=0.6)]
    hint = f"; did you mean {' or '.join(close)}?" if close else "."
    return UserError(f"unknown {what} '{name}'{hint} Known: {', '.join(known) or 'none'}.")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is memory that could not be had: Python's, PyTorch's, or an error of a library beneath it."""
    names = {cls.__name__ for cls in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or any(
        words in str(error) for words in OUT_OF_MEMORY_TEXTS
    )
