"""`scenes`: the embedded dataset, drawn and not downloaded. No torch until it is loaded.

Run as a module it is one of the processes that draw:
`python -m ddbench.datasets.scenes.source RAW SIZE TRAIN TEST START FIRST STEP`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from tqdm import tqdm

from ddbench.datasets.decode import cores, write_row
from ddbench.datasets.info import DataPaths, Split, flat
from ddbench.datasets.pack import Plan, open_pack, packed, sha256_of
from ddbench.datasets.pack_writer import fresh
from ddbench.datasets.scenes import painter
from ddbench.datasets.splits import fingerprint
from ddbench.utils.files import digest, read_json

if TYPE_CHECKING:
    from ddbench.datasets.verification import Report
    from ddbench.types import Dataset

DRAWING_VERSION: int = getattr(painter, "VERSION", 1)
SOURCES = ("painter.py", "elements.py", "brushes.py")  # a pack is drawn again when the code that drew it changes


@dataclass(frozen=True)
class Scenes:
    """Procedural aerial scenes: so many pictures per class to train and to test, from index ranges that never meet.

    start: index of the first training picture; the dataset's own unless a base model is to learn from scenes.
    """

    per_class_train: int = 100
    per_class_test: int = 50
    start: int = painter.TRAIN_START

    name: ClassVar[str] = "scenes"
    slug: ClassVar[str] = "scenes"
    title: ClassVar[str] = "procedural aerial scenes"
    classes: ClassVar[tuple[str, ...]] = painter.CLASSES
    readable: ClassVar[tuple[str, ...]] = painter.READABLE
    pixels: ClassVar[int] = 64
    resolution: ClassVar[str] = "drawn at any size"
    licence: ClassVar[str] = "Apache-2.0"
    homepage: ClassVar[str] = ""
    citation: ClassVar[str] = "drawn by ddbench"

    @property
    def split_rule(self) -> str:
        """The split in words."""
        return f"{self.per_class_train} train, {self.per_class_test} test of each class by index"

    def describe(self, data_paths: DataPaths) -> Split:
        """The split; the names are "class/index". The fingerprint changes with the drawing's version."""
        train = self._names(self.start, self.per_class_train)
        test = self._names(painter.TEST_START, self.per_class_test)
        return Split(self.split_rule, digest([DRAWING_VERSION, fingerprint(train, test)]), train, test)

    def load(self, data_paths: DataPaths, size: int) -> Dataset:
        """The scenes at size x size pixels, drawn below data_paths.shared the first time."""
        return open_pack(self._packed(data_paths, size), self.name, self.readable)

    def verify(self, data_paths: DataPaths) -> Report:
        """Whether the pack at the native size, drawn now if there is none, is what was drawn."""
        from ddbench.datasets.verification import Report  # imagehash, and with it scipy

        pack = self._packed(data_paths, self.pixels)
        index = read_json(pack / "index.json")
        good = sha256_of(pack / "images.u8") == index["sha256"]
        counts = dict.fromkeys(self.classes, self.per_class_train + self.per_class_test)
        bad = () if good else ("images.u8: changed since it was drawn",)
        return Report(self.name, str(pack), counts, self.sizes(data_paths), bad)

    def sizes(self, data_paths: DataPaths) -> dict[tuple[int, int], int]:
        """How many images have a size (width, height)."""
        return {(self.pixels, self.pixels): len(self.classes) * (self.per_class_train + self.per_class_test)}

    def card(self) -> list[tuple[str, str]]:
        """What to print about it: (label, text)."""
        total = len(self.classes) * (self.per_class_train + self.per_class_test)
        rows = [
            ("title", self.title),
            ("classes", f"{len(self.classes)}: {', '.join(self.classes)}"),
            ("images", str(total)),
        ]
        rows += [
            ("pixels", f"{self.pixels} ({self.resolution})"),
            ("split", self.split_rule),
            ("licence", self.licence),
        ]
        return [*rows, ("citation", f"{self.citation}, version {DRAWING_VERSION} of the drawing")]

    def _names(self, start: int, count: int) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(f"{name}/{start + i}" for i in range(count)) for name in self.classes)

    def _packed(self, data_paths: DataPaths, size: int) -> Path:
        origin = [DRAWING_VERSION, *(sha256_of(Path(__file__).with_name(source)) for source in SOURCES)]
        plan = Plan(self.slug, size, self.classes, self.describe(data_paths), origin)
        return packed(plan, data_paths.shared, self._fill(size, len(plan.names), data_paths.quiet))

    def _fill(self, size: int, total: int, quiet: bool) -> Callable[[Path], None]:
        arguments = [str(n) for n in (size, self.per_class_train, self.per_class_test, self.start)]
        return lambda raw: _draw_on_all_cores([str(raw), *arguments], total, quiet)


SCENES = Scenes()


def _draw_on_all_cores(arguments: list[str], total: int, quiet: bool) -> None:
    """Every core draws every n-th row; each drawn row is one byte in a pipe, for the bar.

    Fresh interpreters: NumPy holds the interpreter's lock, and a fork after torch has started its threads is not safe.
    """
    ticks, tick = os.pipe()
    workers = [_start([*arguments, str(first), str(cores())], tick) for first in range(cores())]
    os.close(tick)
    try:
        with (
            open(ticks, "rb", buffering=0) as done,
            tqdm(total=total, desc="drawing", disable=quiet, leave=False) as bar,
        ):
            while drawn := done.read(4096):
                bar.update(len(drawn))
        if any(worker.wait() for worker in workers):
            raise RuntimeError("a process that was drawing scenes failed; its error is above")
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def _start(arguments: list[str], tick: int) -> subprocess.Popen:
    command, env = fresh("ddbench.datasets.scenes.source", *arguments)
    # one thread each: BLAS threads of several processes would fight for the cores
    return subprocess.Popen(command, env=env | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}, stdout=tick)


def _draw_rows(raw: str, *numbers: str) -> None:
    """Draw rows FIRST, FIRST + STEP, ... of a pack into its file."""
    size, train, test, start, first, step = map(int, numbers)
    split = Scenes(train, test, start).describe(DataPaths(None, Path()))
    names = flat(split.train) + flat(split.test)
    with open(raw, "r+b") as out:
        for row in range(first, len(names), step):
            name, index = names[row].split("/")
            picture = painter.scene(painter.CLASSES.index(name), int(index), size)
            write_row(out.fileno(), row, picture.transpose(2, 0, 1))
            os.write(sys.stdout.fileno(), b".")


if __name__ == "__main__":
    _draw_rows(*sys.argv[1:])
