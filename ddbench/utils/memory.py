"""Peak memory: of the process, and of a part of its work. No torch where nothing computes on a GPU."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

PROC = Path("/proc/self")
_highest = 0  # of the peaks that were forgotten


class Peak:
    """The largest memory since it was made: of the process, and on the GPU where one computes."""

    def __init__(self, device: Any) -> None:
        self._cuda = device if device.type == "cuda" else None
        _forget_peak()
        if self._cuda:
            import torch

            torch.cuda.reset_peak_memory_stats(self._cuda)

    def figures(self) -> dict[str, int]:
        """rss_bytes, and cuda_bytes on a GPU.

        Where the system cannot forget a peak (other than Linux), rss_bytes is the process's peak so far.
        """
        return {"rss_bytes": _rss()} | ({"cuda_bytes": _allocated(self._cuda)} if self._cuda else {})

    @property
    def compute_bytes(self) -> int:
        """Bytes of the GPU, where one computes, else of the process."""
        found = self.figures()
        return found.get("cuda_bytes", found["rss_bytes"])


def peaks(device: Any = None) -> dict[str, int]:
    """The process's peaks so far, in bytes: resident, and on the GPU `device` when one is in use."""
    found = {"rss_bytes": max(_highest, _rss())}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["cuda_bytes"] = _allocated(device)
    return found


def _allocated(device: Any) -> int:
    import torch

    return torch.cuda.max_memory_allocated(device)


def _rss() -> int:
    scale = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes there, kibibytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def _forget_peak() -> None:
    """Have Linux begin a new peak (clear_refs 5, proc(5)), which getrusage reports too."""
    global _highest
    _highest = max(_highest, _rss())
    try:
        (PROC / "clear_refs").write_text("5")
    except OSError:
        return
