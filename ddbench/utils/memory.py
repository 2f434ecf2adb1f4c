"""Peak memory of the process and of a part of its work; garbage collection. Without a GPU it needs no torch."""

from __future__ import annotations

import gc
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PROC = Path("/proc/self")
_highest = 0  # bytes, over the peaks that were reset


class Peak:
    """The peak memory since it was created, of the process and of the GPU in use."""

    def __init__(self, device: Any) -> None:
        global _highest
        _highest = max(_highest, _rss())
        with suppress(OSError):  # Linux: resets the peak that getrusage reports (clear_refs 5, proc(5))
            (PROC / "clear_refs").write_text("5")
        self._cuda = device if device.type == "cuda" else None
        if self._cuda:
            import torch

            torch.cuda.reset_peak_memory_stats(self._cuda)

    def figures(self) -> dict[str, int]:
        """Return rss_bytes, and cuda_bytes on a GPU.

        Only Linux can reset the process's peak; elsewhere rss_bytes is the peak since the process started.
        """
        return {"rss_bytes": _rss()} | ({"cuda_bytes": _allocated(self._cuda)} if self._cuda else {})

    @property
    def compute_bytes(self) -> int:
        """Peak bytes of the GPU in use, else of the process."""
        figures = self.figures()
        return figures.get("cuda_bytes", figures["rss_bytes"])


def peaks(device: Any = None) -> dict[str, int]:
    """Return the peaks of the process so far, in bytes: rss_bytes, and cuda_bytes on the GPU `device` if in use."""
    figures = {"rss_bytes": max(_highest, _rss())}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        figures["cuda_bytes"] = _allocated(device)
    return figures


@contextmanager
def gc_paused() -> Iterator[None]:
    """Pause the garbage collector: faster where 100 000 objects are made that hold no cycles."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def _allocated(device: Any) -> int:
    import torch

    return torch.cuda.max_memory_allocated(device)


def _rss() -> int:
    scale = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes there, kibibytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
