"""Peak memory: of the process, and of a part of its work. No torch where nothing computes on a GPU."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from pathlib import Path
from typing import Any

PROC = Path("/proc/self")
_highest = 0  # of the peaks that were forgotten
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, MMAP_MAX = -1, -2, -3, -4  # malloc.h of glibc
PAD_BYTES = 64 << 20  # the heap grows by this much more than is asked for


def keep_freed() -> bool:
    """Have glibc keep freed memory for what is asked for next; whether it does.

    By default it maps every tensor above 32 MB anew and gives it back at once: each step then waits for the kernel to
    zero pages it has just had (a third of a ConvNet's training step on a virtual machine). Memory that is kept is only
    given back by `Peak`, so a process stays as large as it ever was. Other C libraries, and a process whose user set
    MALLOC_* variables, are left as they are.
    """
    libc = _glibc()
    if libc is None or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    return all(libc.mallopt(*how) for how in ((MMAP_MAX, 0), (TRIM_THRESHOLD, -1), (TOP_PAD, PAD_BYTES)))


def give_back() -> None:
    """Undo `keep_freed`: the thresholds that a process which frees large tensors ends at (mallopt(3))."""
    if libc := _glibc():
        usual = ((MMAP_MAX, 65536), (MMAP_THRESHOLD, 32 << 20), (TRIM_THRESHOLD, 64 << 20), (TOP_PAD, 128 << 10))
        for how in usual:
            libc.mallopt(*how)


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None


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
    def where_it_computes(self) -> int:
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
    """Have Linux begin a new peak (clear_refs 5, proc(5)), which getrusage reports too, at what is in use now."""
    global _highest
    _highest = max(_highest, _rss())
    if libc := _glibc():
        libc.malloc_trim(0)
    try:
        (PROC / "clear_refs").write_text("5")
    except OSError:
        return
