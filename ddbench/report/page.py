"""The page, from entries to HTML. No torch."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from ddbench import __version__
from ddbench.leaderboard.table import Table
from ddbench.report import pictures, plots
from ddbench.report.cells import Fact, gathered, told
from ddbench.store.reader import Problem
from ddbench.store.records import StoredResult

log = logging.getLogger("ddbench")

PICTURES = 7_000_000  # bytes of all pictures as they are stored in the page
LARGEST = 400_000  # of one sheet


@dataclass(frozen=True)
class Shown:
    """One distilled set: what it is, the classes in the order shown, its pictures: (what one shows, a data address)."""

    title: str
    classes: tuple[str, ...]
    pictures: list[tuple[str, str]]


def page(entries: Sequence[StoredResult], problems: Sequence[Problem], shared: Path | None = None) -> str:
    """The whole page; it needs nothing but itself.

    problems: what could not be used, or failed: named at the top. shared: where the runs' stages are, for prototypes.
    """
    from jinja2 import Environment, StrictUndefined

    board, facts = gathered(entries)
    here = files("ddbench.report")
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string((here / "page.html.j2").read_text())
    return template.render(
        facts=facts, plots=_plots(board, facts), sheets=_sheets(facts, shared), problems=problems, version=__version__,
        style=(here / "page.css").read_text(), script=(here / "page.js").read_text(),
        data=_script([told(board, fact) for fact in facts]),
    )  # fmt: skip


def _script(value: Any) -> str:
    """JSON that may stand in a script element."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")


def _plots(board: Table, facts: Sequence[Fact]) -> list[dict[str, str]]:
    """For each dataset, size, protocol and student: its title, and the drawings that there is something for."""
    found, stages = [], plots.stage_names(facts)
    for kind in plots.kinds(board):
        mine = [fact for fact in facts if fact.where.any_ipc == kind]
        where = mine[0].where
        judged = f"{where.protocol}, {where.student}, {where.init}, {where.precision}"
        found.append({
            "title": f"{where.dataset}, {where.size} px, split {where.parted}, {judged}",
            "curves": plots.curves(board, kind), "cost": plots.against_cost(mine, board.rows),
            "stages": plots.stages(mine, stages),
        })  # fmt: skip
    return found


def _sheets(facts: Sequence[Fact], shared: Path | None) -> list[Shown]:
    """One for each distilled set under a budget; those of all training images are not shown."""
    runs = {run: fact for fact in facts if fact.where.ipc for run in fact.took}
    here = {run: fact for run, fact in runs.items() if (run / "distilled").is_dir()}
    if gone := [run for run in runs if run not in here]:
        more = ", ..." * (len(gone) > 1)
        log.warning("no pictures of %d runs, whose images are not here: %s%s", len(gone), gone[0], more)
    budget = PICTURES * 3 // 4 // max(1, len(here))  # base64 makes four of three
    shown = (_shown(run, fact, shared, budget) for run, fact in here.items())
    return [one for one in shown if one]


def _shown(run: Path, fact: Fact, shared: Path | None, budget: int) -> Shown | None:
    """One set, its pictures within the budget; None where its images cannot be read."""
    made = pictures.sheet(run)
    if not made:
        return None
    image, classes = made
    stage = fact.took[run].folders.get("prototypes") if shared else None
    real = pictures.prototypes(shared / stage / "images", classes) if stage else None
    found = [
        ("the distilled images", image),
        *([("the real images it was made from (prototypes)", real)] if real else []),
        *(("where its images (black edges) lie among real ones", drawn) for drawn in pictures.maps(run)),
    ]
    each = min(LARGEST, budget // len(found))
    return Shown(_title(run, fact), classes, [(words, pictures.address(drawn, each)) for words, drawn in found])


def _title(run: Path, fact: Fact) -> str:
    seed = run.name.partition("-")[0].removeprefix("seed")
    return f"{fact.where.dataset}, {fact.where.size} px, IPC {fact.where.ipc}: {fact.row.label}, seed {seed}"
