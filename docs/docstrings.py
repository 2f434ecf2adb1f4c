"""A griffe extension: `name: meaning` in a docstring becomes an item of a list on the page."""

from __future__ import annotations

import re
from typing import Any

from griffe import Class, Extension, Function, Object


class FieldLists(Extension):
    """Begin an item where a sentence begins with the names of fields or parameters and a colon."""

    def on_class_members(self, *, cls: Class, **_: Any) -> None:
        write_items(cls, set(cls.members))

    def on_function(self, *, func: Function, **_: Any) -> None:
        write_items(func, {parameter.name for parameter in func.parameters})


def write_items(obj: Object, known: set[str]) -> None:
    def item(match: re.Match) -> str:
        names = match["names"].split(", ")
        return "\n\n- " + ", ".join(f"`{name}`" for name in names) + ": " if known.issuperset(names) else match[0]

    if obj.docstring:
        obj.docstring.value = re.sub(r"(?:(?<=[.;\"]) |\n)(?P<names>\w+(?:, \w+)*): ", item, obj.docstring.value)
