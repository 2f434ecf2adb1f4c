"""Datasets by name: registered ones, folder:PATH, hf:OWNER/NAME, and DATASET@SPLIT of any of them. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ddbench.datasets.info import CSV, FOLDER, HUB
from ddbench.errors import UserError
from ddbench.registry import load_entry

SPLIT = "@"


def find_dataset(name: str) -> Any:
    """The source of that name; one that splits as is said after the last "@" (unless that is in a folder's name).

    Raises UserError for an unknown name, a folder without classes, and a split that the dataset has not.
    """
    base, at, split = name.rpartition(SPLIT)
    if not at or (name.startswith(FOLDER) and Path(name.removeprefix(FOLDER)).expanduser().is_dir()):
        return _source(name)
    source = find_dataset(base)
    if not hasattr(source, "with_split"):
        raise UserError(f"{name}: {base} has one split, its own; ask for {base}")
    return source.with_split(split)


def display_name(dataset: str) -> str:
    """A dataset's name in results: of folder:PATH and @FILE.csv the last part: it matters not where they lie."""
    base, at, split = dataset.rpartition(SPLIT)
    if at and split.endswith(CSV):
        return f"{display_name(base)}{SPLIT}{Path(split).name}"
    if not dataset.startswith(FOLDER):
        return dataset
    path, at, split = dataset.removeprefix(FOLDER).rpartition(SPLIT)
    if not at or "/" in split:
        path, at, split = dataset.removeprefix(FOLDER), "", ""
    return f"{FOLDER}{Path(path).expanduser().resolve().name}{at}{split}"


def absolute_name(dataset: str) -> str:
    """The same dataset, folder: and @FILE.csv as they are found from any working directory."""
    base, at, split = dataset.rpartition(SPLIT)
    if at and split.endswith(CSV):
        return f"{absolute_name(base)}{SPLIT}{Path(split).absolute()}"
    if dataset.startswith(FOLDER):
        return f"{FOLDER}{Path(dataset.removeprefix(FOLDER)).expanduser().absolute()}"
    return dataset


def _source(name: str) -> Any:
    if name.startswith(HUB):
        from ddbench.datasets.huggingface import hub_source

        return hub_source(name)
    if not name.startswith(FOLDER):
        return load_entry("datasets", name)
    if name == FOLDER:
        raise UserError("folder: needs a path, for example folder:images (one sub-folder per class)")
    from ddbench.datasets.source import folder_source  # Pillow: a name alone does not need it

    return folder_source(Path(name.removeprefix(FOLDER)))
