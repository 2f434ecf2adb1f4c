"""Labels of a table's rows: the method, its preset, and the settings in which rows of one preset differ. No torch."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddbench.store.records import RunSpec

MOST_SETTINGS, LONGEST = 3, 24  # settings in a label, letters of one


def method_title(method: str, preset: str | None) -> str:
    """Return "dpd (tiny)"; the method alone without a preset."""
    return f"{method} ({preset})" if preset else method


def row_labels(specs: Mapping[str, RunSpec], presets: Mapping[str, str | None]) -> dict[str, str]:
    """Return a label of each row, all different, in the order of method and preset, then of settings.

    "dpd (tiny)"; where several rows have a method and preset, with what differs: "dpd (tiny) strength=0.1", "dm (tiny)
    version=2". The beginning of the identity tells rows apart, "dpd (tiny) #1a2b3c", where more than MOST_SETTINGS
    differ or a value is long, where the method's files differ, and where nothing but the weights of a base differs.

    specs, presets: identity of a row -> a spec of it, the name of its preset.
    """
    alike: dict[str, dict[str, RunSpec]] = defaultdict(dict)
    for row, spec in specs.items():
        alike[method_title(spec.method, presets[row])][row] = spec
    labels: dict[str, str] = {}
    for title, rows in sorted(alike.items(), key=lambda item: (item[0].lower(), item[0])):
        settings = differing_settings(rows)
        words = {row: [f"{name}={setting_text(value)}" for name, value in own.items()] for row, own in settings.items()}
        short = all(len(own) <= MOST_SETTINGS and all(len(word) <= LONGEST for word in own) for own in words.values())
        one_file = len({spec.source for spec in rows.values()}) == 1
        for row in sorted(rows, key=lambda row: (_setting_order(settings[row]), row)):
            labels[row] = " ".join([title, *words[row]]) if short and one_file else title
    count = Counter(labels.values())
    return {row: text if count[text] == 1 else f"{text} #{row[:6]}" for row, text in labels.items()}


def differing_settings(specs: Mapping[str, RunSpec]) -> dict[str, dict[str, Any]]:
    """Return the hyper-parameters in which rows differ, by row; the method's version is one.

    specs: identity of a row -> a spec of it.
    """
    params = {row: {**spec.params, "version": spec.method_version} for row, spec in specs.items()}
    first, *others = params.values()
    names = sorted({name for values in params.values() for name in values})
    differ = [name for name in names if any(values.get(name) != first.get(name) for values in others)]
    return {row: {name: values[name] for name in differ if name in values} for row, values in params.items()}


def setting_text(value: object) -> str:
    """Write a value as short as it can be read back: 1 for 1.0."""
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def _setting_order(setting: Mapping[str, Any]) -> list[tuple[str, float, str]]:
    """Return a sort key of settings: numbers by size, other values by their letters."""
    return [
        (name, float(value), "") if isinstance(value, int | float) else (name, math.inf, str(value))
        for name, value in setting.items()
    ]
