"""The dataclass is the schema: its defaults, then a preset, then a TOML file, then `--set key=value`. No torch."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import json
import re
import sys
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import msgspec

from ddbench.errors import UserError, unknown
from ddbench.utils.files import read_bytes
from ddbench.utils.limits import LARGEST_TOML


def param(default: Any, meaning: str, unit: str = "", *, added_later: bool = False) -> Any:
    """Return a dataclass field with its default, its meaning in one line, and its unit or range ("px", "0 to 1").

    `ddbench show` prints all three. The default must be immutable.

    added_later: the field came after runs were made without it: at its default it is no part of a run's identity.
    """
    return dataclasses.field(default=default, metadata={"help": meaning, "unit": unit, "added_later": added_later})


@dataclass(frozen=True)
class FieldInfo:
    """One hyper-parameter as `ddbench show` prints it."""

    name: str
    default: str
    type: str
    unit: str
    meaning: str


class _CliValue(str):
    """Text from the command line: unlike a string in a TOML file, it may be a number."""


def build(
    cls: type,
    preset: str | None = None,
    config_file: Path | None = None,
    sets: Iterable[str] = (),
    settings: Mapping[str, Any] | None = None,
) -> Any:
    """Return an instance of the dataclass `cls`. Later sources win: the defaults, then the arguments in their order.

    sets: "key=value" texts. settings: values by key. Raises UserError that names the key, the value, the type expected,
    and for an unknown key the nearest valid ones.
    """
    values: dict[str, Any] = {}
    if preset is not None:
        values |= _read_preset(cls, method_name(cls), preset)
    if config_file is not None:
        values |= validate(cls, read_toml(Path(config_file)), str(config_file))
    cli_values = {}
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {text!r} is not key=value, for example --set steps=100")
        cli_values[key.strip()] = _CliValue(value.strip())
    values |= validate(cls, cli_values, "--set")
    values |= validate(cls, settings or {}, "settings")
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise UserError(f"{method_name(cls)} does not accept these settings: {error}") from None


def presets(cls: type) -> dict[str, Path]:
    """Return preset name -> TOML file of a method's class."""
    module = sys.modules.get(cls.__module__)
    file = getattr(module, "__file__", None)
    return preset_files(Path(file), method_name(cls)) if file else {}


def preset_files(module: Path, method: str) -> dict[str, Path]:
    """Return preset name -> TOML file, from `presets/<method>/` beside the module, else from `presets/`."""
    folder = module.parent / "presets"
    if (folder / method).is_dir():
        folder /= method
    return _toml_files(folder)


def _toml_files(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def params(instance: Any) -> dict[str, Any]:
    """Return every field of a dataclass instance as JSON values, defaults included; 1.0 for 1 in a float field.

    A field that was added later (`param`) is left out at its default.
    """
    hints = typing.get_type_hints(type(instance))
    values = {}
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if field.metadata.get("added_later") and value == field.default:
            continue
        if hints[field.name] is float and type(value) is int:
            value = float(value)  # equal settings have one digest, whether written 1 or 1.0
        values[field.name] = _plain_json(value)
    return values


def preset_purpose(file: Path) -> str:
    """Return the first sentence of the comment at the head of a preset: what it is for, and what it should reach."""
    lines = file.read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.lstrip("# ") for line in itertools.takewhile(lambda line: line.startswith("#"), lines))
    return re.split(r"(?<=\.)\s", comment, maxsplit=1)[0]


def method_name(cls: type) -> str:
    """Return the name that users know a class by."""
    return str(getattr(cls, "name", cls.__name__))


def describe_fields(cls: type) -> tuple[FieldInfo, ...]:
    """Return name, default, type, unit and meaning of every field.

    Meaning and unit are those that `param` states. A subclass that changes a default alone keeps them.
    """
    hints = typing.get_type_hints(cls)
    stated: dict[str, Mapping[str, Any]] = {}
    for base in reversed(cls.__mro__):
        fields = vars(base).get("__dataclass_fields__", {})
        stated |= {name: field.metadata for name, field in fields.items() if "help" in field.metadata}
    infos = []
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if default is dataclasses.MISSING:
            default = "required"
        infos.append(
            FieldInfo(
                field.name,
                "none" if default is None else str(_plain_json(default)),
                _type_text(hints[field.name]),
                str(stated.get(field.name, {}).get("unit", "")),
                str(stated.get(field.name, {}).get("help", "")),
            )
        )
    return tuple(infos)


def description(cls: type) -> str:
    """Return the class docstring; empty for that which a dataclass gets when its author wrote none."""
    text = inspect.getdoc(cls) or ""
    return "" if text.startswith(f"{cls.__name__}(") else text


def _read_preset(cls: type, method: str, preset: str, visited: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the values of a preset over those of the preset that its key `like` names.

    `like` is NAME, or METHOD/NAME for another method whose presets lie beside the same module. All values are
    settings of `cls`.
    """
    if method == method_name(cls):
        files, title = presets(cls), preset
    else:
        files, title = _toml_files(Path(inspect.getfile(cls)).parent / "presets" / method), f"{method}/{preset}"
    if preset not in files:
        raise unknown(f"preset of {method}" + (f" (`like` of preset {visited[-1]})" if visited else ""), preset, files)
    if title in visited:
        raise UserError(f"presets of {method} extend each other in a circle: {' -> '.join([*visited, title])}")
    values = read_toml(files[preset])
    like = values.pop("like", None)
    base = {}
    if like is not None:
        other, _, name = str(like).rpartition("/")
        base = _read_preset(cls, other or method, name, (*visited, title))
    return base | validate(cls, values, f"preset {title}")


def read_toml(path: Path) -> dict[str, Any]:
    """Return the table of a TOML file. Raises UserError for a file that cannot be read."""
    try:
        return tomllib.loads(read_bytes(path, LARGEST_TOML).decode("utf-8-sig"))  # as Windows' Notepad writes it
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8: save it in UTF-8") from None
    except RecursionError:
        raise UserError(f"{path} is not valid TOML: its values are nested too deep") from None
    except ValueError as error:  # of TOML, of a path with a zero byte
        reason = str(error).partition(" for integer string conversion")[0]  # the rest names a function of Python
        raise UserError(f"{path} is not valid TOML: {reason}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def validate(cls: type, values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return `values` as the types of the fields of `cls`.

    Raises UserError that names `source` for a key that is no field and a value of another type.
    """
    hints = typing.get_type_hints(cls, include_extras=True)
    names = [field.name for field in dataclasses.fields(cls) if field.init]
    for key in values:
        if key not in names:
            raise unknown(f"key of {method_name(cls)} ({source})", key, names)
    fitted = {}
    for key, value in values.items():
        try:
            fitted[key] = _fit(value, hints[key])
        except (ValueError, TypeError):
            text = str(value) if isinstance(value, _CliValue) else repr(value)
            expected = _type_text(hints[key])
            raise UserError(f"{source}: {key} = {text} is invalid; expected {expected}") from None
    return fitted


def _fit(value: Any, kind: Any) -> Any:
    """Return `value` as `kind`; raises ValueError or TypeError when it does not fit, or is not finite."""
    origin, args, strict = typing.get_origin(kind), typing.get_args(kind), True
    if origin in (Union, types.UnionType):
        # none is tried before all other types, text after them
        for one in sorted(args, key=lambda one: (one is not types.NoneType, one is str)):
            with suppress(ValueError, TypeError):
                return _fit(value, one)
        raise ValueError(value)
    if isinstance(value, _CliValue):
        if kind in (bool, types.NoneType):
            value = {"true": True, "false": False, "none": None}.get(value.lower(), value)
        else:
            strict, value = False, str(value)
            if origin is tuple:
                value = [part.strip() for part in value.split(",")] if value else []
    fitted = msgspec.convert(value, kind, strict=strict)
    json.dumps(fitted, allow_nan=False)  # ValueError for a number that is not finite, at any depth
    return fitted


_TYPE_NAMES = {bool: "true or false", int: "an integer", float: "a finite number", str: "text", types.NoneType: "none"}


def _type_text(kind: Any) -> str:
    """Return a type in plain words, for errors and `ddbench show`."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_type_text, args))
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin is tuple:
        many = len(args) == 2 and args[1] is Ellipsis
        items = f"any number of: {_type_text(args[0])}" if many else ", ".join(map(_type_text, args))
        return f"a list ({items})"
    if origin is Annotated:
        bounds = [f" {word} {bound}" for word, bound in (("from", args[1].ge), ("to", args[1].le)) if bound is not None]
        return _type_text(args[0]) + "".join(bounds)
    return _TYPE_NAMES.get(kind, str(kind))


def _plain_json(value: Any) -> Any:
    """Return tuples as lists."""
    if isinstance(value, tuple | list):
        return [_plain_json(item) for item in value]
    return value
