"""`ddbench list`, `ddbench show` and `ddbench check`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ddbench.cli.common import (
    ANY_NAME,
    KINDS,
    METHOD,
    format_option,
    format_table,
    names_of,
    preset_names,
)
from ddbench.errors import unknown
from ddbench.utils.text_table import fit_prose, terminal_width

if TYPE_CHECKING:
    from ddbench.config import FieldInfo

SHOWN_AS = ("text", "markdown", "json")


@click.command("list")
@click.argument("kind", type=click.Choice([*KINDS, "presets"]))
@format_option()
def list_names(kind: str, form: str) -> None:
    """Print all names of one kind, one per line.

    `list presets` prints the method and the preset.

    \b
    Examples:
      ddbench list methods
      ddbench list presets
    """
    if kind == "presets":
        heads = ["method", "preset"]
        rows = [[method, preset] for method in names_of("methods") for preset in preset_names(method)]
    else:
        heads, rows = [kind.removesuffix("s")], [[name] for name in names_of(kind)]
    click.echo("\n".join(map(" ".join, rows)) if form == "text" else format_table(rows, heads, form))


@click.command()
@click.argument("name", type=ANY_NAME)
@format_option("text", SHOWN_AS)
def show(name: str, form: str) -> None:
    """Explain a method, dataset, student, protocol or base model.

    Prints every field with its default and meaning, and the citation.

    \b
    Examples:
      ddbench show dpd
      ddbench show quick@1
      ddbench show text2earth
      ddbench show my_protocol.toml
    """
    kind = _kind(name)
    parts = _SHOW[kind](name)
    if form == "json":
        texts = [part for part in parts if isinstance(part, str) and part]
        tables = [json.loads(format_table(part.rows, part.heads, form)) for part in parts if isinstance(part, Table)]
        record = {"name": name, "kind": kind.removesuffix("s"), "text": texts, "tables": tables}
        click.echo(json.dumps(record, indent=2, ensure_ascii=False))
        return
    width = (terminal_width() if form == "text" else None) or sys.maxsize
    paragraphs = [
        fit_prose(part, width) if isinstance(part, str) else format_table(part.rows, part.heads, form) for part in parts
    ]
    click.echo("\n\n".join(filter(None, paragraphs)))


@click.command()
@click.argument("method", metavar="METHOD", type=METHOD)
@format_option()
def check(method: str, form: str) -> None:
    """Check that a method keeps the contract.

    METHOD is NAME or FILE.py:CLASS. The check distils a few small images. The exit status is 1 if a check fails.

    \b
    Example:
      ddbench check my_method.py:MyMethod
    """
    from ddbench.registry import load_class

    cls = load_class(method)
    from ddbench.testing import check_method

    outcomes = check_method(cls)
    rows = [("ok" if outcome.ok else "FAILED", outcome.name, outcome.detail) for outcome in outcomes]
    if form == "text":
        click.echo("\n".join(f"{state:6}  {name}{detail and ': '}{detail}" for state, name, detail in rows))
    else:
        click.echo(format_table(rows, ("outcome", "check", "detail"), form))
    if not all(outcome.ok for outcome in outcomes):
        raise SystemExit(1)


def _kind(name: str) -> str:
    """Return the kind of a name. An ambiguous name is of the first of KINDS that has it."""
    from ddbench.datasets.name import DatasetName
    from ddbench.protocols import TOML

    if name.endswith(TOML):
        return "protocols"
    if ":" in name:
        return "methods" if DatasetName.parse(name).registered else "datasets"
    for kind in KINDS:
        if name in names_of(kind):
            return kind
    if name in {title.partition("@")[0] for title in names_of("protocols")}:  # without a version
        return "protocols"
    from ddbench.utils.bases import known_bases

    if name in {row.repo for row in known_bases().values() if row.repo}:
        return "bases"
    raise unknown("name", name, [known for kind in KINDS for known in names_of(kind)])


class Table(NamedTuple):
    """A table of `ddbench show`."""

    rows: Sequence[Sequence[str]]
    heads: Sequence[str]


Parts = list[str | Table]


def _show_method(name: str) -> Parts:
    from ddbench import config
    from ddbench.registry import load_method

    cls = load_method(name)
    fields = [
        (field.name, field.default, f"{field.type} ({field.unit})" if field.unit else field.type, field.meaning)
        for field in config.describe_fields(cls)
    ]
    table = Table(fields, ("field", "default", "type", "meaning")) if fields else "no hyper-parameters"
    head = f"{cls.name} (method, version {cls.version})"
    files = [(preset, config.preset_purpose(file)) for preset, file in config.presets(cls).items()]
    presets = Table(files, ("preset", "for")) if files else "no presets"
    citation = f"citation: {cls.citation}" if cls.citation else ""
    return [head, config.description(cls), presets, table, *_published_accuracies(name), citation]


def _published_accuracies(method: str) -> Parts:
    """Return the table of what the method's paper printed, with the preset and protocol that follow it, or nothing."""
    from ddbench.leaderboard.published import published
    from ddbench.protocols import protocol_names

    lines = []
    for row in published(method):
        missing = "" if row.protocol in protocol_names() else " (not in this version)"
        lines.append(
            (row.preset or "defaults", row.protocol + missing, row.student, row.dataset, row.accuracies(), row.source)
        )
    if not lines:
        return []
    head = ("preset", "protocol", "student", "dataset", "published accuracy in %", "source")
    return ["published accuracies, not measured here, and what follows the paper:", Table(lines, head)]


def _show_dataset(name: str) -> Parts:
    from ddbench.datasets.lookup import find_dataset

    source = find_dataset(name)
    return [f"{source.name} (dataset)", Table(source.card(), ("field", "value"))]


def _show_student(name: str) -> Parts:
    from ddbench.protocols import load_protocol, protocol_names
    from evaluators.catalog import CATALOG

    rows = [load_protocol(title) for title in protocol_names()]
    titles = ", ".join(row.title for row in rows if name in row.recipes)
    return [f"{name} (student)", fill(CATALOG[name].text, 110), f"protocols (see `ddbench show NAME`): {titles}"]


def _show_protocol(name: str) -> Parts:
    from ddbench.config import describe_fields
    from ddbench.protocols import load_protocol
    from evaluators.recipes import Augment, Recipe

    row = load_protocol(name)
    columns: dict[Recipe, list[str]] = {}  # students of equal recipes share a column
    for student, recipe in row.recipes.items():
        columns.setdefault(recipe, []).append(student)
    heads = ["\n".join(students) for students in columns.values()]
    augments = [recipe.augment for recipe in columns]
    lines = []
    for field in describe_fields(Recipe):
        if field.name != "augment":
            lines.append(_setting_line(field, field.name, columns))
            continue
        for part in describe_fields(Augment):
            if any(getattr(augment, part.name) != getattr(Augment(), part.name) for augment in augments):
                lines.append(_setting_line(part, f"augment.{part.name}", augments))
    teacher = " by ".join(row.teacher or ("hard",))
    statistics = ", by each batch's statistics" if row.teacher_statistics == "batch" else ""
    of_views = f"of every view, {teacher}{statistics}"
    labels = {"hard": "hard", "own": f"soft ones of the set, else {teacher}", "views": of_views}
    images = "float images of the set, else its 8-bit images" if row.float_images else "8-bit"
    images += ", weighted by the set's weights, if it has some" if row.image_weights else ""
    head = f"{row.title} (protocol)\ninit: {row.init}\nimages: {images}\nlabels: {labels[row.labels]}"
    return [f"{head}\nsource: {row.source}", Table(lines, ("field", *heads, "meaning"))]


def _setting_line(field: FieldInfo, name: str, records: Iterable[Any]) -> tuple[str, ...]:
    """Return the line of a field: its name, its value in each record, its meaning with unit or range."""
    meaning = f"{field.meaning} ({field.unit})" if field.unit else field.meaning
    return name, *(str(getattr(record, field.name)) for record in records), meaning


def _show_base(name: str) -> Parts:
    from ddbench.utils.bases import find_base

    row = find_base(name)
    return [f"{row.name} (base model)", Table(row.card(), ("field", "value"))]


_SHOW = {
    "methods": _show_method,
    "datasets": _show_dataset,
    "students": _show_student,
    "protocols": _show_protocol,
    "bases": _show_base,
}
