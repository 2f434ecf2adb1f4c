"""torch.compile for students: code that cannot be compiled runs uncompiled."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def compiler_fallback() -> Iterator[None]:
    """Set up torch.compile: code that cannot be compiled runs uncompiled, with a warning of one line.

    Dropout draws the same numbers as without the compiler. The limit on recompilations counts the shapes of all
    students in a process; a few students with a smaller last batch reach torch's 8.
    """
    import torch._inductor.config

    logger = logging.getLogger("torch._dynamo.convert_frame")
    logger.addFilter(_shorten_traceback)
    try:
        with (
            torch._dynamo.config.patch(suppress_errors=True, recompile_limit=256),
            torch._inductor.config.patch(fallback_random=True),
        ):
            yield
    finally:
        logger.removeFilter(_shorten_traceback)


def _shorten_traceback(record: logging.LogRecord) -> bool:
    """Shorten torch.compile's traceback to its reason."""
    if record.levelno >= logging.WARNING and record.exc_info and record.exc_info[1]:
        error = record.exc_info[1]
        reason = str(error).strip().splitlines() or [""]
        record.msg = f"not compiled, so it runs uncompiled, slower: {type(error).__name__}: {reason[0]}"
        record.args, record.exc_info, record.exc_text = (), None, None
    return True
