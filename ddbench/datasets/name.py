"""Names of datasets: a registered one, folder:PATH, hf:OWNER/NAME or memory:NAME, and @SPLIT after them. No torch."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

FOLDER = "folder:"
HUB = "hf:"
MEMORY = "memory:"  # torch datasets, given in Python
CSV = ".csv"
LONGEST = 60  # characters of a slug: a file name has at most 255 bytes


@dataclass(frozen=True)
class DatasetName:
    """A dataset's name in its parts; `str` joins them again.

    prefix: "folder:", "hf:", "memory:", or empty for a registered dataset.
    location: the folder's path, OWNER/NAME of the hub, or the name.
    split: the text after the last "@", such as "20", "torchgeo" or "lists/own.csv"; empty for the default split.
    """

    prefix: str
    location: str
    split: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Take a name apart. An "@" in a folder's path separates no split: the folder exists, or a "/" follows it."""
        prefix = next((prefix for prefix in (FOLDER, HUB, MEMORY) if text.startswith(prefix)), "")
        whole = text.removeprefix(prefix)
        location, _, split = whole.rpartition("@")
        if not location or not split:
            return cls(prefix, whole)
        if prefix == FOLDER and (expand(whole).is_dir() or ("/" in split and not split.endswith(CSV))):
            return cls(prefix, whole)
        return cls(prefix, location, split)

    def __str__(self) -> str:
        return f"{self.base}@{self.split}" if self.split else self.base

    @property
    def base(self) -> str:
        """The name without its split."""
        return f"{self.prefix}{self.location}"

    @property
    def registered(self) -> bool:
        """True for the name of an entry point; False for folder:, hf: and memory:."""
        return not self.prefix

    @property
    def display(self) -> str:
        """The name in results: of a folder's path and a CSV file's only the last part, so that they may be moved."""
        folder = expand(self.location).resolve().name if self.prefix == FOLDER else self.location
        split = Path(self.split).name if self.split.endswith(CSV) else self.split
        return str(replace(self, location=folder, split=split))

    @property
    def absolute(self) -> str:
        """The name with absolute paths: it means the same dataset in every working directory."""
        folder = str(expand(self.location).absolute()) if self.prefix == FOLDER else self.location
        split = str(Path(self.split).absolute()) if self.split.endswith(CSV) else self.split
        return str(replace(self, location=folder, split=split))

    @property
    def slug(self) -> str:
        """A file name: letters, digits, ".", "_" and "-", at most LONGEST of them."""
        kind, _, path = str(self).partition(":")
        words = [kind, Path(path).resolve().name] if path else [kind]
        return "-".join("".join(c if c.isalnum() or c in "._" else "-" for c in word) for word in words)[:LONGEST]


def is_folder_name(name: str) -> bool:
    """Return True for a name that is one visible folder below another."""
    return bool(name) and name[0] != "." and not {"/", "\0"} & set(name) and len(os.fsencode(name)) <= 255


def expand(path: str) -> Path:
    """Return a path with the home of "~"; "~NAME" of nobody stays, unlike in `Path.expanduser`."""
    return Path(os.path.expanduser(path))


def display_name(text: str) -> str:
    """Return a dataset's name as results show it (`DatasetName.display`)."""
    return DatasetName.parse(text).display
