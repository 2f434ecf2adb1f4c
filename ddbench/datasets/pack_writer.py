"""Fill a pack: in threads, or for many small images in processes of their own, one for each core. No torch.

Run as a module it is one of them: `python -m ddbench.datasets.pack_writer RAW SIZE RESIZE`, its rows as JSON on
standard input. Fresh interpreters: a fork after torch has started its threads is not safe, and what `multiprocessing`
spawns runs the user's script again.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ddbench.datasets.decode import BATCH, NAMED, Unreadable, cores, each_image, opened, writer
from ddbench.datasets.info import DataPaths, DatasetError

log = logging.getLogger("ddbench")

MANY = 5000  # images from which on processes pack them: small ones keep the interpreter busier than Pillow
MOST = 16  # processes: each has about 60 MB
Row = tuple[int, str, str]  # its number, the image's name, its path


def write_squares(raw: Path, names: Sequence[str], paths: Mapping[str, str], size: int, data_paths: DataPaths) -> None:
    """Fill the file `raw` with one square per name, in order; raises DatasetError that counts every unreadable file.

    Written in place, file by file: memory does not grow with the dataset.
    """
    if len(names) >= MANY and cores() > 1:
        bad, several = write_in_processes(raw, names, paths, size, data_paths)
    else:
        with open(raw, "r+b") as out:
            pack = writer(out.fileno(), size, data_paths.resize)
            _, bad, several = each_image(pack, names, paths, "packing", data_paths.quiet)
    if bad:
        raise DatasetError(unreadable_text(bad, len(names), os.path.commonpath(paths.values())))
    if several:
        more = f" and {len(several) - NAMED} more" if len(several) > NAMED else ""
        log.warning("the first picture is used of files with several: %s%s", ", ".join(several[:NAMED]), more)


def unreadable_text(bad: Sequence[str], total: int, folder: str) -> str:
    """The error for unreadable files: how many, the first few, the way out."""
    more = [f"  and {len(bad) - NAMED} more"] if len(bad) > NAMED else []
    head = f"{len(bad)} of {total} images in {folder} cannot be read:"
    return "\n".join([head, *(f"  {line}" for line in bad[:NAMED]), *more, "Replace them, then run again."])


def write_in_processes(
    raw: Path, names: Sequence[str], paths: Mapping[str, str], size: int, data_paths: DataPaths
) -> tuple[list[str], list[str]]:
    """Fill every row of the file `raw`: "name: reason" of what cannot be read; names of files with several pictures."""
    rows = [(row, name, paths[name]) for row, name in enumerate(names)]
    count = min(cores(), MOST)
    parts = [rows[first::count] for first in range(count)]
    workers = [_start(raw, size, data_paths.resize, part) for part in parts]
    found: list[dict[str, Any]] = []
    try:
        with (
            ThreadPoolExecutor(len(workers)) as pool,
            tqdm(total=len(rows), desc="packing", disable=data_paths.quiet, leave=False, dynamic_ncols=True) as bar,
        ):
            for lines in pool.map(lambda worker: _listen(worker, bar), workers):
                found += lines
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
            if worker.stdout:
                worker.stdout.close()
    bad, several = (sorted((row, what) for line in found for row, what in line[kind]) for kind in ("bad", "several"))
    return [what for _, what in bad], [name for _, name in several]


def fresh(module: str, *arguments: object) -> tuple[list[str], dict[str, str]]:
    """The command and the environment of a new interpreter that runs a module of ours, wherever it was found."""
    package = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    return [sys.executable, "-P", "-m", module, *map(str, arguments)], os.environ | {"PYTHONPATH": paths}


def _start(raw: Path, size: int, resize: str, rows: Sequence[Row]) -> subprocess.Popen:
    """A process that reads its rows from a file without a name: one that dies leaves no pipe to break."""
    command, env = fresh("ddbench.datasets.pack_writer", raw, size, resize)
    with tempfile.TemporaryFile("w+") as given:
        json.dump(rows, given)
        given.seek(0)
        return subprocess.Popen(command, env=env, stdin=given, stdout=subprocess.PIPE, text=True)


def _listen(worker: subprocess.Popen, bar: tqdm) -> list[dict[str, Any]]:
    """What a process says of its rows. Raises OSError for a disk that is full."""
    found = []
    for line in worker.stdout or ():
        told = json.loads(line)
        if "errno" in told:
            raise OSError(told["errno"], told["error"], told["file"])
        bar.update(told["done"])
        found.append(told)
    if status := worker.wait():
        raise DatasetError(f"a process that was packing ended with status {status} (-9: it was killed); run again")
    return found


def _work(raw: str, size: int, resize: str) -> None:
    """Pack the rows of standard input; a line of JSON for every few of them."""
    rows = json.load(sys.stdin)
    with open(raw, "r+b") as out:
        write = writer(out.fileno(), size, resize)
        for start in range(0, len(rows), BATCH):
            told: dict[str, Any] = {"bad": [], "several": [], "done": len(rows[start : start + BATCH])}
            for row, name, path in rows[start : start + BATCH]:
                try:
                    image, count = opened(name, path)
                except Unreadable as error:
                    told["bad"].append((row, str(error)))
                    continue
                told["several"] += [(row, name)] if count > 1 else []
                write(row, image)
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    try:
        _work(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    except BrokenPipeError:  # whoever asked is gone
        os._exit(1)
    except OSError as error:
        print(json.dumps({"errno": error.errno, "error": error.strerror, "file": sys.argv[1]}), flush=True)
