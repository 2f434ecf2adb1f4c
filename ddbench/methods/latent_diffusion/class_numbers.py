"""The numbers that a base conditioned by class has for a dataset's classes, from a TOML file. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from ddbench.config import read_toml
from ddbench.errors import UserError

EMBEDDED = {name: Path(str(files("ddbench.methods.latent_diffusion") / "classes" / f"{name}.toml"))
            for name in ("imagenet", "imagenet10", "imagenette", "imagewoof")}  # fmt: skip


def read_class_numbers(name: str) -> dict[str, int]:
    """Return class name -> number of an embedded map (EMBEDDED) or of a TOML file of lines `name = number`.

    Upper case, hyphens and underscores do not count in names. Raises UserError for a file that cannot be read and for a
    value that is no number from 0 on.
    """
    path = EMBEDDED.get(name, Path(name))
    if not path.is_file():
        raise UserError(f"base_classes={name}: there is no such file; embedded are {', '.join(EMBEDDED)}")
    table = read_toml(path)
    for key, value in table.items():
        if type(value) is not int or value < 0:
            raise UserError(f"{path}: {key} = {value!r} is invalid; expected the number of a class, 0 or more")
    return {normalise(key): value for key, value in table.items()}


def class_numbers(name: str, classes: Sequence[str], readable: Sequence[str]) -> tuple[int, ...]:
    """Return the number of each class, looked up by its name, else by its readable name.

    Raises UserError naming the classes that the file lacks, and classes with one number.
    """
    table = read_class_numbers(name)
    numbers = [table.get(normalise(a), table.get(normalise(b))) for a, b in zip(classes, readable, strict=True)]
    if missing := [a for a, number in zip(classes, numbers, strict=True) if number is None]:
        some = ", ".join(missing[:10]) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
        raise UserError(
            f"base_classes={name} has no number for {some}. Add lines NAME = NUMBER to a TOML file and name it, or "
            f"name one that has these classes; embedded are {', '.join(EMBEDDED)}"
        )
    present = [number for number in numbers if number is not None]
    if twice := [a for a, number in zip(classes, present, strict=True) if present.count(number) > 1]:
        raise UserError(f"base_classes={name} has one number for several classes: {', '.join(twice)}")
    return tuple(present)


def normalise(name: str) -> str:
    """Return a name in lower case, with single spaces for hyphens and underscores."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())
