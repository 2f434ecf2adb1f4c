"""Versions, commit and device behind a number. No torch."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PACKAGES = (
    *("ddbench", "torch", "torchvision", "kornia", "diffusers", "transformers", "peft"),
    *("numpy", "pillow", "scikit-learn"),
)


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python, of the evaluators, and of the packages that can move a number."""
    from evaluators import VERSION

    installed = {"python": sys.version.split()[0], "evaluators": str(VERSION)}
    for package in PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed


@cache
def commit() -> tuple[str | None, bool | None]:
    """Return ddbench's git commit and True if files differ from it; (None, None) when it is not a checkout."""
    package = Path(__file__).parents[1] / "__init__.py"
    if _git(package.parent, "ls-files", "--error-unmatch", package.name) is None:
        return None, None  # installed into a folder inside another repository
    return _git(package.parent, "rev-parse", "HEAD"), bool(_git(package.parent, "status", "--porcelain"))


def _git(folder: Path, *arguments: str) -> str | None:
    """Return the output of git; None when it fails or is not installed."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Return the device, versions, commit and dirty flag that every file of figures records."""
    revision, dirty = commit()
    return {"device": device_name(device), "versions": versions(), "commit": revision, "dirty": dirty}


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or the number of threads of the CPU (it changes the order of sums)."""
    import torch

    if device.type == "cuda":
        return f"{device.type} ({torch.cuda.get_device_name(device)})"
    return f"{device.type} ({torch.get_num_threads()} threads)"
