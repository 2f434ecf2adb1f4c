"""What a number was made with: versions and the state of the code. No torch."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ddbench

if TYPE_CHECKING:
    import torch

PACKAGES = ("ddbench", "torch", "torchvision", "diffusers", "transformers", "peft", "numpy", "pillow", "scikit-learn")


@cache
def versions() -> dict[str, str]:
    """Versions of Python, of the packages that can move a number, and of the judge."""
    from evaluators import VERSION

    found = {"python": sys.version.split()[0], "evaluators": str(VERSION)}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def commit() -> tuple[str | None, bool | None]:
    """The git commit of ddbench and whether files differ from it; (None, None) when it is not a checkout."""
    here = Path(ddbench.__file__)
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return None, None  # installed into a folder that some other repository happens to contain
    return _git(here.parent, "rev-parse", "HEAD"), bool(_git(here.parent, "status", "--porcelain"))


def _git(folder: Path, *words: str) -> str | None:
    """What git prints; None when it fails or is not there."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def describe_environment(where: torch.device) -> dict[str, Any]:
    """What a figure came from, as every file of figures records it: device, versions, commit, dirty."""
    revision, dirty = commit()
    return {"device": device_name(where), "versions": versions(), "commit": revision, "dirty": dirty}


def device_name(where: torch.device) -> str:
    """What computed: the GPU's name, or the CPU's number of threads (sums are grouped by it)."""
    import torch

    if where.type == "cuda":
        return f"{where.type} ({torch.cuda.get_device_name(where)})"
    return f"{where.type} ({torch.get_num_threads()} threads)"
