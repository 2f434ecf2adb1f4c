"""What the page knows of each cell: numbers, per-class accuracies, confusions, provenance. No torch."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ddbench.datasets.info import FOLDER
from ddbench.leaderboard.extra_columns import anchor_of, costs
from ddbench.leaderboard.table import FULL, RANDOM, Cell, Column, Row, Table, anchored, column, row_identity, table
from ddbench.store.costs import DistillationCost, read_cost
from ddbench.store.records import Result, RunSpec, StoredResult


@dataclass(frozen=True)
class Fact:
    """One cell with the results behind it. took: by the folder of each of its runs, what it cost.

    seconds: of a distillation, mean over the runs that say it.
    """

    row: Row
    where: Column
    cell: Cell
    entries: tuple[StoredResult, ...]
    took: Mapping[Path, DistillationCost]
    seconds: float | None


def gathered(entries: Sequence[StoredResult]) -> tuple[Table, list[Fact]]:
    """The table, and a fact for each cell that was computed in its own column."""
    board, behind = table(entries), {}
    took = {folder: read_cost(folder) for folder in dict.fromkeys(entry.folder for entry in entries)}
    seconds = costs(entries, lambda entry: took[entry.folder].seconds).seconds
    for entry in sorted(entries, key=lambda entry: (entry.spec.seed, entry.result.seed)):
        behind.setdefault((row_identity(entry), column(entry)), []).append(entry)
    facts = []
    for row in board.rows:
        for where, cell in sorted(row.cells.items()):
            key = row.identity, where
            mine = {entry.folder: took[entry.folder] for entry in behind[key]}
            facts.append(Fact(row, where, cell, tuple(behind[key]), mine, seconds.get(key)))
    return anchored(board), facts


def told(board: Table, fact: Fact) -> dict[str, Any]:
    """A fact as the page's script reads it."""
    cell, where = fact.cell, fact.where
    random, full = (anchor_of(board, name, where) for name in (RANDOM, FULL))
    return {
        "method": fact.row.label, "name": fact.row.method,
        "dataset": where.dataset, "size": where.size, "ipc": where.ipc,
        "protocol": where.protocol, "student": where.student, "init": where.init, "precision": where.precision,
        "split": where.parted, "mean": cell.mean, "std": cell.std, "n": cell.n,
        "students": cell.students, "interval": cell.half_width, "within": cell.within, "between": cell.between,
        "gain": cell.mean - random.mean if random else None,
        "share": cell.mean / full.mean if full and full.mean else None,
        "seconds": fact.seconds, "classes": _per_class(fact.entries), "confusion": _confusion(fact.entries),
        "results": [_provenance(entry) for entry in fact.entries],
    }  # fmt: skip


def _per_class(entries: Iterable[StoredResult]) -> dict[str, float]:
    """Accuracy by class, mean over students first."""
    by_set: dict[str, list[list[float]]] = {}
    names: list[str] = []
    for entry in entries:
        if not entry.result.per_class:
            continue
        names = list(entry.result.per_class)
        by_set.setdefault(entry.result.content, []).append(list(entry.result.per_class.values()))
    if not names:
        return {}
    means = np.mean([np.mean(found, axis=0) for found in by_set.values()], axis=0)
    return dict(zip(names, np.atleast_1d(means).round(4).tolist(), strict=True))


def _confusion(entries: Iterable[StoredResult]) -> list[list[int]]:
    """Counts over all results, rows true; none where results have none, or of other classes."""
    found = [np.array(entry.result.confusion) for entry in entries]
    return np.sum(found, axis=0).tolist() if len({part.shape for part in found}) == 1 and found[0].ndim == 2 else []


def _provenance(entry: StoredResult) -> dict[str, Any]:
    result = entry.result
    return {
        "seed": entry.spec.seed, "student_seed": result.seed, "overall": result.overall, "average": result.average,
        "seconds": result.seconds, "device": result.device, "versions": dict(result.versions),
        "commit": result.commit, "dirty": result.dirty, "content": result.content,
        "path": str(entry.path), "source": entry.spec.source,
        "command": command(entry.spec, result),
    }  # fmt: skip


def command(spec: RunSpec, result: Result) -> str:
    """What makes this result again, every setting said. Of what lies in a file of one's own, the file's name."""
    given = spec.method.removeprefix(FOLDER) if spec.method.startswith(FOLDER) else ""  # anybody's images
    words = ["ddbench", *(["--resize", "bilinear"] if spec.split.endswith("resized by bilinear") else [])]
    words += ["evaluate", given] if given else ["run", "--method", "FILE.py:CLASS" if spec.source else spec.method]
    words += ["--dataset", spec.dataset, "--size", str(spec.size)]
    words += ["--ipc", str(spec.ipc)] if spec.ipc and not given else []
    for name, value in ({} if given else spec.params).items():
        words += ["--set", f"{name}={_word(value)}"]
    words += [*([] if given else ["--seed", str(spec.seed)]), "--student", result.student]
    words += ["--protocol", _file_of(result.title), *(["--compiled"] if result.compiled else [])]
    words += ["--student-seeds", str(result.seed + 1)] if result.seed else []
    return shlex.join(words)


def _file_of(protocol: str) -> str:
    """A protocol as `--protocol` takes it; of one's own the name of its file, which its title has."""
    own = protocol.removeprefix("custom:")
    return protocol if own == protocol else f"{own.rpartition('-')[0]}.toml"


def _word(value: Any) -> str:
    """A setting as `--set` takes it."""
    if isinstance(value, list | tuple):
        return ",".join(map(_word, value))
    return {"True": "true", "False": "false", "None": "none"}.get(str(value), str(value))
