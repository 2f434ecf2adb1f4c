"""Check of a JSON object against the fields of a dataclass. No torch."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

SCHEMA = 1  # of the files below --runs


def check_fields(value: Any, cls: type) -> None:
    """Raise ValueError unless `cls(**value)` would have fields of the annotated types, of a schema known here.

    Fields with a default may be missing. The schema's number is removed from `value` where `cls` has no such field.
    """
    if not isinstance(value, dict) or not isinstance(value.get("schema"), int):
        raise ValueError("is not a file of ddbench")
    if value["schema"] > SCHEMA:
        raise ValueError(f"was written by a newer ddbench (schema {value['schema']}, this one knows {SCHEMA})")
    types, required = _schema(cls)
    if "schema" not in types:
        value.pop("schema")
    if not required <= value.keys() <= types.keys():
        missing, extra = sorted(required - value.keys()), sorted(value.keys() - types.keys())
        raise ValueError(f"is not a file of ddbench (missing: {missing}, unknown: {extra})")
    for name, item in value.items():
        if type(item) not in types[name][1]:
            raise ValueError(f"{name} is {item!r}, not {types[name][0]}")


@cache
def _schema(cls: type) -> tuple[dict[str, tuple[str, frozenset[type]]], frozenset[str]]:
    """Return the annotation and the accepted JSON types of every field, and the names without a default."""
    fields = dataclasses.fields(cls)
    required = frozenset(field.name for field in fields if field.default is dataclasses.MISSING)
    return {field.name: (str(field.type), _JSON[str(field.type)]) for field in fields}, required


_JSON: dict[str, frozenset[type]] = {
    "str": frozenset({str}),
    "str | None": frozenset({str, type(None)}),
    "int": frozenset({int}),
    "int | None": frozenset({int, type(None)}),
    "float": frozenset({int, float}),
    "float | None": frozenset({int, float, type(None)}),
    "bool | None": frozenset({bool, type(None)}),
    "Mapping[str, Any]": frozenset({dict}),
    "Mapping[str, str]": frozenset({dict}),
    "Mapping[str, float]": frozenset({dict}),
    "list[list[int]]": frozenset({list}),
}
