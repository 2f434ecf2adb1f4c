"""Facts of known base models, and whether a model is on this machine. No torch, no network."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from ddbench.errors import unknown
from ddbench.utils.units import format_bytes

WEIGHTS = ("*.safetensors", "*.bin", "*/*.safetensors", "*/*.bin")
INDEX = ("model_index.json", "config.json")  # of a pipeline, of any other model


@dataclass(frozen=True)
class BaseInfo:
    """Facts of a base model, as text where no unit is given.

    name: short name, for `ddbench show`.
    kind: family and condition.
    licence: as its page states it.
    prompts: the prompts that it knows.
    usable: whether the methods can use it as `base`.
    tried: what was tried with it here.
    sources: pages that the facts were read at.
    unseen: datasets of which its card says that it never saw an image.
    repo: OWNER/NAME on the Hugging Face hub, which `--set base=` takes; empty for none.
    files: its files.
    size: bytes to download; 0 if unknown.
    pixels: px, side of the images that it was trained on; 0 if unknown.
    """

    name: str
    kind: str
    licence: str
    prompts: str
    usable: str
    tried: str
    sources: tuple[str, ...]
    repo: str = ""
    files: str = ""
    size: int = 0
    pixels: int = 0
    unseen: tuple[str, ...] = ()

    def card(self) -> list[tuple[str, str]]:
        """Return (label, text) rows for `ddbench show`, without empty ones."""
        rows = [
            ("kind", self.kind),
            ("use", f"--set base={self.repo}" if self.repo else "--preset tiny" if self.name == "tiny" else ""),
            ("usable", self.usable),
            ("size", format_bytes(self.size) if self.size else "not stated"),
            ("files", self.files),
            ("images", f"{self.pixels} px" if self.pixels else ""),
            ("licence", self.licence),
            ("prompts", self.prompts),
            ("tried", self.tried),
            ("never saw", ", ".join(self.unseen)),
            ("read at", "\n".join(self.sources)),
        ]
        return [(label, text) for label, text in rows if text]


@cache
def known_bases() -> dict[str, BaseInfo]:
    """Return the facts of every known base model by its short name."""
    bases: dict[str, BaseInfo] = {}
    for row in _facts()["base"]:
        lists: dict[str, Any] = {name: tuple(row.get(name, ())) for name in ("sources", "unseen")}
        bases[row["name"]] = BaseInfo(**row | lists)
    return bases


@cache
def _facts() -> dict[str, Any]:
    return tomllib.loads((files("ddbench.utils") / "bases.toml").read_text(encoding="utf-8"))


def find_base(name: str) -> BaseInfo:
    """Return the facts of a base model by its short name or hub id. Raises UserError for an unknown one."""
    for row in known_bases().values():
        if name in (row.name, row.repo):
            return row
    raise unknown("base model", name, known_bases())


def size_of(model: str) -> int:
    """Return the bytes to download of a model by hub id; 0 if they are not known."""
    sizes = {row.repo: row.size for row in known_bases().values()} | _facts()["sizes"]
    return int(sizes.get(model, 0))


def is_local(model: str) -> bool:
    """Return True if a model (folder, hub id, or `tiny`) is on this machine: embedded, or with weights on this disk."""
    if model == "tiny":
        return True
    folder = Path(model)
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            paths = [try_to_load_from_cache(model, name) for name in INDEX]
        except HFValidationError:  # a path that does not exist
            return False
        cached = [path for path in paths if isinstance(path, str)]
        if not cached:
            return False
        folder = Path(cached[0]).parent
    return any(path.exists() for pattern in WEIGHTS for path in folder.glob(pattern))
