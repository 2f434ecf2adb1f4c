"""Images in a folder for each class: a distilled set, a set that another tool made, an exported one. No torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ddbench.utils.files import MACOS_METADATA, has_image_suffix, read_json
from ddbench.utils.images import open_image


def class_files(folder: Path) -> dict[str, list[Path]]:
    """Return the image files of each class, both sorted by name: of its sub-folders, or of an exported set's folders.

    Hidden files and folders, and those that macOS adds to archives, are left out, as in datasets. Raises ValueError for
    a damaged list of an exported set's folders.
    """
    folders = exported_folders(folder)
    if folders is None:
        visible = (p for p in folder.iterdir() if p.is_dir() and p.name[0] != "." and p.name != MACOS_METADATA)
        folders = {path.name: path for path in visible}
    return {
        name: [file for file in sorted(path.iterdir()) if has_image_suffix(file.name)] if path.is_dir() else []
        for name, path in sorted(folders.items())
    }


def exported_folders(folder: Path) -> dict[str, Path] | None:
    """Return the folder of each class of an exported set (ddbench.runner.image_folder); None for any other folder.

    Raises ValueError for a damaged list.
    """
    path = folder / "manifest.json"
    manifest = read_json(path) if path.is_file() else None
    if not isinstance(manifest, dict) or "folders" not in manifest:
        return None
    names, places = (
        part if isinstance(part, list) and all(isinstance(one, str) for one in part) else []
        for part in (manifest.get("classes"), manifest["folders"])
    )
    if not names or len(set(names)) != len(set(places)) or len(names) != len(places):
        raise ValueError(f"{path}: its folders are not one for each class")
    if wrong := [place for place in places if Path(place).is_absolute() or ".." in Path(place).parts]:
        raise ValueError(f"{path}: {wrong[0]} is not below this folder")
    return {name: folder / place for name, place in zip(names, places, strict=True)}


def read_image(path: Path) -> np.ndarray:
    """Return an image, uint8 (h, w, 3). Raises UnreadableImageError, a ValueError."""
    with open_image(path) as image:
        return np.asarray(image.convert("RGB"))


def read_images(folder: Path, classes: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the images of `<class>/*`, uint8 (n, h, w, 3), class by class, and their labels, int64 (n,).

    Raises ValueError without images, for an unreadable one, and for images of several sizes.
    """
    files = class_files(folder)
    labelled = [(path, label) for label, name in enumerate(classes) for path in files.get(name, [])]
    if not labelled:
        raise ValueError(f"{folder} has no image")
    images = [read_image(path) for path, _ in labelled]
    for (path, _), image in zip(labelled, images, strict=True):
        if image.shape != images[0].shape:
            raise ValueError(f"{path} has {image.shape[1]}x{image.shape[0]} pixels, the first image another size")
    return np.stack(images), np.array([label for _, label in labelled], dtype=np.int64)
