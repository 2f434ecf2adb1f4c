"""Small trees of real image files in a dataset's official layout."""

from __future__ import annotations

import hashlib
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddbench.datasets.info import DataPaths
from ddbench.datasets.source import ClassFolders


def draw(name: str, width: int, height: int) -> Image.Image:
    """Noise that is the same for the same name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def grow_tree(folder: Path, classes: Sequence[str], count: int, suffix: str = ".png", side: int = 8) -> Path:
    """`count` noise images in each class folder: beach/beach00.png, ..."""
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            draw(f"{name}{i}", side, side).save(folder / name / f"{name}{i:02d}{suffix}")
    return folder


@pytest.fixture
def picture() -> Callable[..., Image.Image]:
    return draw


@pytest.fixture
def grow() -> Callable[..., Path]:
    return grow_tree


class Served:
    """A folder behind HTTP on this machine, with ranges. broken: bytes after which the next answer breaks off."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked, self.broken = folder, [], 0
        served = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                served.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path, wanted = self.folder / request.path.strip("/"), request.headers.get("Range", "")
        self.asked.append((request.path, wanted))
        if not path.is_file():
            return request.send_error(404)
        data = path.read_bytes()
        first = int(wanted.removeprefix("bytes=").removesuffix("-") or 0)
        request.send_response(206 if wanted else 200)
        request.send_header("Content-Length", str(len(data) - first))
        if wanted:
            request.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        request.end_headers()
        cut, self.broken = self.broken or len(data), 0
        request.wfile.write(data[first : first + cut])
        return None

    def write(self, lines: Mapping[str, Sequence[str]]) -> dict[str, str]:
        """Text files NAME.txt; their SHA-256 by name."""
        for name, words in lines.items():
            (self.folder / f"{name}.txt").write_text("\n".join(words))
        return {name: hashlib.sha256("\n".join(words).encode()).hexdigest() for name, words in lines.items()}

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    (tmp_path / "served").mkdir()
    server = Served(tmp_path / "served")
    yield server
    server.stop()


@pytest.fixture
def data_paths(tmp_path: Path) -> DataPaths:
    return DataPaths(tmp_path / "data", tmp_path / "shared", quiet=True)


@pytest.fixture
def toy() -> ClassFolders:
    """Three classes of ten images, half of them to train; label order is not alphabetical."""
    return ClassFolders(
        name="toy",
        title="Toy Land Use",
        classes=("river", "beach", "forest"),
        readable=("river", "beach", "forest"),
        counts=10,
        pixels=8,
        resolution="1 m",
        licence="public domain",
        homepage="https://example.org/toy",
        citation="nobody",
        folders=("toy/Images", "Images"),
        address="https://example.org/toy.zip",
        checksum="MD5 0123",
        train_fraction=0.5,
    )
