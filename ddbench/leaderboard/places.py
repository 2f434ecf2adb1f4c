"""The fields of a column as those of a table's rows: what two numbers share that can be compared. No torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ddbench.leaderboard.table import Column

HEADS = {"dataset": "dataset", "size": "px", "ipc": "ipc", "protocol": "protocol", "student": "student", "init": "init",
         "precision": "precision", "fingerprint": "split", "evaluators": "evaluators"}  # fmt: skip


def place_fields(columns: Collection[Column], always: Sequence[str]) -> dict[str, str]:
    """Return the fields to print, name -> head: those of `always`, and those in which the columns differ."""
    differ = [name for name in HEADS if len({place_text(column, name) for column in columns}) > 1]
    return {name: head for name, head in HEADS.items() if name in always or name in differ}


def place_text(column: Column, name: str) -> str:
    """Return a field of a column as text; of a fingerprint the beginning, "all" for the IPC of all training images."""
    value = getattr(column, name)
    if name == "ipc" and not value:
        return "all"
    return value[:8] if name == "fingerprint" else str(value)
