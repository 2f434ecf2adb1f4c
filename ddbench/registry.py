"""What there is, by name: entry points of installed packages, and things given by path. No torch.

    ddbench.methods    a frozen dataclass with `name`, `version` and `distill` (see ddbench.types.Distiller)
    ddbench.datasets   a source (see ddbench.datasets)

Names are read from the packages' metadata; nothing is imported until it is loaded.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from ddbench.datasets.info import CSV, FOLDER, HUB
from ddbench.errors import UserError, unknown

KINDS = ("methods", "datasets", "students", "protocols")
SPLIT = "@"
TOML = ".toml"


def names(kind: str) -> tuple[str, ...]:
    """All names of one of KINDS, sorted. Loads no plugin, so a broken one is listed too."""
    if kind in ("students", "protocols"):
        return _judged(kind)
    return tuple(sorted({point.name for point in _points(kind)}))


def load(kind: str, name: str) -> Any:
    """The class of a method, the source of a dataset, a Protocol, or a student's name.

    Methods may also be `path/to/file.py:Class`, datasets `folder:PATH`, `hf:OWNER/NAME` and `DATASET@SPLIT`, protocols
    `path/to/file.toml`. Raises UserError for an unknown name (giving the nearest and all), a name that two packages
    claim (giving both), and a plugin that cannot be imported (and why).
    """
    if kind == "methods" and ":" in name:
        return _class_from_file(name)
    if kind == "datasets":
        return _dataset(name)
    if kind in ("students", "protocols"):
        return _judge(kind, name)
    return _loaded(kind, _only_point(kind, name))


def module_file(method: str) -> Path | None:
    """The file that defines a registered method, found without importing it; None when it cannot be found."""
    for point in _points("methods"):
        if point.name == method:
            try:
                spec = importlib.util.find_spec(point.module)
            except Exception:  # finding a module imports the packages around it, which may be broken
                return None
            return Path(spec.origin) if spec and spec.origin else None
    return None


def source_of(name: str) -> str:
    """SHA-256 (hex) of the file behind `path/to/file.py:Class`; empty for a registered method.

    A package's method says by its `version` when its numbers may change. A file that is being worked on does not, so
    its content is part of the identity of a run.
    """
    if ":" not in name:
        return ""
    return hashlib.sha256(Path(name.rpartition(":")[0]).read_bytes()).hexdigest()


def short(dataset: str) -> str:
    """A dataset's name in results: of folder:PATH and @FILE.csv the last part: it matters not where they lie."""
    base, at, split = dataset.rpartition(SPLIT)
    if at and split.endswith(CSV):
        return f"{short(base)}{SPLIT}{Path(split).name}"
    if not dataset.startswith(FOLDER):
        return dataset
    path, at, split = dataset.removeprefix(FOLDER).rpartition(SPLIT)
    if not at or "/" in split:
        path, at, split = dataset.removeprefix(FOLDER), "", ""
    return f"{FOLDER}{Path(path).expanduser().resolve().name}{at}{split}"


def _points(kind: str) -> list[EntryPoint]:
    return list(entry_points(group=f"ddbench.{kind}"))


def _only_point(kind: str, name: str) -> EntryPoint:
    found = [point for point in _points(kind) if point.name == name]
    if not found and kind == "methods" and name.endswith(".py"):
        raise UserError(f"which class of {name}? Say {name}:CLASS")
    if not found:
        raise unknown(kind.removesuffix("s"), name, names(kind))
    claims = {_package(point): point for point in found}
    if len(claims) > 1:
        raise UserError(
            f"the name '{name}' ({kind}) is claimed by {' and by '.join(sorted(claims))}; uninstall or rename one"
        )
    return found[0]


def _package(point: EntryPoint) -> str:
    return f"{point.dist.name} ({point.value})" if point.dist else point.value


def _loaded(kind: str, point: EntryPoint) -> Any:
    try:
        return point.load()
    except Exception as error:  # whatever a stranger's module raises: it must stop this name only
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"'{point.name}' ({kind}) of {_package(point)} cannot be loaded: {reason}") from error


def _class_from_file(name: str) -> type:
    """The class of `path/to/file.py:Class`; UserError where its name is that of an installed method."""
    file, _, class_name = name.rpartition(":")
    if not file.endswith(".py") or not class_name:
        raise UserError(f"'{name}' is neither a method's name nor path/to/file.py:Class; {_known_methods()}")
    if not Path(file).is_file():
        raise UserError(f"there is no file {file} (asked for as {name}); {_known_methods()}")
    module = _module_from_file(Path(file).resolve())
    if not isinstance(getattr(module, class_name, None), type):
        known = [key for key, value in vars(module).items() if isinstance(value, type) and hasattr(value, "distill")]
        raise unknown(f"class in {file}", class_name, known)
    cls = getattr(module, class_name)
    if getattr(cls, "name", "") in names("methods"):
        raise UserError(f"{name} calls itself '{cls.name}', as a method that is installed does: give it another name")
    return cls


def _known_methods() -> str:
    return f"known methods: {', '.join(names('methods'))}"


def _module_from_file(path: Path) -> ModuleType:
    """Import a file once, as it is now, under a name of its own; dataclasses and type hints need it in sys.modules."""
    key = f"_ddbench_{path.stem}_{hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()[:16]}"
    if key in sys.modules:
        return sys.modules[key]
    spec = importlib.util.spec_from_file_location(key, path)
    module = sys.modules[key] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[key]
        raise UserError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error
    return module


def _dataset(name: str) -> Any:
    """A source, or one that splits as is said after the last "@" (unless that is in a folder's name)."""
    base, at, split = name.rpartition(SPLIT)
    if not at or (name.startswith(FOLDER) and Path(name.removeprefix(FOLDER)).expanduser().is_dir()):
        return _source(name)
    source = _dataset(base)
    if not hasattr(source, "with_split"):
        raise UserError(f"{name}: {base} has one split, its own; ask for {base}")
    return source.with_split(split)


def _source(name: str) -> Any:
    if name.startswith(HUB):
        from ddbench.datasets.huggingface import hub_source

        return hub_source(name)
    if name.startswith(FOLDER):
        return _folder(name.removeprefix(FOLDER))
    return _loaded("datasets", _only_point("datasets", name))


def _folder(path: str) -> Any:
    if not path:
        raise UserError("folder: needs a path, for example folder:images (one sub-folder per class)")
    from ddbench.datasets.source import folder_source

    return folder_source(Path(path))


def _judged(kind: str) -> tuple[str, ...]:
    from evaluators.catalog import STUDENTS
    from evaluators.protocols import PROTOCOLS

    return tuple(sorted(STUDENTS if kind == "students" else PROTOCOLS))


def _judge(kind: str, name: str) -> Any:
    from evaluators.protocols import protocol

    if kind == "protocols":
        if name.endswith(TOML):
            from ddbench import protocols

            return protocols.read(Path(name))
        try:
            return protocol(name)
        except ValueError as error:
            raise UserError(str(error)) from None
    if name not in names(kind):
        raise unknown("student", name, names(kind))
    return name
