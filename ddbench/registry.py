"""Methods and datasets by name: entry points of installed packages; methods also by path. No torch.

    ddbench.methods    a frozen dataclass with `name`, `version` and `distill` (see ddbench.types.Distiller)
    ddbench.datasets   a source (see ddbench.datasets.info); ddbench.datasets.lookup also knows folder: and hf:

Names are read from the packages' metadata; nothing is imported until it is loaded.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from contextlib import suppress
from dataclasses import is_dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, cast

from ddbench.errors import UserError, unknown

if TYPE_CHECKING:
    from ddbench.types import Method

KINDS = ("methods", "datasets")

# attributes of a method that its author may leave out (see ddbench.types.Method, ddbench.testing.check_method)
_OPTIONAL = {
    "whole": False,
    "needs_ipc_images": False,
    "parallel": False,
    "citation": "",
    "identity": lambda method: "",
    "check_models": lambda method, readable: None,
    "models": lambda method: {},
    "check_size": 32,
    "check_params": MappingProxyType({}),
}


def names(kind: str) -> tuple[str, ...]:
    """Return all names of one of KINDS, sorted. It loads no plugin, so it lists a broken one too."""
    return tuple(sorted({point.name for point in _points(kind)}))


def load_method(name: str) -> type[Method]:
    """Return the class of a method: a registered name, or `path/to/file.py:Class`.

    Raises UserError as `load_class` does, and for a class that is no method.
    """
    cls = load_class(name)
    title, version = getattr(cls, "name", None), getattr(cls, "version", None)
    has_all = is_dataclass(cls) and callable(getattr(cls, "distill", None)) and type(version) is int
    if not (has_all and isinstance(title, str) and title):
        raise UserError(f"{name} is not a method; `ddbench check {name}` prints what it lacks")
    return cast("type[Method]", with_defaults(cls))


def load_class(name: str) -> type:
    """Return the class behind a method's name as its author wrote it; it may lack parts of a method.

    Raises UserError for an unknown name (with the nearest names), a name that two packages claim, and a plugin that
    cannot be imported.
    """
    return _class_from_file(name) if ":" in name else load_entry("methods", name)


def with_defaults(cls: type) -> type:
    """Give a method's class the attributes that its author may leave out; return it."""
    for name, default in _OPTIONAL.items():
        if not hasattr(cls, name):
            with suppress(TypeError):  # of a built-in class, which is no method
                setattr(cls, name, default)
    return cls


def load_entry(kind: str, name: str) -> Any:
    """Return the object behind the one entry point of this name. Raises UserError as `load_class` does."""
    points = [point for point in _points(kind) if point.name == name]
    if not points and kind == "methods" and name.endswith(".py"):
        raise UserError(f"{name} names no class: write {name}:CLASS")
    if not points:
        raise unknown(kind.removesuffix("s"), name, names(kind))
    packages = {f"{point.dist.name} ({point.value})" if point.dist else point.value for point in points}
    if len(packages) > 1:
        raise UserError(
            f"several packages define '{name}' ({kind}): {' and '.join(sorted(packages))}; uninstall or rename one"
        )
    try:
        return points[0].load()
    except Exception as error:  # a plugin may raise anything: it must stop this name only
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"'{name}' ({kind}) of {packages.pop()} cannot be loaded: {reason}") from error


def module_file(method: str) -> Path | None:
    """Return the file that defines a registered method without importing it; None when it is not found."""
    for point in _points("methods"):
        if point.name == method:
            try:
                spec = importlib.util.find_spec(point.module)
            except Exception:  # finding a module imports the packages around it, which may be broken
                return None
            return Path(spec.origin) if spec and spec.origin else None
    return None


def source_of(name: str) -> str:
    """Return the SHA-256 (hex) of the file behind `path/to/file.py:Class`; empty for a registered method.

    A package raises a method's `version` when its numbers may change. A file under development does not, so its content
    is part of a run's identity.
    """
    if ":" not in name:
        return ""
    return hashlib.sha256(Path(name.rpartition(":")[0]).read_bytes()).hexdigest()


def _points(kind: str) -> list[EntryPoint]:
    return list(entry_points(group=f"ddbench.{kind}"))


def _class_from_file(name: str) -> type:
    """Return the class of `path/to/file.py:Class`; UserError where its name is that of an installed method."""
    file, _, class_name = name.rpartition(":")
    if not file.endswith(".py") or not class_name:
        raise UserError(f"'{name}' is neither a method's name nor path/to/file.py:Class; {_known_methods()}")
    if not Path(file).is_file():
        raise UserError(f"there is no file {file} (in {name}); {_known_methods()}")
    module = _module_from_file(Path(file).resolve())
    if not isinstance(getattr(module, class_name, None), type):
        methods = [key for key, value in vars(module).items() if isinstance(value, type) and hasattr(value, "distill")]
        raise unknown(f"class in {file}", class_name, methods)
    cls = getattr(module, class_name)
    if getattr(cls, "name", "") in names("methods"):
        raise UserError(f"{name} has the name '{cls.name}' of an installed method: give it another name")
    return cls


def _known_methods() -> str:
    return f"known methods: {', '.join(names('methods'))}"


def _module_from_file(path: Path) -> ModuleType:
    """Import a file once, as it is now, under a unique name; dataclasses and type hints need it in sys.modules."""
    key = f"_ddbench_{path.stem}_{hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()[:16]}"
    if key in sys.modules:
        return sys.modules[key]
    spec = importlib.util.spec_from_file_location(key, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file: its name must end in .py")
    module = sys.modules[key] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[key]
        raise UserError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error
    return module
