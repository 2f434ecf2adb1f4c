"""Protocols and students by name; a user's protocol from a TOML file.

No published protocol can have the name of a user's, so the two never rank together.

    like = "quick@1"                  # optional: the rows it starts from
    init = "scratch"                  # or "imagenet"
    teacher = ["resnet18", "quick@1"] # optional: the network that gives soft labels, and its protocol
    labels = "own"                    # or "hard"; or "views": the teacher's of every augmented view
    teacher_statistics = "running"    # or "batch": the teacher of views normalises each batch by itself
    float_images = false              # true: train on a set's float images if it has some
    image_weights = false             # true: weigh each image's loss by a set's weights if it has some
    source = "what it is for"
    [recipes.convnet]                 # differences; without `like`, every field without a default
    epochs = 100
    [recipes.convnet.augment]
    cutmix = 0.5

`ddbench show quick@1` explains the fields. No torch.
"""

from __future__ import annotations

from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

from ddbench.config import read_toml, validate
from ddbench.errors import UserError, unknown
from ddbench.utils.files import digest
from evaluators.catalog import STUDENTS
from evaluators.protocols import PROTOCOLS, protocol
from evaluators.recipes import Augment, Protocol, Recipe

TOML = ".toml"
KEYS = (
    "like", "init", "teacher", "teacher_statistics", "labels", "float_images", "image_weights", "source", "recipes",
)  # fmt: skip


def protocol_names() -> tuple[str, ...]:
    """Return the published protocols as NAME@VERSION, sorted."""
    return tuple(sorted(PROTOCOLS))


def load_protocol(name: str) -> Protocol:
    """Return a published protocol (NAME, NAME@VERSION), or the user's `path/to/file.toml`.

    Raises UserError for an unknown name (with the nearest names) and for an invalid file.
    """
    if name.endswith(TOML):
        return read_protocol(Path(name))
    try:
        return protocol(name)
    except ValueError as error:
        raise UserError(str(error)) from None


def student_names() -> tuple[str, ...]:
    """Return the students, sorted."""
    return tuple(sorted(STUDENTS))


def check_student(name: str) -> str:
    """Return the name of a student. Raises UserError for any other, with the nearest names."""
    if name not in STUDENTS:
        raise unknown("student", name, student_names())
    return name


def read_protocol(path: Path) -> Protocol:
    """Read a user's protocol. Its name has a digest of every value that moves a number.

    Raises UserError that names the file, the key and the valid values.
    """
    table = read_toml(path)
    for key in table:
        if key not in KEYS:
            raise unknown(f"key of a protocol ({path})", key, KEYS)
    for key in ("like", "init", "labels", "teacher_statistics", "source"):
        if not isinstance(table.get(key, ""), str):
            raise UserError(f"{path}: {key} = {table[key]!r} is invalid; expected text")
    for key in ("float_images", "image_weights"):
        if not isinstance(table.get(key, False), bool):
            raise UserError(f"{path}: {key} = {table[key]!r} is invalid; expected true or false")
    try:
        base = protocol(table["like"]) if "like" in table else Protocol("custom", 1, {}, "")
        recipes = {**base.recipes, **_recipes(path, table.get("recipes", {}), base)}
        if not recipes:
            raise ValueError("it needs a table [recipes.STUDENT], or `like` with the name of a protocol to start from")
        row = replace(
            base,
            recipes=recipes,
            init=table.get("init", base.init),
            teacher=_teacher(table["teacher"]) if "teacher" in table else base.teacher,
            teacher_statistics=table.get("teacher_statistics", base.teacher_statistics),
            labels=table.get("labels", base.labels),
            float_images=table.get("float_images", base.float_images),
            image_weights=table.get("image_weights", base.image_weights),
            source=table.get("source", f"{path.name}{f', like {base.title}' if base.recipes else ''}"),
        )
        row = replace(row, name="custom", version=1, evaluates=True, size=0)
        content = digest({student: row.identity(student) for student in row.recipes})
        return replace(row, name=f"custom:{path.stem}-{content[:8]}")
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: {error}") from None


def _recipes(path: Path, tables: Any, base: Protocol) -> dict[str, Recipe]:
    """Return the recipe of each student in the file: its values over those of the base protocol, if it has one."""
    if not isinstance(tables, dict) or not all(isinstance(values, dict) for values in tables.values()):
        raise ValueError(f"recipes = {tables!r} is not a table for each student: [recipes.convnet]")
    for student in tables:
        if student not in STUDENTS:
            raise unknown(f"student ({path})", student, STUDENTS)
    recipes = {}
    for student, table in tables.items():
        values, source, old = dict(table), f"{path}, recipes.{student}", base.recipes.get(student)
        changes = values.pop("augment", {})
        if not isinstance(changes, dict):
            raise ValueError(f"augment = {changes!r} is not a table: [recipes.{student}.augment]")
        changes = validate(Augment, changes, f"{source}.augment")
        values = validate(Recipe, values, source)
        missing = [field.name for field in fields(Recipe) if field.default is MISSING and field.name not in values]
        if missing and not old:
            raise ValueError(f"recipes.{student} needs {', '.join(missing)}, or a protocol to start from: `like`")
        augment = replace(old.augment if old else Augment(), **changes)
        recipes[student] = replace(old, **values, augment=augment) if old else Recipe(**values, augment=augment)
    return recipes


def _teacher(value: Any) -> tuple[str, str] | None:
    """Return (student, protocol) of a published protocol that trains this student; None for []."""
    if value == []:
        return None
    if not (isinstance(value, list) and len(value) == 2):
        raise ValueError(f'teacher = {value!r} is not ["STUDENT", "PROTOCOL"]')
    row = protocol(value[1])
    row.recipe(value[0])
    return value[0], row.title
