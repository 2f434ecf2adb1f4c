"""Small trees of real image files in a dataset's official layout."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

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


class Hub:
    """Datasets behind the addresses of the Hugging Face hub, on this machine.

    asked: (method, path) of every request, in their order.
    down_after: number of requests for files after which the server answers 403; None for never.
    broken: bytes after which the answer with a file breaks off; 0 for never.
    ranges: ranges that requests for files asked for.
    pause: seconds before each file.
    checksums: SHA-256 (hex) by path that the list of files gives in place of the right one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked, self.ranges = folder, [], []
        self.down_after, self.broken, self.pause, self.checksums = None, 0, 0.0, {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def files(self, repo: str, revision: str) -> Path:
        """The folder of a dataset's files at a revision; the newest revision is 1111..."""
        folder = self.folder / repo / revision
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def gotten(self) -> list[str]:
        """Return the paths of the files that were sent."""
        return [path for method, path in self.asked if method == "GET" and "/resolve/" in path]

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(request.path.partition("?")[0])
        self.asked.append((request.command, path))
        if found := re.fullmatch(r"/api/datasets/(\w+/\w+)(?:/revision/(\w+))?", path):
            revision = found[2] or "1" * 40
            self._send(request, {"id": found[1], "sha": revision, "cardData": {"license": "mit"}, "siblings": []})
        elif found := re.fullmatch(r"/api/datasets/(\w+/\w+)/tree/(\w+)", path):
            root = self.folder / found[1] / found[2]
            listed = [
                self._entry(str(file.relative_to(root)), file.stat().st_size, tag(file))
                for file in sorted(root.rglob("*"))
                if file.is_file()
            ]
            self._send(request, listed)
        elif found := re.fullmatch(r"/datasets/(\w+/\w+)/resolve/(\w+)/(.+)", path):
            self._send_file(request, self.folder / found[1] / found[2] / found[3], found[2])
        else:
            request.send_error(404)

    def _entry(self, path: str, size: int, checksum: str) -> dict[str, object]:
        checksum = self.checksums.get(path, checksum)
        lfs = {"lfs": {"oid": checksum, "size": size, "pointerSize": 130}} if path.endswith(".parquet") else {}
        return {"type": "file", "path": path, "size": size, "oid": checksum[:40], **lfs}

    def _send(self, request: BaseHTTPRequestHandler, value: object) -> None:
        data = json.dumps(value).encode()
        request.send_response(200)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    def _send_file(self, request: BaseHTTPRequestHandler, file: Path, revision: str) -> None:
        time.sleep(self.pause)
        if not file.is_file():
            return request.send_error(404)
        if self.down_after is not None and len(self.gotten()) > self.down_after:
            return request.send_error(403)
        data = file.read_bytes()
        byte_range = request.headers.get("Range", "")
        self.ranges += [byte_range] if byte_range else []
        first = int(byte_range.removeprefix("bytes=").partition("-")[0] or 0)
        if first >= len(data):
            return request.send_error(416)
        request.send_response(206 if byte_range else 200)
        request.send_header("ETag", f'"{tag(file)[:40]}"')
        request.send_header("X-Repo-Commit", revision)
        request.send_header("Accept-Ranges", "bytes")
        request.send_header("Content-Length", str(len(data) - first))
        if byte_range:
            request.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        request.end_headers()
        if request.command == "HEAD":
            return None
        if self.broken and first < self.broken:
            request.wfile.write(data[first : self.broken])
            request.close_connection = True
            return None
        request.wfile.write(data[first:])
        return None

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def tag(file: Path) -> str:
    """The SHA-256 (hex) of a file's content."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine in place of huggingface.co."""
    server = Hub(tmp_path / "hub")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.address)
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
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
