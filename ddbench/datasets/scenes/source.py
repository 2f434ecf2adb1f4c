"""`scenes`: the embedded dataset, drawn and not downloaded. No torch until it is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ddbench.datasets.info import DataPaths, Split
from ddbench.datasets.pack import PackContent, make_pack, open_pack, sha256_of, write_row
from ddbench.datasets.processes import run_workers
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
    """Procedural aerial scenes. The indices of training and test pictures never overlap.

    per_class_train, per_class_test: pictures per class on each side.
    start: index of the first training picture; a base model that learns from scenes uses another range.
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
        """The split as a sentence."""
        return f"{self.per_class_train} train, {self.per_class_test} test of each class by index"

    def describe(self, data_paths: DataPaths) -> Split:
        """Return the split; names are "class/index". The fingerprint changes with the drawing's version."""
        train = self._names(self.start, self.per_class_train)
        test = self._names(painter.TEST_START, self.per_class_test)
        return Split(self.split_rule, digest([DRAWING_VERSION, fingerprint(train, test)]), train, test)

    def load(self, data_paths: DataPaths, size: int) -> Dataset:
        """Return the scenes at size x size pixels, drawn below data_paths.shared the first time."""
        return open_pack(self._make_pack(data_paths, size), self.name, self.readable)

    def verify(self, data_paths: DataPaths) -> Report:
        """Compare the pack at the native size, drawn now if there is none, with its SHA-256."""
        from ddbench.datasets.verification import Report  # imagehash, and with it scipy

        pack = self._make_pack(data_paths, self.pixels)
        index = read_json(pack / "index.json")
        same = sha256_of(pack / "images.u8") == index["sha256"]
        counts = dict.fromkeys(self.classes, self.per_class_train + self.per_class_test)
        unreadable = () if same else ("images.u8: changed since it was drawn",)
        return Report(self.name, str(pack), counts, self.sizes(data_paths), unreadable)

    def sizes(self, data_paths: DataPaths) -> dict[tuple[int, int], int]:
        """Count the images by (width, height) in pixels."""
        return {(self.pixels, self.pixels): len(self.classes) * (self.per_class_train + self.per_class_test)}

    def card(self) -> list[tuple[str, str]]:
        """Return (label, text) rows for `ddbench show`."""
        return [
            ("title", self.title),
            ("classes", f"{len(self.classes)}: {', '.join(self.classes)}"),
            ("images", str(len(self.classes) * (self.per_class_train + self.per_class_test))),
            ("pixels", f"{self.pixels} ({self.resolution})"),
            ("split", self.split_rule),
            ("licence", self.licence),
            ("citation", f"{self.citation}, version {DRAWING_VERSION} of the drawing"),
        ]

    def _names(self, start: int, count: int) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(f"{name}/{start + i}" for i in range(count)) for name in self.classes)

    def _make_pack(self, data_paths: DataPaths, size: int) -> Path:
        origin = [DRAWING_VERSION, *(sha256_of(Path(__file__).with_name(source)) for source in SOURCES)]
        content = PackContent(self.slug, size, self.classes, self.describe(data_paths), origin)

        def fill(raw: Path) -> None:
            rows = list(enumerate(content.names))
            run_workers(partial(_draw_rows, size=size), raw, rows, "drawing", data_paths.quiet)

        return make_pack(content, data_paths.shared, fill)


SCENES = Scenes()


def _draw_rows(descriptor: int, rows: Sequence[tuple[int, str]], size: int) -> None:
    """Draw the pictures of rows (row, "class/index") into an open pack."""
    for row, text in rows:
        name, index = text.split("/")
        picture = painter.scene(painter.CLASSES.index(name), int(index), size)
        write_row(descriptor, row, picture.transpose(2, 0, 1))
