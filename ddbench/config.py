"""The dataclass is the schema: its defaults, then a preset, then a TOML file, then `--set key=value`. No torch."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import sys
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union

from ddbench.errors import UserError, unknown


def param(default: Any, meaning: str, unit: str = "") -> Any:
    """A dataclass field with its default, its meaning in one line, and its unit or range ("px", "0 to 1").

    `ddbench show` prints all three. The default must be immutable.
    """
    return dataclasses.field(default=default, metadata={"help": meaning, "unit": unit})


@dataclass(frozen=True)
class FieldInfo:
    """One hyper-parameter as `ddbench show` prints it."""

    name: str
    default: str
    type: str
    unit: str
    meaning: str


class _Word(str):
    """A value typed on the command line: unlike a string in a TOML file, it may mean a number."""


def build(cls: type, preset: str | None = None, config_file: Path | None = None, sets: Iterable[str] = ()) -> Any:
    """An instance of the dataclass `cls`. Later sources win: defaults, `preset`, `config_file`, `sets` ("key=value").

    Raises UserError naming the key, the value, what was expected, and for an unknown key the nearest valid ones.
    """
    values: dict[str, Any] = {}
    if preset is not None:
        values |= _preset(cls, preset)
    if config_file is not None:
        values |= validate(cls, read_toml(Path(config_file)), str(config_file))
    values |= validate(cls, _split_sets(sets), "--set")
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise UserError(f"{method_name(cls)} cannot be made from these settings: {error}") from None


def presets(cls: type) -> dict[str, Path]:
    """Preset name -> TOML file, for the method that `cls` is."""
    module = sys.modules.get(cls.__module__)
    file = getattr(module, "__file__", None)
    return preset_files(Path(file), method_name(cls)) if file else {}


def preset_files(module: Path, method: str) -> dict[str, Path]:
    """Preset name -> TOML file. They lie in `presets/` beside the method's module.

    Methods that share a folder with others keep theirs in `presets/<method>/`.
    """
    folder = module.parent / "presets"
    own = folder / method
    return {path.stem: path for path in sorted((own if own.is_dir() else folder).glob("*.toml"))}


def params(instance: Any) -> dict[str, Any]:
    """Every field of a dataclass instance as JSON values: complete, defaults included, 1.0 for 1 in a float."""
    hints = typing.get_type_hints(type(instance))
    return {
        field.name: _plain_json(_as_float(getattr(instance, field.name), hints[field.name]))
        for field in dataclasses.fields(instance)
    }


def method_name(cls: type) -> str:
    """The name users know a class by."""
    return str(getattr(cls, "name", cls.__name__))


def describe_fields(cls: type) -> tuple[FieldInfo, ...]:
    """Return name, default, type, unit and meaning of every field.

    The meaning is what `param` states, or else what the class docstring says after "field name:". A subclass that
    changes a default alone keeps the meaning and the unit.
    """
    hints = typing.get_type_hints(cls)
    in_docstrings = _documented_fields(cls)
    stated: dict[str, Mapping[str, Any]] = {}
    for base in reversed(cls.__mro__):
        own_fields = vars(base).get("__dataclass_fields__", {})
        stated |= {name: field.metadata for name, field in own_fields.items() if "help" in field.metadata}
    return tuple(
        FieldInfo(
            field.name,
            _default(field),
            _type_text(hints[field.name]),
            str(stated.get(field.name, {}).get("unit", "")),
            stated.get(field.name, {}).get("help") or in_docstrings.get(field.name, ""),
        )
        for field in dataclasses.fields(cls)
        if field.init
    )


def description(cls: type) -> str:
    """Return the class docstring without what it says of single fields."""
    text = inspect.getdoc(cls) or ""
    for match in _field_texts(cls, text):
        text = text.replace(match.group(), "")
    return re.sub(r"\n\s*\n\s*", "\n\n", text).strip()


def _default(field: dataclasses.Field) -> str:
    if field.default is not dataclasses.MISSING:
        return "none" if field.default is None else str(_plain_json(field.default))
    if field.default_factory is not dataclasses.MISSING:
        return str(_plain_json(field.default_factory()))
    return "required"


def _documented_fields(cls: type) -> dict[str, str]:
    """Field -> its text in a class docstring; a subclass may leave it to the class that has the field."""
    meanings: dict[str, str] = {}
    for base in cls.__mro__:
        for match in _field_texts(cls, base.__dict__.get("__doc__") or ""):
            for name in re.findall(r"\w+", match.group(1)):
                meanings.setdefault(name, " ".join(match.group(2).split()))
    return meanings


def _field_texts(cls: type, text: str) -> list[re.Match]:
    """Find "name:" or "name, other:" with what follows, up to the next such names or an empty line."""
    name = "|".join(re.escape(field.name) for field in dataclasses.fields(cls))
    names = rf"(?<![\w.])(?:{name})(?:,\s+(?:{name}))*:\s"
    return list(re.finditer(rf"({names})(.*?)(?={names}|\n\s*\n|\Z)", text, re.DOTALL)) if name else []


def _preset(cls: type, preset: str, inner: tuple[str, ...] = ()) -> dict[str, Any]:
    """The values of a preset, over those of the one that its key `like` names."""
    if preset in inner:
        raise UserError(
            f"presets of {method_name(cls)} are like each other in a circle: {' -> '.join([*inner, preset])}"
        )
    values = read_toml(_preset_file(cls, preset))
    like = values.pop("like", None)
    if like is not None and like not in presets(cls):
        raise unknown(f"preset of {method_name(cls)} that preset {preset} is like", str(like), presets(cls))
    below = {} if like is None else _preset(cls, like, (*inner, preset))
    return below | validate(cls, values, f"preset {preset}")


def _preset_file(cls: type, preset: str) -> Path:
    known = presets(cls)
    if preset not in known:
        raise unknown(f"preset of {method_name(cls)}", preset, known)
    return known[preset]


def read_toml(path: Path) -> dict[str, Any]:
    """The table of a TOML file; UserError for one that cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {error}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _split_sets(sets: Iterable[str]) -> dict[str, _Word]:
    values = {}
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {text!r} is not key=value, for example --set steps=100")
        values[key.strip()] = _Word(value.strip())
    return values


def validate(cls: type, values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """`values` with every key a field of `cls`, every value of its field's type; UserError, which names the source."""
    hints = typing.get_type_hints(cls)
    known = [field.name for field in dataclasses.fields(cls) if field.init]
    for key in values:
        if key not in known:
            raise unknown(f"key of {method_name(cls)} ({source})", key, known)
    return {key: _fitted(key, value, hints[key], source) for key, value in values.items()}


def _fitted(key: str, value: Any, kind: Any, source: str) -> Any:
    try:
        return _fit(value, kind)
    except (ValueError, TypeError):
        shown = str(value) if isinstance(value, _Word) else repr(value)
        raise UserError(f"{source}: {key} = {shown} is wrong; expected {_type_text(kind)}") from None


def _fit(value: Any, kind: Any) -> Any:
    """`value` as `kind`; ValueError when it is not one."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return _first(value, args)
    if origin is Literal:
        return _choice(value, args)
    if origin is tuple:
        return _items(value, args)
    if kind not in _PLAIN:
        raise UserError(f"a field of type {kind} cannot be set; use int, float, bool, str, Literal or tuples of them")
    return _PLAIN[kind](value)


def _first(value: Any, kinds: tuple[Any, ...]) -> Any:
    """The first fitting kind: "none" before all others, text after all others."""
    for kind in sorted(kinds, key=lambda kind: (kind is not types.NoneType, kind is str)):
        try:
            return _fit(value, kind)
        except ValueError:
            continue
    raise ValueError(value)


def _choice(value: Any, choices: tuple[Any, ...]) -> Any:
    for choice in choices:
        if (type(choice) is type(value) and choice == value) or (isinstance(value, _Word) and str(choice) == value):
            return choice
    raise ValueError(value)


def _items(value: Any, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    """A tuple from a TOML array, or from "1,2,3"."""
    if isinstance(value, _Word):
        value = [_Word(part.strip()) for part in value.split(",")] if value else []
    if not isinstance(value, list | tuple):
        raise ValueError(value)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    return tuple(_fit(item, kind) for item, kind in zip(value, kinds, strict=True))


def _bool(value: Any) -> bool:
    if isinstance(value, _Word) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    return _only(value, bool)


def _int(value: Any) -> int:
    return int(value) if isinstance(value, _Word) else _only(value, int)


def _float(value: Any) -> float:
    number = float(value) if isinstance(value, _Word) else float(_only(value, int, float))
    if not math.isfinite(number):
        raise ValueError(value)
    return number


def _none(value: Any) -> None:
    if value is not None and value != "none":
        raise ValueError(value)


def _only(value: Any, *kinds: type) -> Any:
    if type(value) not in kinds:
        raise ValueError(value)
    return value


def _text(value: Any) -> str:
    return str(_only(value, str, _Word))


_PLAIN = {bool: _bool, int: _int, float: _float, str: _text, types.NoneType: _none}
_NAMES = {bool: "true or false", int: "an integer", float: "a finite number", str: "text", types.NoneType: "none"}


def _type_text(kind: Any) -> str:
    """What a type accepts, in words."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(_type_text(arg) for arg in args)
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin is tuple:
        many = len(args) == 2 and args[1] is Ellipsis
        inside = f"any number of: {_type_text(args[0])}" if many else ", ".join(map(_type_text, args))
        return f"a list ({inside})"
    return _NAMES.get(kind, str(kind))


def _as_float(value: Any, kind: Any) -> Any:
    """Equal settings have one digest, whether written 1 or 1.0."""
    if kind is float and type(value) is int:
        return float(value)
    return value


def _plain_json(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain_json(item) for item in value]
    return value
