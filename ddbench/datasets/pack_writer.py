"""Decode images into a pack: in threads, or many small ones in processes, one for each core. No torch."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

from PIL import Image

from ddbench.datasets.decode import Remarks, map_images, read_with_remarks, square
from ddbench.datasets.info import DataPaths, DatasetError
from ddbench.datasets.pack import write_row
from ddbench.datasets.processes import WorkerError, cores, run_workers

log = logging.getLogger("ddbench")

MANY = 5000  # images from which on processes pack them: small ones keep the interpreter busier than Pillow
NAMED = 5  # files that a message names
Row = tuple[int, str]  # row of the pack, path


def write_squares(raw: Path, names: Sequence[str], paths: Mapping[str, str], size: int, data_paths: DataPaths) -> None:
    """Write one square image per name to the existing file `raw`, in order; `paths` maps a name to its file.

    Writes row by row, so memory does not grow with the dataset. Raises DatasetError with the number of unreadable
    files and the first few of them.
    """
    if len(names) >= MANY and cores() > 1:
        remarks = write_in_processes(raw, names, paths, size, data_paths)
    else:
        with open(raw, "r+b") as out:

            def write(row: int, image: Image.Image) -> None:
                write_row(out.fileno(), row, square(image, size, data_paths.resize))

            _, remarks = map_images(write, names, paths, "packing", data_paths.quiet)
    if remarks.failures:
        head = f"{remarks.failures} of {len(names)} images in {os.path.commonpath(paths.values())} cannot be read:"
        lines = [f"  {len(files)} images, such as {files[0]}: {why}" for why, files in remarks.unsupported.items()]
        lines += [f"  {line}" for line in remarks.damaged[:NAMED]]
        if len(remarks.damaged) > NAMED:
            lines.append(f"  and {len(remarks.damaged) - NAMED} more")
        lines += ["Replace the damaged files, then repeat the command."] * bool(remarks.damaged)
        raise DatasetError("\n".join([head, *lines]))
    for what, files in remarks.unread.items():
        more = f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
        log.warning("%s: %d images: %s%s", what, len(files), ", ".join(files[:NAMED]), more)


def write_in_processes(
    raw: Path, names: Sequence[str], paths: Mapping[str, str], size: int, data_paths: DataPaths
) -> Remarks:
    """Do the work of `write_squares` in processes; return the remarks. Raises OSError for a disk that is full."""
    rows = [(row, paths[name]) for row, name in enumerate(names)]
    write_rows = partial(_write_rows, size=size, resize=data_paths.resize)
    try:
        reports = run_workers(write_rows, raw, rows, "packing", data_paths.quiet)
    except WorkerError as error:
        raise DatasetError(str(error)) from None
    return Remarks.collect(names, chain.from_iterable(reports))


def _write_rows(descriptor: int, rows: Sequence[Row], size: int, resize: str) -> list[tuple[int, str, str]]:
    """Write the images of some rows; return the remarks of `read_with_remarks`."""
    remarks = []
    for row, path in rows:
        image, of_file = read_with_remarks(path, row)
        remarks += of_file
        if image is not None:
            write_row(descriptor, row, square(image, size, resize))
    return remarks
