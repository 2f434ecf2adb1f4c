"""Decode images into a pack: in threads, or many small ones in processes, one for each core. No torch."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from ddbench.datasets.decode import map_images, read_rgb, square
from ddbench.datasets.info import DataPaths, DatasetError
from ddbench.datasets.pack import write_row
from ddbench.datasets.processes import WorkerError, cores, run_workers
from ddbench.utils.images import UnreadableImageError

log = logging.getLogger("ddbench")

MANY = 5000  # images from which on processes pack them: small ones keep the interpreter busier than Pillow
NAMED = 5  # files that a message names
Row = tuple[int, str, str]  # row of the pack, name, path


def write_squares(raw: Path, names: Sequence[str], paths: Mapping[str, str], size: int, data_paths: DataPaths) -> None:
    """Write one square image per name to the existing file `raw`, in order; `paths` maps a name to its file.

    Writes row by row, so memory does not grow with the dataset. Raises DatasetError with the number of unreadable
    files and the first few of them.
    """
    if len(names) >= MANY and cores() > 1:
        unreadable, several = write_in_processes(raw, names, paths, size, data_paths)
    else:
        with open(raw, "r+b") as out:

            def write(row: int, image: Image.Image) -> None:
                write_row(out.fileno(), row, square(image, size, data_paths.resize))

            _, unreadable, several = map_images(write, names, paths, "packing", data_paths.quiet)
    if unreadable:
        head = f"{len(unreadable)} of {len(names)} images in {os.path.commonpath(paths.values())} cannot be read:"
        rest = [f"  and {len(unreadable) - NAMED} more"] if len(unreadable) > NAMED else []
        lines = [head, *(f"  {line}" for line in unreadable[:NAMED]), *rest, "Replace them, then repeat the command."]
        raise DatasetError("\n".join(lines))
    if several:
        more = f" and {len(several) - NAMED} more" if len(several) > NAMED else ""
        log.warning("files with several images, of which the first is used: %s%s", ", ".join(several[:NAMED]), more)


def write_in_processes(
    raw: Path, names: Sequence[str], paths: Mapping[str, str], size: int, data_paths: DataPaths
) -> tuple[list[str], list[str]]:
    """Do the work of `write_squares` in processes.

    Returns "name: reason" of unreadable files, and the names of files with several pictures. Raises OSError for a disk
    that is full.
    """
    rows = [(row, name, paths[name]) for row, name in enumerate(names)]
    write_rows = partial(_write_rows, size=size, resize=data_paths.resize)
    try:
        reports = run_workers(write_rows, raw, rows, "packing", data_paths.quiet)
    except WorkerError as error:
        raise DatasetError(str(error)) from None
    unreadable, several = (
        [text for _, text in sorted((row, text) for report in reports for row, text in report[kind])]
        for kind in ("unreadable", "several")
    )
    return unreadable, several


def _write_rows(descriptor: int, rows: Sequence[Row], size: int, resize: str) -> dict[str, Any]:
    """Write the images of some rows; return the unreadable files and those with several pictures."""
    report: dict[str, list[tuple[int, str]]] = {"unreadable": [], "several": []}
    for row, name, path in rows:
        try:
            image, count = read_rgb(path)
        except UnreadableImageError as error:
            report["unreadable"].append((row, f"{name}: {error.reason}"))
            continue
        if count > 1:
            report["several"].append((row, name))
        write_row(descriptor, row, square(image, size, resize))
    return report
