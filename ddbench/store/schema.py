"""Strict decoding of the JSON objects below --runs to dataclasses. No torch."""

from __future__ import annotations

import reprlib
import sys
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

SCHEMA = 1  # of the files below --runs

Finite = Annotated[float, Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
NonNegative = Annotated[float, Meta(ge=0, le=sys.float_info.max)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Share = Annotated[float, Meta(ge=0, le=1)]


def decode(value: Any, cls: type[T]) -> T:
    """Return the dataclass `cls` that a JSON object describes; fields with a default may be missing.

    The object has the number of a schema too, which `cls` may lack. Raises ValueError for a newer schema, for a
    missing or unknown field, and for a value of another type or out of its range.
    """
    schema = value.get("schema") if isinstance(value, dict) else None
    if not isinstance(schema, int):
        raise ValueError("is not a file of ddbench")
    if schema > SCHEMA:
        raise ValueError(f"was written by a newer ddbench (schema {schema}, this one knows {SCHEMA})")
    if extra := value.keys() - cls.__dataclass_fields__.keys() - {"schema"}:
        raise ValueError(f"is not a file of ddbench (unknown: {sorted(extra)})")
    try:
        return msgspec.convert(value, cls)
    except msgspec.ValidationError as error:
        expected, _, place = str(error).partition(" - at `$.")
        name = place.rstrip("`")
        where = f"{name} is {reprlib.repr(value[name])}: " if name in value else f"{name}: " if name else ""
        raise ValueError(where + expected) from None
