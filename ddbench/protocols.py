"""Protocols and students by name; a protocol of one's own from a TOML file.

Its name is one that no published protocol can have, so it never ranks with them.

    like = "quick@1"                  # optional: the rows it starts from
    init = "scratch"                  # or "imagenet"
    teacher = ["resnet18", "quick@1"] # optional: who gives soft labels, by which row
    labels = "own"                    # or "hard": a set's own soft labels are not used
    source = "what it is for"
    [recipes.convnet]                 # what differs; without `like`, every field that has no default
    epochs = 100
    [recipes.convnet.augment]
    cutmix = 0.5

`ddbench show quick@1` explains the fields. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ddbench import config
from ddbench.errors import UserError, unknown
from ddbench.utils.files import digest
from evaluators.catalog import STUDENTS
from evaluators.protocols import PROTOCOLS, protocol
from evaluators.recipes import Augment, Protocol, Recipe

TOML = ".toml"
KEYS = ("like", "init", "teacher", "labels", "source", "recipes")


def protocol_names() -> tuple[str, ...]:
    """The published protocols as NAME@VERSION, sorted."""
    return tuple(sorted(PROTOCOLS))


def load_protocol(name: str) -> Protocol:
    """A published protocol (NAME, NAME@VERSION), or the user's `path/to/file.toml`.

    Raises UserError for an unknown name (giving the nearest and all) and for a file that is no protocol.
    """
    if name.endswith(TOML):
        return read(Path(name))
    try:
        return protocol(name)
    except ValueError as error:
        raise UserError(str(error)) from None


def student_names() -> tuple[str, ...]:
    """The students, sorted."""
    return tuple(sorted(STUDENTS))


def check_student(name: str) -> str:
    """The name, if it is a student's; else raises UserError (giving the nearest and all)."""
    if name not in STUDENTS:
        raise unknown("student", name, student_names())
    return name


def read(path: Path) -> Protocol:
    """The protocol that a file says; UserError naming what is off. Its name has a digest of all that moves a number."""
    table = config.read_toml(path)
    for key in table:
        if key not in KEYS:
            raise unknown(f"key of a protocol ({path})", key, KEYS)
    try:
        return _named(path, _built(path, table))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: {error}") from None


def _built(path: Path, table: Mapping[str, Any]) -> Protocol:
    below = protocol(table["like"]) if "like" in table else Protocol("custom", 1, {}, "")
    wanted = table.get("recipes", {})
    if not isinstance(wanted, dict) or not all(isinstance(values, dict) for values in wanted.values()):
        raise ValueError(f"recipes = {wanted!r} is not a table for each student: [recipes.convnet]")
    for student in wanted:
        if student not in STUDENTS:
            raise unknown(f"student ({path})", student, STUDENTS)
    made = {student: _recipe(path, student, values, below) for student, values in wanted.items()}
    if not {**below.recipes, **made}:
        raise ValueError("it has neither a [recipes.STUDENT] nor `like`, the protocol it starts from")
    return replace(
        below,
        recipes={**below.recipes, **made},
        init=table.get("init", below.init),
        teacher=_teacher(table["teacher"]) if "teacher" in table else below.teacher,
        labels=table.get("labels", below.labels),
        source=table.get("source", f"{path.name}{f', like {below.title}' if below.recipes else ''}"),
    )


def _recipe(path: Path, student: str, values: Mapping[str, Any], below: Protocol) -> Recipe:
    """One student's row: the values over those of the row below, where there is one."""
    values, where = dict(values), f"{path}, recipes.{student}"
    old = below.recipes.get(student)
    changes = config.validate(Augment, values.pop("augment", {}), f"{where}.augment")
    plain = config.validate(Recipe, values, where)
    augment = replace(old.augment if old else Augment(), **changes)
    return replace(old, **plain, augment=augment) if old else Recipe(**plain, augment=augment)


def _teacher(words: Any) -> tuple[str, str] | None:
    """(student, protocol), of a published protocol that trains this student; None for []."""
    if words == []:
        return None
    if not (isinstance(words, list) and len(words) == 2):
        raise ValueError(f'teacher = {words!r} is not ["STUDENT", "PROTOCOL"]')
    row = protocol(words[1])
    row.recipe(words[0])
    return words[0], row.title


def _named(path: Path, made: Protocol) -> Protocol:
    made = replace(made, name="custom", version=1, judges=True, size=0)
    content = digest({student: made.identity(student) for student in made.recipes})
    return replace(made, name=f"custom:{path.stem}-{content[:8]}")
